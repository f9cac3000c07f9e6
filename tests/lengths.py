"""How long, and how many: `make faults` has the lengths of its table, other runs what shows the same sooner."""

import os

_IS_FULL = os.environ.get("WAQUEUE_TEST_FULL_LENGTH") == "1"


def outage_s(short: float) -> float:
    """How many seconds a server is away: a minute at full length."""
    return 60.0 if _IS_FULL else short


def freeze_s(short: float) -> float:
    """How many seconds a worker is frozen: two minutes at full length."""
    return 120.0 if _IS_FULL else short


def how_many(few: int, *, full: int) -> int:
    """How many there are of something: `full` at full length."""
    return full if _IS_FULL else few
