"""Quiet hours are read on the wall clock of the session's time zone, and kept as absolute times."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, transaction

from sessions_app.models import Session, SessionDispatch
from sessions_app.services import quiet_hours, sessions
from sessions_app.services.database_clock import database_now
from sessions_app.services.pacing import Pacing
from tests.factories import ACTOR, Threads, make_session, wait_until_blocked
from tests.shifted_database import SEARCH_PATH, clocks_off_by


def quiet(start: str, end: str, tz: str = "") -> Session:
    return Session(quiet_start=time.fromisoformat(start), quiet_end=time.fromisoformat(end), quiet_tz=tz)


def quiet_until(session: Session) -> datetime | None:
    return SessionDispatch.objects.get(session=session).quiet_until


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_without_quiet_hours_there_is_no_window() -> None:
    assert quiet_hours.next_window(Session(), utc("2026-06-10 12:00")) == (None, None)
    assert quiet_hours.next_window(Session(quiet_tz="America/Lima"), utc("2026-06-10 12:00")) == (None, None)


@pytest.mark.parametrize(
    ("now", "began", "ends"),
    [
        pytest.param("2026-06-10 12:00", "2026-06-10 21:00", "2026-06-11 07:00", id="ahead"),
        pytest.param("2026-06-10 23:00", "2026-06-10 21:00", "2026-06-11 07:00", id="under way, before midnight"),
        pytest.param("2026-06-11 03:00", "2026-06-10 21:00", "2026-06-11 07:00", id="under way, after midnight"),
        pytest.param("2026-06-10 21:00", "2026-06-10 21:00", "2026-06-11 07:00", id="begins now"),
        pytest.param("2026-06-11 06:59:59", "2026-06-10 21:00", "2026-06-11 07:00", id="its last second"),
        pytest.param("2026-06-11 07:00", "2026-06-11 21:00", "2026-06-12 07:00", id="just over"),
    ],
)
def test_a_window_over_midnight_ends_on_the_next_day(now: str, began: str, ends: str) -> None:
    assert quiet_hours.next_window(quiet("21:00", "07:00"), utc(now)) == (utc(began), utc(ends))


@pytest.mark.parametrize(
    ("now", "day"),
    [("2026-06-10 09:00", 10), ("2026-06-10 14:00", 10), ("2026-06-10 15:00", 11), ("2026-06-10 23:00", 11)],
)
def test_a_window_within_a_day_is_the_one_under_way_or_the_next(now: str, day: int) -> None:
    window = quiet_hours.next_window(quiet("13:00", "15:00"), utc(now))
    assert window == (utc(f"2026-06-{day} 13:00"), utc(f"2026-06-{day} 15:00"))


def test_the_clock_of_the_sessions_own_zone_counts() -> None:
    lima = quiet("21:00", "07:00", "America/Lima")
    # 21:00 in Lima is 02:00 of the next day in UTC: the day is Lima's too.
    assert quiet_hours.next_window(lima, utc("2026-06-11 01:00")) == (utc("2026-06-11 02:00"), utc("2026-06-11 12:00"))
    assert quiet_hours.next_window(lima, utc("2026-06-11 11:59")) == (utc("2026-06-11 02:00"), utc("2026-06-11 12:00"))
    kiritimati = quiet("21:00", "07:00", "Pacific/Kiritimati")
    assert quiet_hours.next_window(kiritimati, utc("2026-06-10 16:59")) == (
        utc("2026-06-10 07:00"),
        utc("2026-06-10 17:00"),
    )


@pytest.mark.parametrize(
    ("tz", "now", "began", "ends", "hours"),
    [
        pytest.param(
            "America/Santiago", "2026-04-04 20:00", "2026-04-05 01:00", "2026-04-05 11:00", 10, id="cl autumn"
        ),
        pytest.param("America/Santiago", "2026-09-05 20:00", "2026-09-06 02:00", "2026-09-06 10:00", 8, id="cl spring"),
        pytest.param("Europe/Madrid", "2026-03-28 12:00", "2026-03-28 21:00", "2026-03-29 05:00", 8, id="es spring"),
        pytest.param("Europe/Madrid", "2026-10-24 12:00", "2026-10-24 20:00", "2026-10-25 06:00", 10, id="es autumn"),
    ],
)
def test_a_night_with_a_clock_change_is_as_long_as_it_really_is(
    tz: str, now: str, began: str, ends: str, hours: int
) -> None:
    window = quiet_hours.next_window(quiet("22:00", "07:00", tz), utc(now))
    assert window == (utc(began), utc(ends))
    assert window[0] and window[1]
    assert window[1] - window[0] == timedelta(hours=hours)


def test_a_midnight_that_santiago_skips_begins_the_window_at_the_change() -> None:
    window = quiet_hours.next_window(quiet("00:00", "06:00", "America/Santiago"), utc("2026-09-05 20:00"))
    assert window == (utc("2026-09-06 04:00"), utc("2026-09-06 09:00"))


def test_a_midnight_that_santiago_skips_ends_the_window_at_the_change() -> None:
    window = quiet_hours.next_window(quiet("20:00", "00:00", "America/Santiago"), utc("2026-09-05 20:00"))
    assert window == (utc("2026-09-06 00:00"), utc("2026-09-06 04:00"))


def test_an_end_that_the_clock_shows_twice_is_the_second_one() -> None:
    window = quiet_hours.next_window(quiet("20:00", "02:30", "Europe/Madrid"), utc("2026-10-24 12:00"))
    assert window == (utc("2026-10-24 18:00"), utc("2026-10-25 01:30"))


def test_a_start_that_the_clock_shows_twice_is_the_first_one() -> None:
    window = quiet_hours.next_window(quiet("02:30", "08:00", "Europe/Madrid"), utc("2026-10-24 12:00"))
    assert window == (utc("2026-10-25 00:30"), utc("2026-10-25 07:00"))


def test_a_window_that_a_clock_change_leaves_out_is_left_out() -> None:
    window = quiet_hours.next_window(quiet("02:30", "03:00", "Europe/Madrid"), utc("2026-03-29 00:00"))
    assert window == (utc("2026-03-30 00:30"), utc("2026-03-30 01:00"))


@pytest.mark.parametrize("tz", ["America/Santiago", "Europe/Madrid"])
@pytest.mark.parametrize(("start", "end"), [("22:00", "07:00"), ("00:00", "00:01"), ("23:30", "23:29")])
def test_at_every_hour_of_a_year_a_window_begins_before_it_ends_and_ends_later(tz: str, start: str, end: str) -> None:
    session = quiet(start, end, tz)
    hour = utc("2026-01-01 00:00")
    last = hour
    while hour.year == 2026:
        began, ends = quiet_hours.next_window(session, hour)
        assert began and ends
        assert began < ends
        assert ends > hour
        assert ends >= last
        assert began - hour < timedelta(hours=25)
        last = ends
        hour += timedelta(hours=1)


def test_a_window_is_in_utc_so_that_it_can_be_reckoned_with() -> None:
    # Python subtracts two times of one zone by their wall clocks.
    for moment in quiet_hours.next_window(quiet("21:00", "07:00", "Europe/Madrid"), utc("2026-10-24 12:00")):
        assert moment is not None
        assert moment.tzinfo is UTC


def test_now_may_be_given_in_the_sessions_own_zone() -> None:
    madrid = ZoneInfo("Europe/Madrid")
    at = utc("2026-10-25 01:15")
    session = quiet("20:00", "02:30", "Europe/Madrid")
    assert quiet_hours.next_window(session, at.astimezone(madrid)) == quiet_hours.next_window(session, at)


@pytest.mark.django_db
def test_rolling_writes_the_window_under_way_or_the_next() -> None:
    session = make_session(
        pacing=Pacing(quiet_start=time(21), quiet_end=time(7), quiet_tz="America/Lima"), name="quiet"
    )
    SessionDispatch.objects.filter(session=session).update(
        quiet_from=utc("2020-01-01 00:00"), quiet_until=utc("2020-01-01 10:00")
    )
    before = datetime.now(UTC)
    assert quiet_hours.roll(session.pk)
    dispatch = SessionDispatch.objects.get(session=session)
    assert dispatch.quiet_from and dispatch.quiet_until
    assert dispatch.quiet_until > before
    assert dispatch.quiet_from < before + timedelta(hours=24)
    lima = ZoneInfo("America/Lima")
    assert dispatch.quiet_from.astimezone(lima).time() == time(21)
    assert dispatch.quiet_until.astimezone(lima).time() == time(7)


@pytest.mark.django_db
def test_rolling_a_session_that_lost_its_quiet_hours_clears_the_window() -> None:
    session = make_session()
    SessionDispatch.objects.filter(session=session).update(
        quiet_from=utc("2020-01-01 00:00"), quiet_until=utc("2020-01-01 10:00")
    )
    assert quiet_hours.roll(session.pk)
    dispatch = SessionDispatch.objects.get(session=session)
    assert (dispatch.quiet_from, dispatch.quiet_until) == (None, None)


@pytest.mark.django_db
def test_a_new_session_has_its_window_from_the_start() -> None:
    session = make_session(pacing=Pacing(quiet_start=time(21), quiet_end=time(7)))
    assert session.dispatch.quiet_until is not None
    assert session.dispatch.quiet_until > datetime.now(UTC)


@pytest.mark.django_db
@pytest.mark.parametrize("pacing", [Pacing(), Pacing(quiet_start=time(21), quiet_end=time(7))])
def test_a_window_that_is_the_same_again_is_not_said_to_be_another(pacing: Pacing) -> None:
    session = make_session(pacing=pacing)
    assert not quiet_hours.roll(session.pk)


@pytest.fixture(params=[300, -300], ids=["ahead", "behind"])
def in_the_database(db: None, request: pytest.FixtureRequest) -> datetime:
    """What time it is in a PostgreSQL whose clock is five minutes off. It is right again when the test is undone."""
    with connection.cursor() as cursor:
        for statement in clocks_off_by(request.param):
            cursor.execute(statement)
        cursor.execute(f"SET search_path = {SEARCH_PATH}")
    now = database_now()
    assert abs((now - datetime.now(UTC)).total_seconds()) > 200
    return now


@pytest.mark.parametrize("ends", [timedelta(minutes=-1), timedelta(minutes=1)], ids=["over", "ahead"])
def test_a_window_is_over_when_it_is_so_by_the_databases_clock(in_the_database: datetime, ends: timedelta) -> None:
    until = in_the_database + ends
    hours = Pacing(quiet_start=(until - timedelta(seconds=30)).time(), quiet_end=until.time())
    expected = until if ends > timedelta(0) else until + timedelta(days=1)
    session = make_session(pacing=hours)
    assert quiet_until(session) == expected
    sessions.update(session, pacing=Pacing(), actor=ACTOR)
    assert quiet_until(session) is None
    sessions.update(session, pacing=hours, actor=ACTOR)
    assert quiet_until(session) == expected
    SessionDispatch.objects.update(quiet_from=None, quiet_until=None)
    assert quiet_hours.roll(session.pk)
    assert quiet_until(session) == expected


@pytest.mark.django_db(transaction=True)
def test_a_roll_does_not_write_over_quiet_hours_that_are_taken_away_meanwhile() -> None:
    session = make_session(pacing=Pacing(quiet_start=time(21), quiet_end=time(7)))
    SessionDispatch.objects.update(quiet_from=utc("2020-01-01 00:00"), quiet_until=utc("2020-01-01 10:00"))
    with transaction.atomic():
        sessions.update(session, pacing=Pacing(), actor=ACTOR)
        rolling = Threads([lambda: quiet_hours.roll(session.pk)])
        wait_until_blocked()
    answers = rolling.join()
    assert quiet_until(session) is None
    assert answers == [False]
