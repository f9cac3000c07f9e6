"""When messages will have been sent, from the same numbers by which the fence paces them."""

from datetime import datetime, timedelta

from sessions_app.models import DesiredState, Hold, Session
from sessions_app.services import quiet_hours

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
# Past a year an estimate says nothing.
_HORIZON = timedelta(days=366)


def send_time(session: Session, place: int, now: datetime) -> datetime | None:
    """When the message at `place` (1 is next) is sent; None while its session does not send, or past a year."""
    dispatch = session.dispatch
    if session.desired_state != DesiredState.ACTIVE or dispatch.hold != Hold.NONE or place < 1:
        return None
    last = now + _HORIZON
    average = timedelta(milliseconds=(session.min_interval_ms + session.max_interval_ms) / 2)
    at = _after(session, max(now, dispatch.next_send_at or now), average * (place - 1), last)
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
