"""How many outcomes are written in one commit: many where that is the rate, few where sessions wait for it."""

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from sessions_app.exceptions import RetryableError
from sessions_app.models import OnUncertain, Outcome
from sessions_app.transports.base import Outgoing
from sessions_app.transports.loopback import LoopbackTransport
from sessions_app.worker import clock
from sessions_app.worker.landing import Landing
from sessions_app.worker.outcomes import Flight, accepted
from sessions_app.worker.sender import Sender

QUICK, SLOW = 0.005, 0.2


def flight(number: int = 1, engine_seconds: float = 0.0) -> Flight:
    now = clock.now()
    return Flight(
        token=number, message_id=uuid.uuid4(), session_id=number, session_name=f"s{number}", transport="slow",
        on_uncertain=OnUncertain.HOLD, attempts=1, max_attempts=5, has_more=True, fenced_at=now, deadline=now + 5,
        engine_seconds=engine_seconds,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("waiting", "engine_seconds", "written"),
    [
        (0, 0, 0),
        (1, QUICK, 1),
        (200, QUICK, 100),
        (250, QUICK, 250),
        (999, QUICK, 500),
        (1, SLOW, 1),
        (41, SLOW, 40),
        (999, SLOW, 40),
        # No wave of answers any more, but a backlog.
        (1000, SLOW, 500),
    ],
)
def test_the_answers_of_a_slow_engine_are_written_a_few_at_a_time(
    waiting: int, engine_seconds: float, written: int
) -> None:
    onward: Any = SimpleNamespace(worker=uuid.uuid4())
    landing = Landing(onward, {}, onward)
    landing.add(accepted(flight(number, engine_seconds), "x") for number in range(waiting))
    assert len(landing._take_batch()) == written
    assert len(landing._results) == waiting - written


class Refusing(LoopbackTransport):
    """Takes its time, and accepts every second message."""

    name: ClassVar[str] = "slow"
    asked = 0

    async def open(self) -> None:
        """Nothing to open."""

    async def send(self, outgoing: Outgoing) -> str:
        """Sleep, then answer."""
        self.asked += 1
        await asyncio.sleep(0.05)
        if self.asked % 2:
            return "x"
        raise RetryableError("later")


def test_how_long_an_engine_takes_is_known_whatever_it_answers() -> None:
    async def act() -> list[tuple[Outcome, bool]]:
        sender = Sender()
        sender._transports["slow"] = Refusing()
        settled = [await sender.send(flight()) for _ in range(2)]
        return [(one.outcome, 0.05 <= one.flight.engine_seconds < 5) for one in settled]

    assert asyncio.run(act()) == [(Outcome.SENT, True), (Outcome.RETRY, True)]
