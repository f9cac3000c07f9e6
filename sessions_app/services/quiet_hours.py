"""Silent hours as absolute times, so that the fence compares two timestamps and never thinks about time zones."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from django.db import transaction

from sessions_app.models import Session, SessionDispatch
from sessions_app.services.database_clock import database_now


def next_window(session: Session, now: datetime) -> tuple[datetime, datetime] | tuple[None, None]:
    """The quiet window of `session` that is under way at `now`, or the next one, in UTC; (None, None) without any.

    Clock times are read in the session's time zone on each day anew, so a day with a clock change is as long as it
    really is. A window whose end is not after its start ends on the next day; one that a clock change leaves out is
    left out.
    """
    start, end = session.quiet_start, session.quiet_end
    if start is None or end is None:
        return None, None
    zone = ZoneInfo(session.quiet_tz or "UTC")
    today = now.astimezone(zone).date()
    for offset in (-1, 0, 1, 2):
        day = today + timedelta(days=offset)
        last_day = day if end > start else day + timedelta(days=1)
        began = _absolute(datetime.combine(day, start, tzinfo=zone))
        # An end that the clock shows twice is the second one: when in doubt, silence.
        ends = max(_absolute(datetime.combine(last_day, end, tzinfo=zone).replace(fold=fold)) for fold in (0, 1))
        if ends > max(now, began):
            return began, ends
    raise AssertionError("a window that begins within two days was not found")


def _absolute(at: datetime) -> datetime:
    """`at` in UTC: Python reckons with two times of one zone by their wall clocks, as if clocks were never changed."""
    return at.astimezone(UTC)


def roll(session_id: int) -> bool:
    """Write the quiet window of a session that is under way, or the next one; say whether it is another one.

    If it is the same again, there is nothing new to look at: who did so at once would do nothing else any more.
    """
    with transaction.atomic():
        # Held while the session is read: whoever changes its quiet hours meanwhile writes their window after this.
        dispatch = SessionDispatch.objects.select_for_update().get(pk=session_id)
        window = next_window(Session.objects.get(pk=session_id), database_now())
        if window == (dispatch.quiet_from, dispatch.quiet_until):
            return False
        dispatch.quiet_from, dispatch.quiet_until = window
        dispatch.save(update_fields=["quiet_from", "quiet_until"])
    return True
