"""Scheduled messages whose time has come are queued, at the place that they have had from the start."""

from functools import partial

from django.db import connection, transaction

from sessions_app.models import Event, EventKind, Message, Status
from sessions_app.queues import inspect
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation import older_database
from sessions_app.services import messages

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
        for name, of_session in by_session.items():
            transaction.on_commit(partial(messages.put, name, of_session))
    return len(ids)
