"""The loop around the fence: what another worker, PostgreSQL or a transport does to it."""

import asyncio
from datetime import UTC, datetime, time, timedelta
from typing import Any, TypeVar

import psycopg
import pytest
import redis
from django.db import connections
from django.utils import timezone

from sessions_app.models import Attempt, InFlight, LoopbackEntry, Message, SessionDispatch, Status
from sessions_app.queues.dispatch import DispatchQueues, GiveBack
from sessions_app.services.pacing import Pacing
from sessions_app.transports.loopback import LoopbackTransport
from sessions_app.worker import dispatcher as dispatching
from sessions_app.worker import landing
from sessions_app.worker.fence import Verdict, Waiting
from sessions_app.worker.landing import Landing
from sessions_app.worker.limits import TransportLimits
from sessions_app.worker.settle import settle
from tests.dispatch_lab import LabWorker, claimed, make_dispatcher, session_with, until_blocked, workers
from tests.factories import is_due
from tests.processes import until
from tests.proxy import through

pytestmark = pytest.mark.django_db(transaction=True)

T = TypeVar("T")


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
            loop = await make_dispatcher(own)
            await loop._fence(claimed(*names))
            flying = set(loop.flights)
            assert loop._avoids(claimed("s3")[0])
            await loop.drain(5)
            await loop.close()
            return flying

    assert asyncio.run(act()) == set(names) - {"s3"}


@pytest.mark.fault(33)
def test_what_an_unanswered_fence_has_committed_is_put_back_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    session_with("one", "two")
    real_fence = dispatching.fence

    async def committed_but_unanswered(*args: Any, **kwargs: Any) -> Any:
        await real_fence(*args, **kwargs)
        raise psycopg.OperationalError("the answer to the commit was lost")

    async def act() -> list[Any]:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            monkeypatch.setattr(dispatching, "fence", committed_but_unanswered)
            with pytest.raises(psycopg.OperationalError):
                await loop._fence(claimed("s"))
            assert not loop.flights
            monkeypatch.setattr(dispatching, "fence", real_fence)
            await loop.doubts.return_unanswered()
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


def test_one_that_waits_for_room_and_is_claimed_again_is_sent_once(redis_client: redis.Redis) -> None:
    session_with("one", "two")

    async def act() -> tuple[int, int]:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            loop.limits = TransportLimits({"loopback": 5}, loop.flights)
            (first,) = (await loop.queues.claim(10, 0)).sessions
            assert loop.limits.park("loopback", first)
            await loop.queues.signal(["s"])
            await loop._claim(10)
            sends = len(loop._sends)
            await loop.drain(5)
            parked = loop.limits.parked_count
            await loop.close()
            return sends, parked

    assert asyncio.run(act()) == (1, 0)
    assert LoopbackEntry.objects.count() == 1


@pytest.mark.fault(33)
def test_when_postgresql_fails_in_the_middle_of_a_claim_all_of_it_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act() -> list[str]:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)

            async def fail(connection: Any, worker: Any, sessions: Any, *args: Any, **kwargs: Any) -> Any:
                if len(sessions) > 1:
                    raise psycopg.errors.LockNotAvailable("somebody has one of them")
                raise psycopg.OperationalError("the server is gone")

            monkeypatch.setattr(dispatching, "fence", fail)
            with pytest.raises(psycopg.OperationalError):
                await loop._fence(claimed("a", "b", "c", "d"))
            backs = sorted(back.session.name for back in loop.landing._backs)
            await loop.close()
            return backs

    assert asyncio.run(act()) == ["a", "b", "c", "d"]


