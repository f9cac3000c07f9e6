"""After Redis was wiped, restarted or failed over: everybody is signalled at once, the mirror is rebuilt behind it.

Order, pace and caps are in PostgreSQL and wait for nothing here. One process does it, whoever gets the lock.
"""

import logging
from collections.abc import Iterator

import redis
from django.db import connection

from sessions_app.models import OPEN, Deployment, Event, EventKind, Message, Session
from sessions_app.queues import inspect, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation.mend import mend
from sessions_app.reconciliation.replaced import settle_replaced

log = logging.getLogger(__name__)

# "waqueue rebuild" as a number: the lock under which one process at a time rebuilds.
_LOCK = 7_710_571_001
_CHUNK = 500


def rebuild(generation: str) -> int | None:
    """Put Redis right if `generation` is not the one it was last put right for.

    Returns how many messages the mirror then holds, None when there was nothing to do or another process does it.
    Raises QueueUnavailable, OtherDeployment and database errors; it may be called again after any of them.
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


def _rebuild(generation: str, *, is_first: bool) -> int:
    client = upkeep_client()
    with_open = list(
        Session.objects.alive()
        .extra(where=["EXISTS (SELECT 1 FROM wa_message m WHERE m.session_id = wa_session.id AND m.status = ANY(%s))"],
               params=[list(OPEN)])
        .order_by("pk")
    )  # fmt: skip
    mirror.signal([session.name for session in with_open], client=client)
    count = sum(rebuild_session(session, client) for session in with_open)
    # Redis may have come back with old data, also of sessions that have nothing to send any more.
    names = inspect.session_queue_names(client=client).difference(session.name for session in with_open)
    for session in Session.objects.alive().filter(name__in=[name for name in names if "\0" not in name]):
        mend(session, client)
    Deployment.objects.update(redis_generation=generation)
    if not is_first or count:
        Event.objects.create(
            kind=EventKind.QUEUES_REBUILT,
            data={"sessions": len(with_open), "messages": count, "generation": generation},
        )
        log.warning("Redis was wiped or restarted: %d messages of %d sessions were rebuilt", count, len(with_open))
    return count


def rebuild_session(session: Session, client: redis.Redis) -> int:
    """Write the mirror of one session anew, in order; return how many jobs it was written with.

    It is written beside the old list and swapped in. What was put or taken out meanwhile went into the old list, or out
    of it, and is mended after.
    """
    count = 0
    with mirror.Replacement(session.name, client) as replacement:
        for chunk in _open_messages(session):
            replacement.add(chunk)
            count += len(chunk)
        replaced = replacement.swap()
    if replaced is not None:
        settle_replaced(replaced)
    mend(session, client)
    return count


def _open_messages(session: Session) -> Iterator[list[Message]]:
    """The open messages of a session in order, in chunks, without holding a transaction open."""
    place = (-1, 0)
    while True:
        chunk = list(
            Message.objects.open()
            .filter(session=session)
            .extra(where=["(priority, seq) > (%s, %s)"], params=list(place))
            .order_by("priority", "seq")[:_CHUNK]
        )
        if not chunk:
            return
        yield chunk
        place = (chunk[-1].priority, chunk[-1].seq)
