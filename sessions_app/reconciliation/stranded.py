"""Sessions with something to send that nobody would look at: a put or a signal was lost on its way to Redis."""

import logging

from django.db import connection

from sessions_app.models import Message, Session
from sessions_app.queues import inspect, mirror
from sessions_app.queues.connection import upkeep_client

log = logging.getLogger(__name__)

# The first open message of each session that may send, if it may go by now and nothing of the session is in flight.
_READY = """
SELECT s.id, s.name, head.id FROM wa_session s
JOIN wa_session_dispatch d ON d.session_id = s.id
CROSS JOIN LATERAL (
    SELECT m.id, m.next_attempt_at, m.queued_at FROM wa_message m
    WHERE m.session_id = s.id AND m.status IN ('queued', 'sending') ORDER BY m.priority, m.seq LIMIT 1
) head
WHERE s.deleted_at IS NULL AND s.desired_state = 'active'
  AND head.queued_at < clock_timestamp() - interval '5 seconds'
  AND NOT EXISTS (SELECT 1 FROM wa_in_flight f WHERE f.session_id = s.id)
ORDER BY s.id
"""


def signal_stranded() -> int:
    """Signal the sessions that have an open message and no due time, and mirror what is missing; return how many.

    Raises QueueUnavailable and database errors.
    """
    client = upkeep_client()
    with connection.cursor() as cursor:
        cursor.execute(_READY)
        ready = cursor.fetchall()
    names = [name for _, name, _ in ready]
    due = inspect.due_times(names, client=client)
    stranded = [row for row, at in zip(ready, due, strict=True) if at is None]
    for session_id, name, _ in stranded:
        session = Session.objects.get(pk=session_id)
        waiting = Message.objects.open().filter(session=session).count()
        log.warning("session %s had %d messages that nobody was looking at: signalled", name, waiting)
    mirror.signal([name for _, name, _ in stranded], client=client)
    return len(stranded)
