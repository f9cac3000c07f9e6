"""The queues of known sessions held against their rows: many short ones at once, a long one by itself in parts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import redis
from django.db import connection

from sessions_app.models import Session
from sessions_app.queues import reading
from sessions_app.reconciliation import long_queues
from sessions_app.reconciliation.difference import Difference, known_rows

# Sessions of one step, and entries of their queues in memory at once.
_SESSIONS = 500
_HELD = 50_000

# The line of each session as one text. What is too long for that is null.
_LINES = """
SELECT m.session_id, CASE WHEN count(*) <= %s THEN string_agg(m.id::text, ' ' ORDER BY m.priority, m.seq) END
FROM wa_message m WHERE m.session_id = ANY(%s) AND m.status IN ('queued', 'sending') GROUP BY m.session_id
"""


def differences(
    sessions: Sequence[Session], depths: Sequence[int], client: redis.Redis
) -> Iterator[tuple[Session, Difference]]:
    """Those of `sessions` whose queue is not what their rows say; `depths` say how long the queues are, about.

    Raises QueueUnavailable and database errors.
    """
    # Redis says which contents are there while PostgreSQL says which messages are open.
    with ThreadPoolExecutor(1, "contents") as beside:
        for part, are_long in _parts(sessions, depths):
            for session, found in _long(part, client) if are_long else _short(part, client, beside):
                if found:
                    yield session, found


def _parts(sessions: Sequence[Session], depths: Sequence[int]) -> Iterator[tuple[list[Session], bool]]:
    """Sessions whose queues together are held in memory, and whether they are too long for it."""
    part: list[Session] = []
    total = 0
    for session, depth in zip(sessions, depths, strict=True):
        if depth > _HELD:
            yield [session], True
            continue
        if part and (total + depth > _HELD or len(part) == _SESSIONS):
            yield part, False
            part, total = [], 0
        part.append(session)
        total += depth
    if part:
        yield part, False


def _long(sessions: Sequence[Session], client: redis.Redis) -> Iterator[tuple[Session, Difference]]:
    for session in sessions:
        yield session, long_queues.difference(session, client)


def _short(
    sessions: Sequence[Session], client: redis.Redis, beside: ThreadPoolExecutor
) -> Iterator[tuple[Session, Difference]]:
    # Redis first: a message settled between the two reads is still in the list, and looks final only then.
    queues = reading.queues([session.name for session in sessions], most=2 * _HELD, client=client)
    contents = beside.submit(reading.without_content, list(chain.from_iterable(filter(None, queues))), client=client)
    with connection.cursor() as cursor:
        cursor.execute(_LINES, [_HELD, [session.pk for session in sessions]])
        lines: dict[int, str | None] = dict(cursor.fetchall())
    gone = contents.result()
    for session, queue in zip(sessions, queues, strict=True):
        line = lines.get(session.pk, "")
        if queue is None:
            yield session, Difference(is_foreign=True)
        elif line is None or len(queue) > _HELD:
            # It has grown, or there are no jobs of very many messages.
            yield from _long([session], client)
        else:
            absent = gone.intersection(queue) if gone else gone
            if absent or not _is_same(queue, line.encode()):
                yield session, _moved_on(queue, line.encode(), absent) or _compare(queue, line.encode().split(), absent)


def _is_same(queue: Sequence[bytes], line: bytes) -> bool:
    # Whoever wrote an entry with a space in it has written one entry less.
    return b" ".join(queue) == line and len(queue) == (line.count(b" ") + 1 if line else 0)


def _moved_on(queue: Sequence[bytes], line: bytes, absent: set[bytes]) -> Difference | None:
    """The difference of a queue that has final jobs before its line, as while it is sent from; None for any other.

    It is found without a look at each of the jobs.
    """
    ahead = queue[: max(len(queue) - (line.count(b" ") + 1 if line else 0), 0)]
    if not _is_same(queue[len(ahead) :], line) or not absent <= set(ahead) or len(set(ahead)) < len(ahead):
        return None
    if not set(line.split()).isdisjoint(ahead) or len(known_rows(ahead)) < len(ahead):
        return None
    return Difference(final=frozenset(ahead))


def _compare(queue: Sequence[bytes], line: Sequence[bytes], gone: set[bytes]) -> Difference:
    counted = Counter(queue)
    expected = set(line)
    strangers = [job for job in counted if job not in expected]
    rows = known_rows(strangers)
    return Difference(
        missing=frozenset(expected.difference(counted)),
        final=frozenset(job for job in strangers if job in rows),
        unknown=tuple(job for job in strangers if job not in rows),
        duplicate=frozenset(job for job, count in counted.items() if count > 1),
        without_hash=frozenset(gone & expected & counted.keys()),
        is_misordered=[job for job in counted if job in expected] != [job for job in line if job in counted],
    )
