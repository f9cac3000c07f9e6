"""Sessions with something to send that nobody would look at: a put or a signal was lost on its way to Redis."""

import logging

import redis
from django.db import connection

from sessions_app.models import PROBED_HOLDS, Message, Session
from sessions_app.queues import inspect, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.queues.dispatch import AGAIN_MS
from sessions_app.reconciliation import older_database
from sessions_app.reconciliation.mend import mend
from sessions_app.reconciliation.rebuild import rebuild_session

log = logging.getLogger(__name__)

# Queues mended in one go: it takes milliseconds each, and promotion waits meanwhile.
_MENDED = 500
# Jobs that a queue lacks and that are still put into it one by one.
_MANY = 1000

# A claim that is under way has pushed its session so far ahead; what is later has been forgotten there.
_LATER_MS = AGAIN_MS + 5_000

# The sessions that have waited for some seconds with an open message, that may send or have an engine to be asked, and
# have nothing in flight; with the time until they may send, by the fence's own rules, null for one that is held.
_READY = """
SELECT s.id, s.name,
       CASE WHEN d.hold = '' THEN greatest(0, ceil(1000 * extract(epoch FROM wait.until - clock.now)))::bigint END
FROM (SELECT clock_timestamp() AS now) clock
CROSS JOIN wa_session s
JOIN wa_session_dispatch d ON d.session_id = s.id
CROSS JOIN LATERAL (
    SELECT m.queued_at, m.next_attempt_at, m.recipient FROM wa_message m
    WHERE m.session_id = s.id AND m.status IN ('queued', 'sending') ORDER BY m.priority, m.seq LIMIT 1
) head
LEFT JOIN wa_recipient_pace r ON s.per_recipient_ms > 0 AND r.session_id = s.id AND r.recipient = head.recipient
CROSS JOIN LATERAL (
    SELECT greatest(head.next_attempt_at, d.next_send_at, r.next_send_at,
                    CASE WHEN d.quiet_from <= clock.now THEN d.quiet_until END) AS until
) wait
WHERE s.deleted_at IS NULL AND s.desired_state = 'active' AND (d.hold = '' OR d.hold = ANY(%s))
  -- The time of a submit is by its own host's clock: where that is ahead of this one, it tells nothing.
  AND (head.queued_at < clock.now - interval '5 seconds' OR head.queued_at > clock.now + interval '5 seconds')
  AND NOT EXISTS (SELECT 1 FROM wa_in_flight f WHERE f.session_id = s.id)
ORDER BY s.id
"""


def signal_stranded() -> int:
    """Signal the sessions with an open message that nobody looks at in time, and mend their queues; return how many.

    Raises QueueUnavailable and database errors.
    """
    client = upkeep_client()
    if older_database.is_older(inspect.meta(client=client).mark):
        # To put jobs now would hide which rows have none because they were sent.
        return 0
    stranded = stranded_sessions(client)
    waiting: dict[int, int] = {}
    for session_id, name in stranded:
        waiting[session_id] = Message.objects.open().filter(session_id=session_id).count()
        log.warning("session %s had %d messages that nobody was looking at: signalled", name, waiting[session_id])
    mirror.signal([name for _, name in stranded], client=client)
    sessions = list(Session.objects.filter(pk__in=[session_id for session_id, _ in stranded[:_MENDED]]))
    depths = inspect.depths([session.name for session in sessions], client=client)
    for session, depth in zip(sessions, depths, strict=True):
        # To look for each of many in the queue costs more than to write it anew.
        (rebuild_session if waiting[session.pk] - depth > _MANY else mend)(session, client)
    return len(stranded)


def stranded_sessions(client: redis.Redis) -> list[tuple[int, str]]:
    """Row id and name of each session that has waited with an open message and is not due, or later than it says.

    Raises QueueUnavailable and database errors.
    """
    with connection.cursor() as cursor:
        cursor.execute(_READY, [[hold.value for hold in PROBED_HOLDS]])
        ready = cursor.fetchall()
    due = inspect.due_in_ms([name for _, name, _ in ready], client=client)
    return [
        (pk, name)
        for (pk, name, wait_ms), due_ms in zip(ready, due, strict=True)
        if due_ms is None or (wait_ms is not None and due_ms > wait_ms + _LATER_MS)
    ]
