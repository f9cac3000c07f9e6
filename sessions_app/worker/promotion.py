"""Scheduled messages whose time has come are queued, at the place that they have had from the start."""

import contextlib
import logging
from functools import partial

from django.db import connection, transaction

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Event, EventKind, Message, Status
from sessions_app.queues import inspect, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation import older_database
from sessions_app.services import messages

log = logging.getLogger(__name__)

# Rows of one go: a campaign of a hundred thousand that comes due at once does not hold a transaction for long.
_BATCH = 500
_DUE = """
SELECT id FROM wa_message
WHERE status = 'scheduled' AND scheduled_at <= now()
ORDER BY scheduled_at, seq LIMIT %s
FOR UPDATE SKIP LOCKED
"""


def promote() -> int:
    """Queue one batch of scheduled messages that are due; return how many. Call again while it is not zero.

    Nothing is promoted into a database that is older than its Redis: what may have been sent before has to show first.
    Raises QueueUnavailable and database errors.
    """
    if older_database.is_older(inspect.meta(client=upkeep_client()).mark):
        return 0
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(_DUE, [_BATCH])
            ids = [row[0] for row in cursor.fetchall()]
            if not ids:
                return 0
            cursor.execute("UPDATE wa_message SET status = 'queued', queued_at = now() WHERE id = ANY(%s)", [ids])
        promoted = list(Message.objects.filter(pk__in=ids, status=Status.QUEUED).select_related("session").in_order())
        Event.objects.bulk_create(
            Event(
                kind=EventKind.MESSAGE_QUEUED,
                session_id=message.session_id,
                message_id=message.pk,
                data={"by": "schedule"},
            )
            for message in promoted
        )
        by_session: dict[str, list[Message]] = {}
        for message in promoted:
            by_session.setdefault(message.session.name, []).append(message)
        transaction.on_commit(partial(_put, by_session))
    return len(ids)


def _put(by_session: dict[str, list[Message]]) -> None:
    """Put them session by session; at the first that fails the others wait too, for each would cost its time-out."""
    names = list(by_session)
    for at, name in enumerate(names):
        if messages.put(name, by_session[name]):
            continue
        if others := names[at + 1 :]:
            left = sum(len(by_session[other]) for other in others)
            log.warning("%d messages of other sessions are kept and wait for reconciliation, too", left)
            # It may have been that one only. They are sent without their jobs, too.
            with contextlib.suppress(QueueUnavailable):
                mirror.signal(others)
        return
