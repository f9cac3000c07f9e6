"""After Redis was wiped, restarted or failed over: everybody is signalled at once, the mirror is rebuilt behind it.

Order, pace and caps are in PostgreSQL and wait for nothing here. One process does it, whoever gets the lock.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence

import redis
from django.db import connection, transaction

from sessions_app.exceptions import OlderDatabase
from sessions_app.models import OPEN, Deployment, Event, EventKind, Message, Mirrored, Session, read_mirrored
from sessions_app.queues import inspect, lists, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.queues.replacement import Replacements, is_abandoned
from sessions_app.reconciliation import older_database
from sessions_app.reconciliation.difference import known_rows
from sessions_app.reconciliation.mend import mend
from sessions_app.reconciliation.mirrors import differences
from sessions_app.reconciliation.replaced import settle_replaced

log = logging.getLogger(__name__)

# "waqueue rebuild" as a number: the lock under which one process at a time rebuilds.
_LOCK = 7_710_571_001
# Sessions written together, and messages in memory at once.
_SESSIONS = 200
_CHUNK = 1000


def rebuild(generation: str) -> int | None:
    """Put Redis right if `generation` is not the one it was last put right for.

    Returns how many messages the mirror then holds, None when there was nothing to do or another process does it.
    Raises QueueUnavailable, OtherDeployment, OlderDatabase and database errors; it may be called again after any.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
        if not cursor.fetchone()[0]:
            return None
        try:
            deployment = Deployment.current()
            if deployment.redis_generation == generation:
                return None
            return _rebuild(generation, is_first=not deployment.redis_generation)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def clear_unfinished(leftovers: Iterable[bytes], client: redis.Redis) -> None:
    """Let go of lists that a rebuild has left behind, and of contents that it wrote of messages that are sent by now.

    Those are in no queue, so that nobody else would ever meet them. What is still being written stays.
    Raises QueueUnavailable and database errors.
    """
    for key in leftovers:
        while is_abandoned(key, client) and (job_ids := lists.read_raw(key, 0, client=client)):
            settled = known_rows(job_ids) - known_rows(job_ids, only_open=True)
            lists.drop_unused(key, len(job_ids), settled, client=client)


def _rebuild(generation: str, *, is_first: bool) -> int:
    client = upkeep_client()
    with_open = list(
        Session.objects.alive()
        .extra(where=["EXISTS (SELECT 1 FROM wa_message m WHERE m.session_id = wa_session.id AND m.status = ANY(%s))"],
               params=[list(OPEN)])
        .order_by("pk")
    )  # fmt: skip
    mirror.signal([session.name for session in with_open], client=client)
    count = sum(
        _write_anew(with_open[start : start + _SESSIONS], client) for start in range(0, len(with_open), _SESSIONS)
    )
    # Redis may have come back with old data, also of sessions that have nothing to send any more.
    names = inspect.session_queue_names(client=client).difference(session.name for session in with_open)
    _mend(list(Session.objects.alive().filter(name__in=[name for name in names if "\0" not in name])), client)
    is_told = not is_first or count > 0
    with transaction.atomic():
        Deployment.objects.update(redis_generation=generation)
        if is_told:
            Event.objects.create(
                kind=EventKind.QUEUES_REBUILT,
                data={"sessions": len(with_open), "messages": count, "generation": generation},
            )
    if is_told:
        log.warning("Redis was wiped or restarted: %d messages of %d sessions were rebuilt", count, len(with_open))
    return count


def rebuild_session(session: Session, client: redis.Redis) -> int:
    """Write the mirror of one session anew, in order; return how many jobs it was written with.

    Raises QueueUnavailable, OtherDeployment, OlderDatabase and database errors.
    """
    return _write_anew([session], client)


def _write_anew(sessions: Sequence[Session], client: redis.Redis) -> int:
    """Write the mirrors of sessions that stand in the order of their rows; return how many jobs there are.

    They are written beside the old lists and swapped in. What was put or taken out meanwhile went into an old list, or
    out of it, and is mended after.
    """
    # Jobs that are put before what may have been sent is uncertain would hide that it was.
    if older_database.is_older(inspect.meta(client=client).mark):
        raise OlderDatabase("the database is older than Redis: no queue is written before that is resolved")
    names = {session.pk: session.name for session in sessions}
    count = 0
    replacements = Replacements(names.values(), client)
    for messages in _open_messages(sessions):
        replacements.add([(names[message.session_id], message) for message in messages])
        count += len(messages)
    replaced = replacements.swap()
    for old in replaced:
        settle_replaced(old)
    _mend(sessions, client)
    return count


def _mend(sessions: Sequence[Session], client: redis.Redis) -> None:
    depths = inspect.depths([session.name for session in sessions], client=client)
    for session, _ in differences(sessions, depths, client):
        mend(session, client)


def _open_messages(sessions: Sequence[Session]) -> Iterator[list[Mirrored]]:
    """The open messages of sessions in order, in chunks, without holding a transaction open."""
    ids = {session.pk for session in sessions}
    # By the range of their rows: it is one walk through the index of all lines.
    line = Message.objects.open().filter(session_id__lte=max(ids)).order_by("session_id", "priority", "seq")
    place = (min(ids), -1, 0)
    while True:
        behind = line.extra(where=["(session_id, priority, seq) > (%s, %s, %s)"], params=list(place))[:_CHUNK]
        with transaction.atomic(), connection.cursor() as cursor:
            # To sort the rest of a long line for each of its chunks looks cheap to the planner, and is not.
            cursor.execute("SET LOCAL enable_incremental_sort = off")
            chunk = read_mirrored(behind)
        if not chunk:
            return
        if wanted := [message for message in chunk if message.session_id in ids]:
            yield wanted
        place = (chunk[-1].session_id, chunk[-1].priority, chunk[-1].seq)
