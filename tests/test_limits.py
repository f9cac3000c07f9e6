"""How much a transport that bears less than the process gets to do, and in which turn."""

import uuid

from sessions_app.queues.dispatch import ClaimedSession
from sessions_app.worker.limits import TransportLimits
from sessions_app.worker.outcomes import Flight
from tests.dispatch_lab import claimed


def flight(name: str, transport: str = "waha") -> Flight:
    return Flight(
        token=1, message_id=uuid.uuid4(), session_id=1, session_name=name, transport=transport, on_uncertain="hold",
        attempts=1, max_attempts=5, has_more=True, fenced_at=0, deadline=60,
    )  # fmt: skip


def parked(limits: TransportLimits, *names: str, transport: str = "waha") -> None:
    for one in claimed(*names):
        assert limits.park(transport, one)


def names(sessions: list[ClaimedSession]) -> list[str]:
    return [session.name for session in sessions]


def test_without_limits_there_are_none() -> None:
    limits = TransportLimits({}, {"a": flight("a")})
    assert limits.room() == limits.room_after([flight("a")]) == {}
    assert limits.unpark(10) == []


def test_what_is_in_flight_takes_room_from_its_own_transport_only() -> None:
    flights = {name: flight(name) for name in "abc"} | {"d": flight("d", "loopback")}
    assert TransportLimits({"waha": 5, "loopback": 1}, flights).room() == {"waha": 2, "loopback": 0}


def test_those_that_land_leave_just_their_own_places() -> None:
    flights = {name: flight(name) for name in "abc"}
    assert TransportLimits({"waha": 5}, flights).room_after([flights["a"]]) == {"waha": 1}


def test_where_too_many_are_in_flight_those_that_land_leave_less() -> None:
    flights = {name: flight(name) for name in "abcde"}
    assert TransportLimits({"waha": 4}, flights).room_after([flights["a"], flights["b"]]) == {"waha": 1}
    assert TransportLimits({"waha": 2}, flights).room_after([flights["a"]]) == {"waha": 0}
    assert TransportLimits({"waha": 2}, flights).room() == {"waha": 0}


def test_while_some_are_parked_nobody_takes_the_place_of_one_that_lands() -> None:
    flights = {name: flight(name) for name in "ab"}
    limits = TransportLimits({"waha": 2, "loopback": 5}, flights)
    parked(limits, "x")
    assert limits.room_after([flights["a"]]) == {"waha": 0, "loopback": 0}
    limits.unpark_all()
    assert limits.room_after([flights["a"]]) == {"waha": 1, "loopback": 0}


def test_who_came_first_goes_first_as_many_as_there_is_room_for() -> None:
    flights = {name: flight(name) for name in "ab"}
    limits = TransportLimits({"waha": 4}, flights)
    parked(limits, "x", "y", "z")
    assert limits.ready_count(10) == 2 and limits.ready_count(1) == 1
    assert names(limits.unpark(1)) == ["x"]
    del flights["a"]
    assert names(limits.unpark(10)) == ["y", "z"]
    assert limits.parked_count == 0


def test_one_transport_that_is_busy_keeps_no_other_waiting() -> None:
    limits = TransportLimits({"waha": 1, "loopback": 1}, {"a": flight("a")})
    parked(limits, "x")
    parked(limits, "y", transport="loopback")
    assert names(limits.unpark(10)) == ["y"]


def test_one_that_is_claimed_again_keeps_its_turn_and_goes_by_its_newest_claim() -> None:
    limits = TransportLimits({"waha": 1}, {})
    parked(limits, "x", "y")
    newer = ClaimedSession("x", "generation", 7)
    assert limits.is_parked(newer)
    assert not limits.is_parked(ClaimedSession("z", "generation", 1))
    assert limits.unpark(1) == [newer]


def test_past_a_thousand_sessions_are_not_kept() -> None:
    limits = TransportLimits({"waha": 1}, {})
    parked(limits, *(f"s{number}" for number in range(1000)))
    assert not limits.park("waha", *claimed("one more"))
    assert limits.park("waha", *claimed("s5"))
    assert len(limits.unpark_all()) == 1000
