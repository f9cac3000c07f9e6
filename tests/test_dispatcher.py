"""The loop around the fence: what another worker, PostgreSQL or a transport does to it."""

import asyncio
from typing import Any

import psycopg
import pytest

from sessions_app.models import Attempt, InFlight, Message, Status
from sessions_app.queues.connection import deployment_id
from sessions_app.worker import dispatcher as dispatching
from sessions_app.worker.dispatcher import Dispatcher
from sessions_app.worker.outcomes import accepted
from sessions_app.worker.settle import settle
from tests.dispatch_lab import LabWorker, claimed, session_with, workers

pytestmark = pytest.mark.django_db(transaction=True)


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
