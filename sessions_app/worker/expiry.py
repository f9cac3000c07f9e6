"""Queued messages whose time is over expire on time, also where nobody looks at their session's line.

The fence lets the first of a line expire that is to be sent. It does not see those that stand behind one that waits,
nor those of a session that sends nothing.
"""

import logging
import uuid
from functools import partial

from django.db import connection, transaction

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Message, Status
from sessions_app.queues import inspect, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation import older_database
from sessions_app.services import endings

log = logging.getLogger(__name__)

# Rows of one go, as for promotion.
_BATCH = 500
# What a fence or a person has in hand is theirs. The condition is that of the index.
_OVER = """
SELECT id FROM wa_message
WHERE status = 'queued' AND expires_at IS NOT NULL AND expires_at <= now()
ORDER BY expires_at LIMIT %s
FOR UPDATE SKIP LOCKED
"""


def expire() -> int:
    """End one batch of queued messages that have expired; return how many. Call again while it is not zero.

    Nothing expires in a database that is older than its Redis: what may have been sent before has to show first. So
    nothing expires either while Redis cannot say.
    Raises QueueUnavailable and database errors.
    """
    if older_database.is_older(inspect.meta(client=upkeep_client()).mark):
        return 0
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(_OVER, [_BATCH])
            ids = [row[0] for row in cursor.fetchall()]
        if not ids:
            return 0
        doubted = endings.end(ids, Status.EXPIRED)
        by_session: dict[str, list[uuid.UUID]] = {}
        # By their places in the line, in which their jobs stand.
        for name, pk in Message.objects.filter(pk__in=ids).in_order().values_list("session__name", "pk"):
            by_session.setdefault(name, []).append(pk)
        transaction.on_commit(partial(_after, by_session, doubted))
    return len(ids)


def _after(by_session: dict[str, list[uuid.UUID]], doubted: set[uuid.UUID]) -> None:
    for name, of_session in by_session.items():
        if count := len(doubted.intersection(of_session)):
            log.warning("session %s: %d messages expired that may have arrived: uncertain", name, count)
    try:
        # For all sessions together: each call costs its time-out where Redis is silent. What stood behind may go now.
        mirror.signal(by_session)
        mirror.take_out_each(by_session)
    except QueueUnavailable as error:
        count = sum(map(len, by_session.values()))
        log.warning("%d jobs of expired messages stay until reconciliation: %s", count, error)
