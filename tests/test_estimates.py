"""Estimates follow the numbers by which the fence paces: pace, caps and quiet hours."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from sessions_app.models import DesiredState, Hold, Session, SessionDispatch
from sessions_app.services.estimates import send_time

NOW = datetime(2026, 6, 10, 20, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
NIGHT: dict[str, Any] = {"quiet_start": time(21), "quiet_end": time(7)}
SEVEN = datetime(2026, 6, 11, 7, 0, tzinfo=UTC)


def session(dispatch: dict[str, Any] | None = None, **fields: Any) -> Session:
    made = Session(**fields)
    SessionDispatch(session=made, **(dispatch or {}))
    return made


def test_without_a_pace_everything_goes_at_once() -> None:
    assert send_time(session(), 1, NOW) == NOW
    assert send_time(session(), 100_000, NOW) == NOW


def test_the_pace_is_the_middle_of_its_interval() -> None:
    paced = session(min_interval_ms=1000, max_interval_ms=3000)
    assert send_time(paced, 1, NOW) == NOW
    assert send_time(paced, 5, NOW) == NOW + timedelta(seconds=8)


def test_the_present_wait_comes_first() -> None:
    waiting = session({"next_send_at": NOW + timedelta(seconds=10)}, min_interval_ms=2000, max_interval_ms=2000)
    assert send_time(waiting, 1, NOW) == NOW + timedelta(seconds=10)
    assert send_time(waiting, 5, NOW) == NOW + timedelta(seconds=18)


def test_a_wait_that_is_over_does_not_count() -> None:
    waited = session({"next_send_at": NOW - timedelta(seconds=10)}, min_interval_ms=2000, max_interval_ms=2000)
    assert send_time(waited, 2, NOW) == NOW + timedelta(seconds=2)


@pytest.mark.parametrize(("place", "hours"), [(1, 0), (10, 0), (11, 1), (20, 1), (21, 2)])
def test_an_hourly_cap_sends_the_rest_in_the_hours_after(place: int, hours: int) -> None:
    assert send_time(session(hourly_cap=10), place, NOW) == NOW + hours * HOUR


@pytest.mark.parametrize(("place", "minutes"), [(1, 0), (2, 0), (3, 30), (12, 30), (13, 90)])
def test_what_was_sent_in_the_hour_under_way_counts(place: int, minutes: int) -> None:
    begun = session({"hour_began_at": NOW - timedelta(minutes=30), "hour_count": 8}, hourly_cap=10)
    assert send_time(begun, place, NOW) == NOW + timedelta(minutes=minutes)


def test_what_was_sent_in_an_hour_that_is_over_does_not_count() -> None:
    over = session({"hour_began_at": NOW - timedelta(minutes=61), "hour_count": 10}, hourly_cap=10)
    assert send_time(over, 10, NOW) == NOW


def test_of_two_caps_and_a_pace_the_slowest_counts() -> None:
    both = session(hourly_cap=10, daily_cap=15, min_interval_ms=60_000, max_interval_ms=60_000)
    assert send_time(both, 10, NOW) == NOW + timedelta(minutes=9)
    assert send_time(both, 11, NOW) == NOW + HOUR
    assert send_time(both, 16, NOW) == NOW + timedelta(days=1)


def test_the_quiet_hours_push_back_what_would_fall_into_them() -> None:
    hourly = session(min_interval_ms=3_600_000, max_interval_ms=3_600_000, **NIGHT)
    assert send_time(hourly, 1, NOW) == NOW
    assert send_time(hourly, 2, NOW) == SEVEN
    assert send_time(hourly, 3, NOW) == SEVEN + HOUR


def test_within_the_quiet_hours_everything_waits_for_their_end() -> None:
    at_night = NOW + 3 * HOUR
    assert send_time(session(**NIGHT), 1, at_night) == SEVEN
    paced = session(min_interval_ms=60_000, max_interval_ms=60_000, **NIGHT)
    assert send_time(paced, 11, at_night) == SEVEN + timedelta(minutes=10)


def test_a_wait_that_ends_in_the_quiet_hours_ends_with_them() -> None:
    assert send_time(session({"next_send_at": NOW + 3 * HOUR}, **NIGHT), 1, NOW) == SEVEN


def test_a_cap_that_opens_in_the_quiet_hours_waits_for_their_end() -> None:
    capped = session({"hour_began_at": NOW, "hour_count": 10}, hourly_cap=10, **NIGHT)
    assert send_time(capped, 1, NOW + HOUR / 2) == SEVEN


def test_what_the_first_in_the_line_waits_for_delays_all_behind_it() -> None:
    paced = session(min_interval_ms=60_000, max_interval_ms=60_000)
    assert send_time(paced, 3, NOW, line_until=NOW + HOUR / 2) == NOW + timedelta(minutes=32)
    assert send_time(paced, 3, NOW, line_until=NOW - HOUR) == NOW + timedelta(minutes=2)


def test_of_the_line_and_the_messages_own_wait_the_later_counts() -> None:
    paced = session(min_interval_ms=60_000, max_interval_ms=60_000)
    assert send_time(paced, 3, NOW, own_until=NOW + HOUR / 2) == NOW + HOUR / 2
    assert send_time(paced, 3, NOW, own_until=NOW + HOUR / 100) == NOW + timedelta(minutes=2)


def test_a_wait_of_its_own_that_ends_in_the_quiet_hours_ends_with_them() -> None:
    for wait in ("line_until", "own_until"):
        assert send_time(session(**NIGHT), 1, NOW, **{wait: NOW + 3 * HOUR}) == SEVEN


def test_several_nights_are_skipped_each() -> None:
    # 14 waking hours a day: the 30th message falls two nights later.
    hourly = session(min_interval_ms=3_600_000, max_interval_ms=3_600_000, **NIGHT)
    assert send_time(hourly, 31, NOW) == datetime(2026, 6, 13, 8, 0, tzinfo=UTC)


def test_a_night_with_a_clock_change_is_as_long_as_it_is() -> None:
    before = datetime(2026, 10, 24, 18, 0, tzinfo=UTC)
    paced = session(
        min_interval_ms=9_000_000, max_interval_ms=9_000_000,
        quiet_start=time(22), quiet_end=time(7), quiet_tz="Europe/Madrid",
    )  # fmt: skip
    # Two hours before the night, half an hour after it; it ends at 07:00 of winter, 06:00 in UTC.
    assert send_time(paced, 2, before) == datetime(2026, 10, 25, 6, 30, tzinfo=UTC)


@pytest.mark.parametrize("state", [DesiredState.PAUSED, DesiredState.STOPPED])
def test_there_is_no_estimate_while_the_session_does_not_send(state: DesiredState) -> None:
    assert send_time(session(desired_state=state), 1, NOW) is None


@pytest.mark.parametrize("why", [why for why in Hold if why])
def test_there_is_no_estimate_while_the_session_is_held(why: Hold) -> None:
    assert send_time(session({"hold": why}), 1, NOW) is None


def test_there_is_no_estimate_for_what_stands_in_no_line() -> None:
    assert send_time(session(), 0, NOW) is None


def test_past_a_year_an_estimate_says_nothing() -> None:
    assert send_time(session(daily_cap=1), 366, NOW) == NOW + timedelta(days=365)
    assert send_time(session(daily_cap=1), 1000, NOW) is None
    hourly = session(min_interval_ms=3_600_000, max_interval_ms=3_600_000, **NIGHT)
    assert send_time(hourly, 14 * 400, NOW) is None
