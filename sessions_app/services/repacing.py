"""A change of pacing: what becomes of the waits that the old one imposed.

The new ones count from where the old ones did, the last hand-over: so no change lets a message go sooner after it than
the new pacing allows, and none makes it wait longer. (A message that is in flight counts as handed over.)
"""

import random
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import F

from sessions_app.models import EventKind, InFlight, RecipientPace, Session, SessionDispatch
from sessions_app.services import quiet_hours
from sessions_app.services.database_clock import database_now
from sessions_app.services.pacing import Pacing

# A settle writes `last_sent_at` of a session without a pace no more often.
_SENT_AT_IS_BEHIND = timedelta(seconds=5)
# What a settle tells of an attempt that troubled the engine.
_HANDED_OVER = [
    EventKind.MESSAGE_SENT, EventKind.MESSAGE_RETRIED, EventKind.MESSAGE_FAILED, EventKind.MESSAGE_UNCERTAIN,
    EventKind.MESSAGE_RESENT, EventKind.MESSAGE_POISON,
]  # fmt: skip
# The waits that a pace per recipient would have left behind. What was handed over when stands in the session's events,
# newest first in an index; of these, those of the wait are read, and no more than that many. Their ids are in the order
# of time but for as long as a statement takes.
_RECIPIENTS = """
INSERT INTO wa_recipient_pace (session_id, recipient, next_send_at)
SELECT %(session)s, m.recipient, max(handed.at) + %(wait_ms)s * interval '1 ms'
FROM (
    SELECT recent.message_id, recent.created_at AS at
    FROM (
        SELECT message_id, created_at, kind, data FROM wa_event
        WHERE session_id = %(session)s AND id > coalesce((
            SELECT id FROM (
                SELECT id, created_at FROM wa_event WHERE session_id = %(session)s ORDER BY id DESC LIMIT 50000
            ) walked
            WHERE created_at < clock_timestamp() - %(wait_ms)s * interval '1 ms' - interval '1 minute'
            ORDER BY id DESC LIMIT 1
        ), 0)
        ORDER BY id DESC LIMIT 50000
    ) recent
    WHERE recent.kind = ANY(%(kinds)s) AND recent.data ? 'attempt'
      AND recent.created_at > clock_timestamp() - %(wait_ms)s * interval '1 ms'
    UNION ALL
    -- Its settle may have begun when there was no pace yet, and then leaves no wait behind.
    SELECT message_id, clock_timestamp() FROM wa_in_flight WHERE session_id = %(session)s
) handed
-- Each by itself: a join of so many would read the whole table.
CROSS JOIN LATERAL (SELECT recipient FROM wa_message WHERE id = handed.message_id LIMIT 1) m
GROUP BY m.recipient
ON CONFLICT (session_id, recipient) DO UPDATE
SET next_send_at = greatest(wa_recipient_pace.next_send_at, excluded.next_send_at)
"""


def repace(session: Session, old: Pacing) -> None:
    """Have `session` wait as its pacing asks now; `old` is what it was. Its row is held by the caller."""
    dispatch = SessionDispatch.objects.select_for_update().get(session=session)
    # Once the row is held: a settle that was under way has written what it sent.
    now = database_now()
    dispatch.quiet_from, dispatch.quiet_until = quiet_hours.next_window(session, now)
    windows = [
        (cap, count, began + period)
        for cap, count, began, period in (
            (session.hourly_cap, dispatch.hour_count, dispatch.hour_began_at, timedelta(hours=1)),
            (session.daily_cap, dispatch.day_count, dispatch.day_began_at, timedelta(days=1)),
        )
        if began is not None
    ]
    waits = [end for cap, count, end in windows if 0 < cap <= count and end > now]
    # A wait for a cap is over when that is raised, and says nothing of the pause.
    is_of_pause = old.max_interval_ms > 0 and dispatch.next_send_at not in [end for _, _, end in windows]
    pause = _pause_until(session, old, dispatch.next_send_at if is_of_pause else None, dispatch.last_sent_at, now)
    if InFlight.objects.filter(session=session, message__isnull=False).exists():
        # Its outcome may be on its way with the old pace, and is then not heard: the settle sees that another wait
        # stands here than when it began. One that begins later counts from its own end.
        pause = now + _random_wait(session)
    dispatch.next_send_at = max([*waits, pause] if pause else waits, default=None)
    dispatch.save(update_fields=["quiet_from", "quiet_until", "next_send_at"])
    _repace_recipients(session, old.per_recipient_ms)


def _pause_until(
    session: Session, old: Pacing, until: datetime | None, sent_at: datetime | None, now: datetime
) -> datetime | None:
    """When the pause after the last hand-over is over; `until` is what the old pacing said, where that is known."""
    shortest, longest = session.min_interval_ms, session.max_interval_ms
    if not longest:
        return None
    if until is not None and (shortest, longest) == (old.min_interval_ms, old.max_interval_ms):
        return min(until, now + _ms(longest))
    last = _last_hand_over(old, until, sent_at)
    return last and min(last, now) + _random_wait(session)


def _random_wait(session: Session) -> timedelta:
    return _ms(random.uniform(session.min_interval_ms, session.max_interval_ms))  # noqa: S311 (guards nothing)


def _last_hand_over(old: Pacing, until: datetime | None, sent_at: datetime | None) -> datetime | None:
    """When a message was handed over last; where that is not written anywhere, the latest that it can have been."""
    if until is not None and (sent_at is None or sent_at < until - _ms(old.max_interval_ms)):
        # The pause is too long for what was sent last: it follows an attempt that failed later.
        return until - _ms(old.min_interval_ms)
    if sent_at is not None and not (old.max_interval_ms or old.hourly_cap or old.daily_cap):
        return sent_at + _SENT_AT_IS_BEHIND
    return sent_at


def _repace_recipients(session: Session, old_ms: int) -> None:
    """Have each recipient's wait end as much later, or sooner, as the new one is longer, or shorter."""
    new_ms = session.per_recipient_ms
    rows = RecipientPace.objects.filter(session=session)
    if not new_ms or not old_ms:
        # Also when there was none until now: a row would be what an earlier one left behind.
        rows.delete()
    if new_ms and not old_ms:
        with connection.cursor() as cursor:
            cursor.execute(_RECIPIENTS, {"session": session.pk, "wait_ms": new_ms, "kinds": _HANDED_OVER})
    elif new_ms and new_ms != old_ms:
        rows.update(next_send_at=F("next_send_at") + _ms(new_ms - old_ms))


def _ms(milliseconds: float) -> timedelta:
    return timedelta(milliseconds=milliseconds)
