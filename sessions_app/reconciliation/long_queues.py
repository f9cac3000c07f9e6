"""The queue of one session held against its rows in parts: it may be longer than memory holds."""

from collections.abc import Iterable, Iterator

import redis
from django.db import connection

from sessions_app.models import Message, Session
from sessions_app.queues import reading
from sessions_app.reconciliation.difference import Difference, uuid_of

# Entries of one part, and jobs of a kind that are named at most.
_PART = 2000
NAMED = 50_000

_PLACES = """
SELECT m.id::text, m.session_id = %s AND m.status IN ('queued', 'sending'), m.priority, m.seq
FROM wa_message m WHERE m.id = ANY(%s)
"""

Place = tuple[int, int]


def difference(session: Session, client: redis.Redis) -> Difference:
    """How a queue of any length differs from its rows. Raises QueueUnavailable and database errors."""
    queue = reading.parts(session.name, client=client)
    if queue is None:
        return Difference(is_foreign=True)
    if is_equal(session, client):
        return Difference()
    found = _Found(session)
    for part in queue:
        found.take(part, reading.without_content(part, client=client))
    # Redis first: a message settled between the two reads is still in the list, and looks final only then.
    found.look_for_missing()
    return found.difference()


def is_equal(session: Session, client: redis.Redis) -> bool:
    """Whether a queue is what its rows say, contents and all. Raises QueueUnavailable and database errors."""
    rows = lines(session)
    line: list[bytes] = []
    for part in reading.parts(session.name, client=client) or ([b"no list"],):
        while len(line) < len(part) and (more := next(rows, None)):
            line += [job for job, _ in more]
        if part != line[: len(part)] or reading.without_content(part, client=client):
            return False
        del line[: len(part)]
    return not line and next(rows, None) is None


def lines(session: Session) -> Iterator[list[tuple[bytes, Place]]]:
    """The open messages of a session in order, their ids as in the queue and their places; no transaction is held."""
    line = Message.objects.open().filter(session=session).order_by("priority", "seq")
    place: Place = (-1, 0)
    while True:
        behind = line.extra(where=["(priority, seq) > (%s, %s)"], params=list(place))
        rows = list(behind.values_list("pk", "priority", "seq")[:_PART])
        if not rows:
            return
        yield [(str(pk).encode(), (priority, seq)) for pk, priority, seq in rows]
        place = rows[-1][1:]


class _Found:
    """What is seen of a queue while its parts go by. Of each open message that has a job, only its number is kept."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: set[int] = set()
        self._last: Place = (-1, 0)
        self._is_misordered = False
        self._missing: set[bytes] = set()
        self._final: set[bytes] = set()
        self._unknown: dict[bytes, None] = {}
        self._duplicate: set[bytes] = set()
        self._without_hash: set[bytes] = set()

    def take(self, part: list[bytes], gone: set[bytes]) -> None:
        """Look at the next jobs, of which those `gone` have no content."""
        ids = {job: pk for job in part if (pk := uuid_of(job)) is not None}
        with connection.cursor() as cursor:
            cursor.execute(_PLACES, [self._session.pk, list(ids.values())])
            rows = {pk.encode(): (is_open, (priority, seq)) for pk, is_open, priority, seq in cursor.fetchall()}
        for job in part:
            is_open, place = rows.get(job, (False, (0, 0)))
            if is_open:
                self._take_open(job, place)
            elif job in self._final or job in self._unknown:
                _add(self._duplicate, [job])
            elif job in ids and str(ids[job]).encode() in rows:
                _add(self._final, [job])
            elif len(self._unknown) < NAMED:
                self._unknown[job] = None
        _add(self._without_hash, (job for job in gone if rows.get(job, (False,))[0]))

    def _take_open(self, job: bytes, place: Place) -> None:
        if place[1] in self._seen:
            _add(self._duplicate, [job])
            return
        self._seen.add(place[1])
        self._is_misordered |= place < self._last
        self._last = place

    def look_for_missing(self) -> None:
        """Look which open messages have no job."""
        for part in lines(self._session):
            _add(self._missing, (job for job, place in part if place[1] not in self._seen))

    def difference(self) -> Difference:
        """What was seen."""
        return Difference(
            missing=frozenset(self._missing),
            final=frozenset(self._final),
            unknown=tuple(self._unknown),
            duplicate=frozenset(self._duplicate),
            without_hash=frozenset(self._without_hash),
            is_misordered=self._is_misordered,
        )


def _add(named: set[bytes], jobs: Iterable[bytes]) -> None:
    for job in jobs:
        if len(named) >= NAMED:
            return
        named.add(job)
