"""How much a transport that bears less than the process gets to do."""

import uuid

from sessions_app.worker.limits import TransportLimits
from sessions_app.worker.outcomes import Flight


def flight(name: str, transport: str = "waha") -> Flight:
    return Flight(
        token=1, message_id=uuid.uuid4(), session_id=1, session_name=name, transport=transport, on_uncertain="hold",
        attempts=1, max_attempts=5, has_more=True, fenced_at=0, deadline=60,
    )  # fmt: skip


def test_without_limits_there_are_none() -> None:
    limits = TransportLimits({}, {"a": flight("a")})
    assert limits.room() == limits.room_after([flight("a")]) == {}


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


def test_who_is_further_behind_waits_longer_about_as_long_as_its_turn_takes() -> None:
    limits = TransportLimits({"waha": 10}, {})
    for _ in range(100):
        limits.note("waha", 400)
    near = [limits.wait_ms("waha", 1) for _ in range(200)]
    far = [limits.wait_ms("waha", 95) for _ in range(200)]
    assert all(200 <= wait <= 601 for wait in near)
    assert all(2000 <= wait <= 5001 for wait in far)