def test_what_is_stopped_before_its_transport_was_open_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    session_with("one", name="a")
    session_with("one", name="b")

    async def never(self: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(LoopbackTransport, "open", never)

    async def act() -> set[str]:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            await loop._fence(claimed("a"))
            await asyncio.sleep(0)
            # The other's send has not even begun.
            await loop._fence(claimed("b"))
            await loop.drain(0)
            outcomes = {str(result.outcome) for result in loop.landing._results}
            assert len(loop.landing._results) == 2
            await loop.close()
            return outcomes

    assert asyncio.run(act()) == {"returned"}


def test_a_database_that_turns_out_to_be_older_is_doubted_at_once() -> None:
    session_with("one")

    async def act() -> tuple[bool, list[GiveBack]]:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            loop.doubts.known_token = 5
            await loop._fence(claimed("s"))
            doubted = not loop.doubts.is_cleared
            backs = list(loop.landing._backs)
            await loop.close()
            return doubted, backs

    doubted, (back,) = asyncio.run(act())
    assert doubted and back.delay_ms == 1000
    assert not Attempt.objects.exists()


def test_what_is_fenced_after_the_worker_was_told_to_stop_is_put_back_unsent() -> None:
    session_with("one")

    async def act() -> list[Any]:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            loop.stop()
            await loop._fence(claimed("s"))
            assert not loop._sends and not loop.is_idle
            returned = loop.landing._take_batch()
            loop.landing._after(await loop.landing._write(loop.landing.stores[0], returned))
            await loop.close()
            return returned

    (returned,) = asyncio.run(act())
    assert returned.outcome == "returned"
    assert Message.objects.get().status == Status.QUEUED
    assert not InFlight.objects.exists()


@pytest.mark.fault(33)
def test_nothing_is_committed_after_the_look_for_what_was_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    session_with("one")
    database = connections["default"]
    parameters = database.get_connection_params()

    async def act() -> list[Any]:
        async with workers(2) as (own, other):
            loop = await make_dispatcher(own)
            store = loop._fences
            store._lock_timeout_ms = 0
            await other.execute("BEGIN")
            # The last statement of the fence waits for this lock, its commit right behind it.
            await other.execute("LOCK TABLE wa_attempt IN SHARE MODE")
            with monkeypatch.context() as patch:
                patch.setattr(
                    type(database),
                    "get_connection_params",
                    lambda _: parameters | {"host": "127.0.0.1", "port": network.port},
                )
                fencing = asyncio.create_task(loop._fence(claimed("s")))
                await until(lambda: store._connection, 30, "it is connected")
            await until_blocked(other, LabWorker(store._connection))
            pid = store._connection.info.backend_pid
            network.cut()
            await asyncio.wait([fencing])
            assert isinstance(fencing.exception(), psycopg.OperationalError)
            await loop.doubts.return_unanswered()
            await other.execute("ROLLBACK")

            async def is_idle() -> bool:
                busy = "SELECT FROM pg_stat_activity WHERE pid = %s AND state <> 'idle'"
                return not await other.execute(busy, [pid])

            await until(is_idle, 30, "the server is done with what it was asked")
            await loop.close()
            return await other.execute("SELECT count(*) FROM wa_attempt")

    with through(parameters) as network:
        assert asyncio.run(act()) == [(0,)]


def test_a_worker_that_is_told_to_stop_while_it_gives_back_claims_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    session_with("one")

    async def act() -> int:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            claims, is_giving, may_give = 0, asyncio.Event(), asyncio.Event()
            claim, give_back = DispatchQueues.claim, DispatchQueues.give_back

            async def count_claim(*args: Any) -> Any:
                nonlocal claims
                claims += 1
                return await claim(*args)

            async def give_back_when_told(*args: Any) -> None:
                is_giving.set()
                await may_give.wait()
                await give_back(*args)

            monkeypatch.setattr(DispatchQueues, "claim", count_claim)
            monkeypatch.setattr(DispatchQueues, "give_back", give_back_when_told)
            giving = asyncio.create_task(loop.landing.give_back_forever())
            loop.landing.give_back([GiveBack(claimed("other")[0], None)])
            claiming = asyncio.create_task(loop.claim_forever())
            await is_giving.wait()
            loop.stop()
            may_give.set()
            await claiming
            giving.cancel()
            await loop.close()
            return claims

    assert asyncio.run(act()) == 0


@pytest.mark.parametrize("is_over", [True, False])
def test_a_session_is_looked_at_anew_only_if_its_quiet_window_is_another(
    is_over: bool, redis_client: redis.Redis
) -> None:
    session, _ = session_with(pacing=Pacing(quiet_start=time(1), quiet_end=time(2)))
    if is_over:
        SessionDispatch.objects.update(
            quiet_from=datetime(2020, 1, 1, 1, tzinfo=UTC), quiet_until=datetime(2020, 1, 1, 2, tzinfo=UTC)
        )

    async def act() -> None:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            waiting = Waiting(claimed("s")[0], Verdict.QUIET_OVER, session_id=session.pk)
            await loop._waits._roll_quiet_hours(waiting)
            await loop.close()

    asyncio.run(act())
    assert is_due(redis_client, "s") is is_over


def test_a_signal_during_a_fence_costs_one_look_more_and_not_one_after_another_without_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session, _ = session_with("one")
    SessionDispatch.objects.filter(session=session).update(next_send_at=timezone.now() + timedelta(hours=1))

    async def act() -> int:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            looks, claims, is_waiting, has_nothing_due = 0, 0, False, asyncio.Event()
            claim, give_back, given_back = DispatchQueues.claim, DispatchQueues.give_back, Landing.unsent_given_back

            async def claim_and_signal(*args: Any) -> Any:
                nonlocal looks, claims
                found = await claim(*args)
                looks, claims = looks + len(found.sessions), claims + 1
                if found.sessions and looks == 1:
                    await loop.queues.signal(["s"])
                    loop.wake()
                if not found.sessions:
                    has_nothing_due.set()
                return found

            async def give_back_late_and_call(*args: Any) -> None:
                # As a claim on another connection may be the faster one: whoever does not wait for this goes first.
                before = claims
                loop.wake()
                await until(lambda: claims > before or is_waiting, 10, "the next claim is made, or waits")
                await give_back(*args)
                # As Redis calls when a claim was overtaken.
                loop.wake()

            async def noted(*args: Any) -> None:
                nonlocal is_waiting
                is_waiting = True
                await given_back(*args)
                is_waiting = False

            # A claim that waits no longer may well go first.
            monkeypatch.setattr(landing, "_GIVEN_BACK_SECONDS", 10)
            monkeypatch.setattr(Landing, "unsent_given_back", noted)
            monkeypatch.setattr(DispatchQueues, "claim", claim_and_signal)
            monkeypatch.setattr(DispatchQueues, "give_back", give_back_late_and_call)
            giving = asyncio.create_task(loop.landing.give_back_forever())
            claiming = asyncio.create_task(loop.claim_forever())
            await until(has_nothing_due.is_set, 10, "the session waits for its time")
            loop.stop()
            await claiming
            giving.cancel()
            await loop.close()
            return looks

    assert asyncio.run(act()) == 2
