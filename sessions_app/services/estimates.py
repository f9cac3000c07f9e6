"""When messages go at the earliest, from the same numbers by which the fence paces them.

As things stand: what is retried, cancelled or put before them later is not known. The wait between two messages counts
with the middle of its interval; the waits per recipient with those of the last 200 messages, which is a lower bound.
"""

from datetime import datetime, timedelta

from sessions_app.models import DesiredState, Hold, Message, Session, line
from sessions_app.models.message import Ahead
from sessions_app.services import quiet_hours

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
# Past a year an estimate says nothing.
_HORIZON = timedelta(days=366)


def message_time(message: Message, ahead: Ahead, now: datetime) -> datetime | None:
    """When a message in a line is sent, behind what stands `ahead`; None as for `send_time`."""
    session = message.session
    own = message.next_attempt_at
    if session.per_recipient_ms and _is_serving(session):
        waits = (own, line.recipients_until(message, session.per_recipient_ms, now))
        own = max((at for at in waits if at), default=None)
    return send_time(session, ahead.count + 1, now, line_until=ahead.until, own_until=own)


def send_time(
    session: Session,
    place: int,
    now: datetime,
    *,
    line_until: datetime | None = None,
    own_until: datetime | None = None,
) -> datetime | None:
    """When the message at `place` (1 is next) is sent; None while its session does not send, or past a year.

    The first in the line waits until `line_until`, and all behind it; the message itself until `own_until`.
    """
    if not _is_serving(session) or place < 1:
        return None
    dispatch = session.dispatch
    last = now + _HORIZON
    average = timedelta(milliseconds=(session.min_interval_ms + session.max_interval_ms) / 2)
    start = max(now, dispatch.next_send_at or now, line_until or now)
    at = max(_after(session, start, average * (place - 1), last), own_until or now)
    for cap, period, used, began in (
        (session.hourly_cap, _HOUR, dispatch.hour_count, dispatch.hour_began_at),
        (session.daily_cap, _DAY, dispatch.day_count, dispatch.day_began_at),
    ):
        if cap:
            is_open = began is not None and began + period > now
            ahead = place - 1 + (used if is_open else 0)
            at = max(at, (began if is_open and began is not None else now) + period * (ahead // cap))
    at = _after(session, at, timedelta(0), last)
    return at if at <= last else None


def _is_serving(session: Session) -> bool:
    return session.desired_state == DesiredState.ACTIVE and session.dispatch.hold == Hold.NONE


def _after(session: Session, start: datetime, work: timedelta, last: datetime) -> datetime:
    """When `work` that begins at `start` and rests in the quiet hours is done; something past `last` if past that."""
    at = start
    while session.has_quiet_hours and at + work <= last:
        began, ends = quiet_hours.next_window(session, at)
        if began is None or ends is None or at + work < began:
            break
        work -= max(began - at, timedelta(0))
        at = ends
    return at + work
