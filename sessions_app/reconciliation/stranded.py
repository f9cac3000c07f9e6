"""Sessions with something to send that nobody would look at: a put or a signal was lost on its way to Redis."""

import logging

import redis
from django.db import connection

from sessions_app.models import PROBED_HOLDS, Message, Session
from sessions_app.queues import inspect, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation import older_database
from sessions_app.reconciliation.mend import mend

log = logging.getLogger(__name__)

# Queues mended in one go: it takes milliseconds each, and promotion waits meanwhile.
_MENDED = 500

# The sessions that have waited for some seconds with an open message, that may send or have an engine to be asked, and
# have nothing in flight. How long the message has to wait is the fence's to say, and then the session has a due time.
_READY = """
SELECT s.id, s.name FROM wa_session s
JOIN wa_session_dispatch d ON d.session_id = s.id
CROSS JOIN LATERAL (
    SELECT m.queued_at FROM wa_message m
    WHERE m.session_id = s.id AND m.status IN ('queued', 'sending') ORDER BY m.priority, m.seq LIMIT 1
) head
WHERE s.deleted_at IS NULL AND s.desired_state = 'active' AND (d.hold = '' OR d.hold = ANY(%s))
  AND head.queued_at < clock_timestamp() - interval '5 seconds'
  AND NOT EXISTS (SELECT 1 FROM wa_in_flight f WHERE f.session_id = s.id)
ORDER BY s.id
"""


def signal_stranded() -> int:
    """Signal the sessions that have an open message and no due time, and mend their queues; return how many.

    Raises QueueUnavailable and database errors.
    """
    client = upkeep_client()
    if older_database.is_older(inspect.meta(client=client).mark):
        # To put jobs now would hide which rows have none because they were sent.
        return 0
    stranded = stranded_sessions(client)
    for session_id, name in stranded:
        waiting = Message.objects.open().filter(session_id=session_id).count()
        log.warning("session %s had %d messages that nobody was looking at: signalled", name, waiting)
    mirror.signal([name for _, name in stranded], client=client)
    for session in Session.objects.filter(pk__in=[session_id for session_id, _ in stranded[:_MENDED]]):
        mend(session, client)
    return len(stranded)


def stranded_sessions(client: redis.Redis) -> list[tuple[int, str]]:
    """Row id and name of each session that has waited with an open message and has no due time.

    Raises QueueUnavailable and database errors.
    """
    with connection.cursor() as cursor:
        cursor.execute(_READY, [[hold.value for hold in PROBED_HOLDS]])
        ready = cursor.fetchall()
    due = inspect.due_times([name for _, name in ready], client=client)
    return [row for row, at in zip(ready, due, strict=True) if at is None]
