"""Sessions that go on with their next message in the commit that writes the last outcome."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import pytest

from sessions_app.models import Attempt, InFlight, Message
from sessions_app.queues.dispatch import ClaimedSession
from sessions_app.worker import landing as landing_module
from sessions_app.worker.dispatcher import Dispatcher
from sessions_app.worker.outcomes import Settlement
from tests.dispatch_lab import LabWorker, make_dispatcher, session_with, workers
from tests.processes import until

pytestmark = pytest.mark.django_db(transaction=True)

T = TypeVar("T")


class Going:
    """A dispatcher whose first claim is done, with the first message of session `s` just sent."""

    def __init__(self, loop: Dispatcher) -> None:
        self.loop = loop

    async def first(self) -> Settlement:
        await self.loop._fence([ClaimedSession("s", "generation", 1, time.monotonic())])
        await self.loop.drain(5)
        (sent,) = self.loop.landing._take_batch()
        return sent

    async def land(self, sent: Settlement) -> bool:
        """Whether it was written together with the next fence."""
        landing = self.loop.landing
        going = landing._going([sent])
        return bool(going) and await landing._write_and_go_on(landing.stores[0], [sent], going)


def go_on(*texts: str, act: Callable[[Going, LabWorker], Awaitable[T]]) -> T:
    session_with(*texts)

    async def run() -> T:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            try:
                return await act(Going(loop), own)
            finally:
                await loop.drain(5)
                await loop.close()

    return asyncio.run(run())


def test_a_session_goes_on_in_the_commit_that_writes_its_outcome() -> None:
    async def act(going: Going, own: LabWorker) -> set[str]:
        assert await going.land(await going.first())
        return set(going.loop.flights)

    assert go_on("one", "two", "three", act=act) == {"s"}
    assert list(Message.objects.order_by("seq").values_list("status", flat=True)) == ["sent", "sending", "queued"]
    assert Attempt.objects.count() == 2


def test_one_whose_line_is_empty_or_that_was_claimed_long_ago_is_given_back() -> None:
    async def act(going: Going, own: LabWorker) -> tuple[bool, bool]:
        sent = await going.first()
        sent.flight.has_more = False
        is_empty = await going.land(sent)
        sent.flight.has_more = True
        sent.flight.claimed = ClaimedSession("s", "generation", 1, time.monotonic() - 2)
        return is_empty, await going.land(sent)

    assert go_on("one", "two", act=act) == (False, False)


def test_while_another_session_is_due_or_the_worker_stops_none_goes_on() -> None:
    async def act(going: Going, own: LabWorker) -> list[bool]:
        sent = await going.first()
        loop, found = going.loop, []
        for name in ("_others_wait", "is_suspended"):
            setattr(loop, name, True)
            found.append(await going.land(sent))
            setattr(loop, name, False)
        loop.stop()
        return [*found, await going.land(sent)]

    assert go_on("one", "two", act=act) == [False, False, False]


def test_a_message_that_somebody_has_locked_does_not_keep_the_outcome_before_it_from_being_written() -> None:
    async def act(going: Going, own: LabWorker) -> bool:
        sent = await going.first()
        await own.execute("BEGIN")
        await own.execute("SELECT 1 FROM wa_message WHERE seq = 2 FOR UPDATE")
        went_on = await going.land(sent)
        await own.execute("ROLLBACK")
        return went_on

    assert go_on("one", "two", act=act)
    assert list(Message.objects.order_by("seq").values_list("status", flat=True)) == ["sent", "queued"]
    assert not InFlight.objects.exists()


@pytest.mark.fault(33)
def test_what_went_on_in_a_commit_that_was_not_answered_is_put_back_and_nothing_goes_on_until_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = landing_module.settle_and_fence

    async def committed_but_unanswered(*args: Any) -> Any:
        await real(*args)
        raise psycopg.OperationalError("the answer to the commit was lost")

    async def act(going: Going, own: LabWorker) -> list[str]:
        sent = await going.first()
        monkeypatch.setattr(landing_module, "settle_and_fence", committed_but_unanswered)
        assert not await going.land(sent)
        monkeypatch.setattr(landing_module, "settle_and_fence", real)
        assert not going.loop.may_go_on(sent.flight)
        # Written again by token, which changes nothing.
        landing = going.loop.landing
        landing._after(await landing._write(landing.stores[0], [sent]))
        assert not going.loop.flights
        await going.loop.doubts.return_unanswered()
        returned = landing._take_batch()
        landing._after(await landing._write(landing.stores[0], returned))
        return [str(one.outcome) for one in returned]

    assert go_on("one", "two", act=act) == ["returned"]
    assert list(Message.objects.order_by("seq").values_list("status", "attempts")) == [("sent", 1), ("queued", 0)]
    assert not InFlight.objects.exists()


def test_a_drain_waits_for_sessions_that_are_going_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = landing_module.settle_and_fence
    answered = asyncio.Event()

    async def slow(*args: Any) -> Any:
        written = await real(*args)
        await answered.wait()
        return written

    async def act(going: Going, own: LabWorker) -> tuple[bool, list[Any]]:
        sent = await going.first()
        monkeypatch.setattr(landing_module, "settle_and_fence", slow)
        landing = asyncio.create_task(going.land(sent))
        await until(lambda: going.loop.landing._going_count, 30, "the session is going on")
        going.loop.stop()
        draining = asyncio.create_task(going.loop.drain(30))
        # To PostgreSQL and back: a drain that waits for nothing ends within a few turns of the loop.
        await own.execute("SELECT 1")
        is_early = draining.done()
        answered.set()
        await landing
        await draining
        return is_early, going.loop.landing._take_batch()

    is_early, (returned,) = go_on("one", "two", act=act)
    assert not is_early
    # Fenced, but not handed over after the stop.
    assert returned.outcome == "returned"
