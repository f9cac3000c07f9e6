"""Pacing says which of its fields do not fit, by the names that the API uses."""

from datetime import time
from typing import Any

import pytest

from sessions_app.exceptions import InvalidInput
from sessions_app.models import Session
from sessions_app.services.pacing import Pacing

DAY_MS = 24 * 3600 * 1000
NIGHT: dict[str, Any] = {"quiet_start": time(21), "quiet_end": time(7), "quiet_tz": "America/Lima"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"min_interval_ms": 1000, "max_interval_ms": 1000},
        {"min_interval_ms": 1000, "max_interval_ms": 3000, "per_recipient_ms": 60_000},
        {"min_interval_ms": DAY_MS, "max_interval_ms": DAY_MS, "per_recipient_ms": DAY_MS},
        {"hourly_cap": 1, "daily_cap": 1_000_000},
        NIGHT,
        {"quiet_start": time(9), "quiet_end": time(10)},
        {"quiet_tz": "Europe/Madrid"},
    ],
)
def test_what_fits_has_no_problems(fields: dict[str, Any]) -> None:
    assert Pacing(**fields).problems() == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"min_interval_ms": -1}, ["pacing.min_interval_ms"]),
        ({"min_interval_ms": 0, "max_interval_ms": -1}, ["pacing.max_interval_ms", "pacing.max_interval_ms"]),
        ({"max_interval_ms": DAY_MS + 1}, ["pacing.max_interval_ms"]),
        ({"per_recipient_ms": -1}, ["pacing.per_recipient_ms"]),
        ({"per_recipient_ms": DAY_MS + 1}, ["pacing.per_recipient_ms"]),
        ({"min_interval_ms": 2, "max_interval_ms": 1}, ["pacing.max_interval_ms"]),
        ({"hourly_cap": -1}, ["pacing.hourly_cap"]),
        ({"daily_cap": 1_000_001}, ["pacing.daily_cap"]),
        ({"quiet_start": time(21)}, ["pacing.quiet_hours"]),
        ({"quiet_end": time(7)}, ["pacing.quiet_hours"]),
        ({"quiet_start": time(7), "quiet_end": time(7)}, ["pacing.quiet_hours"]),
        (NIGHT | {"quiet_tz": "Lima"}, ["pacing.quiet_hours.tz"]),
        (NIGHT | {"quiet_tz": "../../etc/passwd"}, ["pacing.quiet_hours.tz"]),
        (NIGHT | {"quiet_tz": "/etc/passwd"}, ["pacing.quiet_hours.tz"]),
        (NIGHT | {"quiet_tz": "America"}, ["pacing.quiet_hours.tz"]),
        (NIGHT | {"quiet_tz": "a" * 5000}, ["pacing.quiet_hours.tz"]),
        (NIGHT | {"quiet_tz": "Europe/Madrid\x00"}, ["pacing.quiet_hours.tz"]),
        ({"hourly_cap": -1, "daily_cap": -1}, ["pacing.hourly_cap", "pacing.daily_cap"]),
    ],
)
def test_what_does_not_fit_is_named(fields: dict[str, Any], named: list[str]) -> None:
    problems = Pacing(**fields).problems()
    assert [problem["field"] for problem in problems] == named
    assert all(problem["message"] for problem in problems)


def test_applying_what_does_not_fit_changes_nothing() -> None:
    session = Session(hourly_cap=7)
    with pytest.raises(InvalidInput) as caught:
        Pacing(hourly_cap=9, daily_cap=-1).apply(session)
    assert [error["field"] for error in caught.value.errors] == ["pacing.daily_cap"]
    assert session.hourly_cap == 7


def test_what_is_applied_can_be_read_back() -> None:
    pacing = Pacing(
        min_interval_ms=1, max_interval_ms=2, per_recipient_ms=3, hourly_cap=4, daily_cap=5,
        quiet_start=time(21), quiet_end=time(7), quiet_tz="America/Lima",
    )  # fmt: skip
    session = Session()
    pacing.apply(session)
    assert Pacing.of(session) == pacing
    assert Pacing.of(Session()) == Pacing()
