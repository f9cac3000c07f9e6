"""Silent hours as absolute times, so that the fence compares two timestamps and never thinks about time zones."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.utils import timezone

from sessions_app.models import Session, SessionDispatch


def next_window(session: Session, now: datetime) -> tuple[datetime, datetime] | tuple[None, None]:
    """The quiet window of `session` that is under way at `now`, or the next one; (None, None) without quiet hours.

    Clock times are read in the session's time zone on each day anew, so a day with a clock change is as long as it
    really is. A window whose end is not after its start ends on the next day.
    """
    start, end = session.quiet_start, session.quiet_end
    if start is None or end is None:
        return None, None
    zone = ZoneInfo(session.quiet_tz or "UTC")
    today = now.astimezone(zone).date()
    for offset in (-1, 0, 1, 2):
        day = today + timedelta(days=offset)
        began = datetime.combine(day, start, tzinfo=zone)
        last_day = day if end > start else day + timedelta(days=1)
        ends = datetime.combine(last_day, end, tzinfo=zone)
        if ends > now:
            return began, ends
    raise AssertionError("a window that begins within two days was not found")


def roll(session_id: int) -> None:
    """Write the quiet window of a session that is under way, or the next one."""
    session = Session.objects.get(pk=session_id)
    quiet_from, quiet_until = next_window(session, timezone.now())
    SessionDispatch.objects.filter(session=session).update(quiet_from=quiet_from, quiet_until=quiet_until)
