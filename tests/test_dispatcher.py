"""The loop around the fence: what another worker, PostgreSQL or a transport does to it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import pytest

from sessions_app.models import Attempt, InFlight, Message, Status
from sessions_app.queues.connection import deployment_id
from sessions_app.queues.dispatch import ClaimedSession
from sessions_app.worker import dispatcher as dispatching
from sessions_app.worker import landing as landing_module
from sessions_app.worker.dispatcher import Dispatcher
from sessions_app.worker.outcomes import Settlement, accepted
from sessions_app.worker.settle import settle
from tests.dispatch_lab import LabWorker, claimed, session_with, workers

pytestmark = pytest.mark.django_db(transaction=True)

T = TypeVar("T")


def make_dispatcher(worker: LabWorker) -> Dispatcher:
    """A dispatcher that nobody has claim; its fences are called by the test."""
    return Dispatcher(worker=worker.id, deployment=_DEPLOYMENT["id"], concurrency=100)


_DEPLOYMENT: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _deployment(db: None) -> None:
    _DEPLOYMENT["id"] = deployment_id()


def test_a_session_in_a_frozen_workers_fence_holds_up_no_other() -> None:
    names = [f"s{number}" for number in range(8)]
    for name in names:
        session_with("one", name=name)

    async def act() -> set[str]:
        async with workers(2) as (frozen, own):
            await frozen.execute("BEGIN")
            await frozen.execute(
                "INSERT INTO wa_in_flight (session_id, slot, token, worker_id, fenced_at, deadline_at) "
                "SELECT id, 0, 1, %s, now(), now() FROM wa_session WHERE name = 's3'",
                [frozen.id],
            )
            loop = make_dispatcher(own)
            await loop._fence(claimed(*names))
            flying = set(loop.flights)
            assert loop._avoids(claimed("s3")[0])
            await loop.drain(5)
            await loop.close()
            return flying

    assert asyncio.run(act()) == set(names) - {"s3"}


def test_what_an_unanswered_fence_has_committed_is_put_back_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    session_with("one", "two")
    real_fence = dispatching.fence

    async def committed_but_unanswered(*args: Any) -> Any:
        await real_fence(*args)
        raise psycopg.OperationalError("the answer to the commit was lost")

    async def act() -> list[Any]:
        async with workers(1) as (own,):
            loop = make_dispatcher(own)
            monkeypatch.setattr(dispatching, "fence", committed_but_unanswered)
            with pytest.raises(psycopg.OperationalError):
                await loop._fence(claimed("s"))
            assert not loop.flights
            monkeypatch.setattr(dispatching, "fence", real_fence)
            await loop._return_unanswered()
            await loop._fence(claimed("s"))
            returned = list(loop.landing._results)
            await settle(own.connection, returned)
            await loop.close()
            return returned

    (returned,) = asyncio.run(act())
    assert returned.outcome == "returned"
    message = Message.objects.order_by("seq").first()
    assert message is not None
    assert (message.status, message.attempts) == (Status.QUEUED, 0)
    assert not InFlight.objects.exists()
    assert Attempt.objects.get().outcome == "returned"


def test_an_outcome_that_cannot_be_written_is_uncertain_and_the_others_are_written() -> None:
    for name in ("a", "b", "c"):
        session_with("one", name=name)

    async def act() -> None:
        async with workers(1) as (own,):
            loop = make_dispatcher(own)
            flights = (await own.fence("a", "b", "c")).flights
            outcomes = [accepted(flight, "x") for flight in flights]
            # No such state: the row's column is too short for it.
            object.__setattr__(outcomes[1], "status", "a state that is far too long for its column")
            await loop.landing._write(outcomes)
            await loop.close()

    asyncio.run(act())
    assert sorted(Message.objects.values_list("status", flat=True)) == ["sent", "sent", "uncertain"]
    assert not InFlight.objects.exists()


# Sessions that go on


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
        return bool(going) and await landing._write_and_go_on(landing._goings[0], [sent], going)


def go_on(*texts: str, act: Callable[[Going, LabWorker], Awaitable[T]]) -> T:
    session_with(*texts)

    async def run() -> T:
        async with workers(1) as (own,):
            loop = make_dispatcher(own)
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
        landing._after(await landing._write([sent]))
        assert not going.loop.flights
        await going.loop._return_unanswered()
        returned = landing._take_batch()
        landing._after(await landing._write(returned))
        return [str(one.outcome) for one in returned]

    assert go_on("one", "two", act=act) == ["returned"]
    assert list(Message.objects.order_by("seq").values_list("status", "attempts")) == [("sent", 1), ("queued", 0)]
    assert not InFlight.objects.exists()
