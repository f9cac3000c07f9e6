"""The waits between tries while a store is gone: ever longer up to a second or two, and short again once it works."""

import asyncio
import random

import pytest

from sessions_app.worker.backoff import Backoff

pytestmark = pytest.mark.fault(12)


def least(low: float, high: float) -> float:
    return low


def most(low: float, high: float) -> float:
    return high


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how long each wait would have taken."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


async def fail(backoff: Backoff, times: int) -> None:
    for _ in range(times):
        await backoff.wait(OSError("it is gone"))


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [(least, [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]), (most, [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])],
)
def test_tries_come_ever_more_seldom_up_to_every_second_or_two_and_soon_again_once_it_worked(
    drawn: object, expected: list[float], waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", drawn)
    backoff = Backoff("claiming")
    asyncio.run(fail(backoff, 7))
    assert waits == expected
    asyncio.run(fail(backoff, 2000))
    assert set(waits[7:]) == {expected[-1]}
    backoff.reset()
    waits.clear()
    asyncio.run(fail(backoff, 2))
    assert waits == expected[:2]
