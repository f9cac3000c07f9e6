"""The queues of known sessions held against their rows."""

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import redis
from django.db import connection
from redis.exceptions import RedisError, ResponseError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Message, Session
from sessions_app.queues import inspect, keys, lists

# Sessions of one step, entries of their queues in memory at once, and entries of one read.
SESSIONS = 200
_HELD = 50_000
_ENTRIES = 2000

_LINES = """
SELECT m.session_id, array_agg(m.id::text ORDER BY m.priority, m.seq)
FROM wa_message m WHERE m.session_id = ANY(%s) AND m.status IN ('queued', 'sending') GROUP BY m.session_id
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """How the queue of a session differs from its rows. Empty fields are right."""

    missing: frozenset[bytes] = frozenset()
    final: frozenset[bytes] = frozenset()
    unknown: tuple[bytes, ...] = ()
    duplicate: frozenset[bytes] = frozenset()
    without_hash: frozenset[bytes] = frozenset()
    is_misordered: bool = False
    is_foreign: bool = False

    def both(self, later: "Difference") -> "Difference":
        """What is different in both looks: a put or a settle on its way is only in one."""
        unknown = set(later.unknown)
        return Difference(
            self.missing & later.missing,
            self.final & later.final,
            tuple(job for job in self.unknown if job in unknown),
            self.duplicate & later.duplicate,
            self.without_hash & later.without_hash,
            self.is_misordered and later.is_misordered,
            self.is_foreign and later.is_foreign,
        )

    def __bool__(self) -> bool:
        return self != Difference()


def differences(sessions: Sequence[Session], client: redis.Redis) -> Iterator[tuple[Session, Difference]]:
    """Those of `sessions` whose queue is not what their rows say. Raises QueueUnavailable and database errors."""
    for part in _parts(sessions, client):
        if len(part) == 1 and _is_equal(part[0], client):
            continue
        # Redis first: a message settled between the two reads is still in the list, and looks final only then.
        queues = _queues(part, client)
        with connection.cursor() as cursor:
            cursor.execute(_LINES, [[session.pk for session in part]])
            lines = {pk: [job.encode() for job in ids] for pk, ids in cursor.fetchall()}
        for session, queue in zip(part, queues, strict=True):
            line = lines.get(session.pk, [])
            if queue is None:
                yield session, Difference(is_foreign=True)
            elif difference := _compare(session, queue, line, client):
                yield session, difference


def _parts(sessions: Sequence[Session], client: redis.Redis) -> Iterator[list[Session]]:
    """Sessions whose queues together are held in memory; a long one by itself."""
    part: list[Session] = []
    total = 0
    for start in range(0, len(sessions), SESSIONS):
        some = sessions[start : start + SESSIONS]
        for session, depth in zip(some, inspect.depths([one.name for one in some], client=client), strict=True):
            if part and (total + depth > _HELD or len(part) == SESSIONS):
                yield part
                part, total = [], 0
            part.append(session)
            total += depth
    if part:
        yield part


def _is_equal(session: Session, client: redis.Redis) -> bool:
    """Whether a queue is what its rows say, seen without holding all of it."""
    line = (
        Message.objects.open().filter(session=session).order_by("priority", "seq").values_list("priority", "seq", "pk")
    )
    key = keys.queue_key(session.name).encode()
    start, place = 0, (-1, 0)
    while True:
        # A key that is no list is for the other comparison to say.
        queue = lists.read_raw(key, start, _ENTRIES, client=client) if lists.length(key, client=client) else []
        rows = list(line.extra(where=["(priority, seq) > (%s, %s)"], params=list(place))[: max(len(queue), 1)])
        if queue != [str(pk).encode() for _, _, pk in rows] or _without_hash(queue, client):
            return False
        if not queue:
            return True
        start, place = start + len(queue), rows[-1][:2]


def _compare(session: Session, queue: list[bytes], line: list[bytes], client: redis.Redis) -> Difference | None:
    without_hash = _without_hash(queue, client)
    if queue == line and not without_hash:
        return None
    counted = Counter(queue)
    expected = set(line)
    strangers = [job for job in counted if job not in expected]
    rows = known_rows(strangers)
    final = frozenset(job for job in strangers if job in rows)
    difference = Difference(
        missing=frozenset(expected.difference(counted)),
        final=final,
        unknown=tuple(job for job in strangers if job not in rows),
        duplicate=frozenset(job for job, count in counted.items() if count > 1),
        without_hash=frozenset(without_hash & expected),
        is_misordered=[job for job in dict.fromkeys(queue) if job in expected]
        != [job for job in line if job in counted],
    )
    return difference or None


def known_rows(job_ids: Sequence[bytes], *, only_open: bool = False) -> set[bytes]:
    """Those of `job_ids` for which PostgreSQL has a message, or one that is open."""
    messages = Message.objects.open() if only_open else Message.objects.all()
    ids: dict[uuid.UUID, bytes] = {}
    for job in job_ids:
        try:
            ids[uuid.UUID(job.decode())] = job
        except ValueError:
            continue
    found: set[bytes] = set()
    pks = list(ids)
    for start in range(0, len(pks), 5000):
        rows = messages.filter(pk__in=pks[start : start + 5000]).values_list("pk", flat=True)
        found |= {ids[pk] for pk in rows}
    return found


def _queues(sessions: Sequence[Session], client: redis.Redis) -> list[list[bytes] | None]:
    """The lists of these sessions, read in parts; None for a key that is no list."""
    found: list[list[bytes] | None] = [[] for _ in sessions]
    pending = list(range(len(sessions)))
    start = 0
    try:
        while pending:
            with client.pipeline(transaction=False) as pipe:
                for at in pending:
                    pipe.lrange(keys.queue_key(sessions[at].name), start, start + _ENTRIES - 1)
                replies = pipe.execute(raise_on_error=False)
            unfinished = []
            for at, reply in zip(pending, replies, strict=True):
                if isinstance(reply, ResponseError):
                    found[at] = None
                    continue
                if isinstance(reply, Exception):
                    raise reply
                found[at] += reply
                if len(reply) == _ENTRIES:
                    unfinished.append(at)
            pending, start = unfinished, start + _ENTRIES
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    return found


def _without_hash(queue: list[bytes], client: redis.Redis) -> set[bytes]:
    prefix = keys.RQ_JOB_PREFIX.encode()
    gone: set[bytes] = set()
    try:
        for start in range(0, len(queue), _ENTRIES):
            part = queue[start : start + _ENTRIES]
            if client.exists(*(prefix + job for job in part)) == len(part):
                continue
            with client.pipeline(transaction=False) as pipe:
                for job in part:
                    pipe.exists(prefix + job)
                gone |= {job for job, exists in zip(part, pipe.execute(), strict=True) if not exists}
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    return gone
