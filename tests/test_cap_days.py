"""A cap's day is 24 hours, also for a connection in whose time zone it has 23 or 25."""

import asyncio
from datetime import timedelta

import pytest
from django.utils import timezone

from sessions_app.models import SessionDispatch
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from sessions_app.worker.outcomes import accepted
from tests.dispatch_lab import session_with, workers
from tests.factories import ACTOR

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(hours=24)
HALF = timedelta(hours=12)
MINUTE = timedelta(minutes=1)
PACED = Pacing(min_interval_ms=60_000, max_interval_ms=60_000, daily_cap=1)


def zone(change_in: timedelta, day_hours: int) -> str:
    """A time zone that changes its clocks at that time from now, so that the day around it has so many hours."""
    near = timezone.now() + change_in
    far = near - 60 * DAY
    begins, ends = (near, far) if day_hours == 23 else (far, near)
    # By the day of the year from 0, and the hour of the clock that is in force; that of the summer is an hour ahead.
    return "AAA0BBB" + "".join(
        f",{at.timetuple().tm_yday - 1}/{at.hour + ahead}" for at, ahead in ((begins, 0), (ends, 1))
    )


def send(change_in: timedelta, day_hours: int) -> SessionDispatch:
    """Hand one message over, settled where the clocks change so; return what dispatch then knows."""

    async def act() -> None:
        async with workers(1) as (worker,):
            await worker.execute("SELECT set_config('TimeZone', %s, false)", [zone(change_in, day_hours)])
            day = f"now() {'+' if change_in > timedelta(0) else '-'} interval '1 day' - now()"
            assert await worker.execute(f"SELECT abs(extract(epoch FROM {day})) / 3600") == [(day_hours,)]
            await worker.settle(accepted(await worker.fence_one(), "id"))

    asyncio.run(act())
    return SessionDispatch.objects.get()


both = pytest.mark.parametrize("day_hours", [23, 25])


@both
def test_a_full_days_cap_waits_for_24_hours_across_a_change_of_clocks(day_hours: int) -> None:
    session_with("one", "two", pacing=PACED)
    dispatch = send(HALF, day_hours)
    assert dispatch.next_send_at is not None and dispatch.day_began_at is not None
    assert dispatch.next_send_at - dispatch.day_began_at == DAY


@both
def test_a_days_window_is_over_after_24_hours_across_a_change_of_clocks(day_hours: int) -> None:
    session_with("one", "two", "three", pacing=Pacing(daily_cap=9))
    for age, count in ((DAY - MINUTE, 6), (DAY + MINUTE, 1)):
        SessionDispatch.objects.update(day_began_at=timezone.now() - age, day_count=5)
        assert send(-HALF, day_hours).day_count == count


@both
def test_a_cap_that_is_raised_is_known_for_one_across_a_change_of_clocks(day_hours: int) -> None:
    session, _ = session_with("one", "two", pacing=PACED)
    last = send(HALF, day_hours).last_sent_at
    sessions.update(session, actor=ACTOR, pacing=Pacing(min_interval_ms=60_000, max_interval_ms=60_000))
    until = SessionDispatch.objects.get().next_send_at
    assert last is not None and until == last + MINUTE
