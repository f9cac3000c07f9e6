"""A standby was promoted without the last commits, and others went on with it: nothing is sent twice untold."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from sessions_app.exceptions import PermanentError, RetryableError
from sessions_app.models import Attempt, Event, InFlight, Message, Status
from sessions_app.queues.dispatch import SettledJob
from sessions_app.worker.dispatcher import Dispatcher
from sessions_app.worker.lost_attempts import Handed, put_back
from sessions_app.worker.outcomes import Flight, accepted, refused, returned
from tests.dispatch_lab import LabWorker, claimed, make_dispatcher, session_with, workers
from tests.processes import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.fault(14)]

Act = Callable[[Dispatcher, Flight, LabWorker, LabWorker], Awaitable[Any]]


async def forget(database: LabWorker) -> None:
    """Have the database as a standby has it that never heard of what was fenced and settled."""
    await database.execute("DELETE FROM wa_attempt")
    await database.execute("DELETE FROM wa_in_flight")
    await database.execute(
        "UPDATE wa_message SET status = 'queued', token = NULL, attempts = 0, provider_id = '', sent_at = NULL"
    )


def after_a_promotion(act: Act, *, has_landed: bool = False) -> Any:
    """Let a worker hand a message over, its database lose that, and another go on there with a session of its own.

    `act` gets the dispatcher that remembers, its flight, its connection, and the other worker.
    """
    session_with("one", "two")
    session_with("elsewhere", name="other")

    async def run() -> Any:
        async with workers(2) as (own, other):
            loop = await make_dispatcher(own)
            fenced = await own.fence("s")
            (flight,) = fenced.flights
            loop.doubts.note(flight)
            if not has_landed:
                loop.flights["s"] = flight
            await forget(own)
            newer = await other.fence_one("other")
            assert newer.token > flight.token
            try:
                return await act(loop, flight, own, other)
            finally:
                await loop.close()

    return asyncio.run(run())


def first() -> Message:
    return Message.objects.get(text="one")


def told() -> list[tuple[str, int]]:
    events = Event.objects.filter(message=first(), data__has_key="attempt").order_by("pk")
    return [(event.kind, event.data["attempt"]) for event in events]


def test_what_is_with_its_engine_still_is_in_flight_again_and_nobody_else_sends_it(redis_client: redis.Redis) -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> None:
        loop.doubts.arise()
        await loop._claim(0)
        assert not (await other.fence("s")).flights
        loop.landing._after(await loop.landing._write(loop.landing.stores[0], [accepted(flight, "engine-1")]))
        assert not loop.flights

    after_a_promotion(act)
    assert (first().status, first().provider_id, first().attempts) == (Status.SENT, "engine-1", 1)
    assert Attempt.objects.get(message=first()).outcome == "sent"
    assert not InFlight.objects.filter(session__name="s").exists()
    assert {kind for kind, _ in told()} == {"message.sent"}


def test_an_answer_that_comes_before_anybody_doubts_is_the_message_s_all_the_same() -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> None:
        loop.landing._after(await loop.landing._write(loop.landing.stores[0], [accepted(flight, "engine-1")]))

    after_a_promotion(act)
    assert (first().status, first().provider_id) == (Status.SENT, "engine-1")
    assert not InFlight.objects.filter(session__name="s").exists()


def test_a_session_does_not_go_on_past_an_attempt_that_was_lost_and_its_answer_is_kept() -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> None:
        (flight.claimed,) = claimed("s")
        loop.doubts.known_token = 0
        sent = accepted(flight, "engine-1")
        assert await loop.landing._write_and_go_on(loop.landing.stores[0], [sent], {"s": flight.claimed})
        assert not loop.flights

    after_a_promotion(act)
    assert list(Message.objects.filter(session__name="s").order_by("seq").values_list("status", flat=True)) == [
        Status.SENT, Status.QUEUED,
    ]  # fmt: skip


def test_what_had_landed_is_uncertain_and_that_is_told(redis_client: redis.Redis) -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> int:
        loop.doubts.arise()
        await loop._claim(0)
        assert [job.message_id for job in loop.landing._jobs] == [str(flight.message_id)]
        assert (await other.fence_one("s")).content["text"] == "two"
        return flight.token

    token = after_a_promotion(act, has_landed=True)
    assert (first().status, first().attempts, first().token) == (Status.UNCERTAIN, 1, token)
    assert Attempt.objects.get(message=first()).outcome == "uncertain"
    assert told() == [("message.uncertain", token)]


@pytest.mark.parametrize("has_landed", [False, True])
def test_what_another_worker_sends_once_more_before_that_is_known_is_told(
    has_landed: bool, redis_client: redis.Redis
) -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> tuple[int, int]:
        again = await other.fence_one("s")
        assert again.message_id == flight.message_id
        await own.execute("UPDATE wa_message SET look_up_token = 1 WHERE text = 'one'")
        loop.doubts.arise()
        await loop._claim(0)
        await other.settle(accepted(again, "engine-2"))
        return flight.token, again.token

    lost, again = after_a_promotion(act, has_landed=has_landed)
    assert told() == [("message.uncertain", lost)]
    # Both are to be seen, with what the engine said to the second.
    said = Attempt.objects.filter(message=first()).order_by("token")
    assert list(said.values_list("token", "outcome", "late_outcome", "provider_id")) == [
        (lost, "uncertain", "", ""), (again, "uncertain", "sent", "engine-2"),
    ]  # fmt: skip
    # Its engine is asked, also if it was asked of an earlier attempt.
    assert (first().status, first().look_up_token) == (Status.UNCERTAIN, None)
    assert not InFlight.objects.filter(session__name="s").exists()


def test_what_another_worker_has_sent_stays_sent_and_is_told() -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> int:
        await other.settle(accepted(await other.fence_one("s"), "engine-2"))
        loop.doubts.arise()
        await loop._claim(0)
        return flight.token

    lost = after_a_promotion(act, has_landed=True)
    assert (first().status, first().provider_id) == (Status.SENT, "engine-2")
    assert ("message.uncertain", lost) in told()


def test_what_is_put_back_twice_at_once_is_put_back_once() -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> list[int]:
        handed = [Handed.of(flight)]
        # The second waits for what the first has locked, and began before it committed.
        await own.execute("BEGIN")
        one = await put_back(own.connection, own.id, handed, {flight.token}, known=flight.token)
        later = asyncio.create_task(put_back(other.connection, own.id, handed, (), known=flight.token))

        async def waits() -> bool:
            pids = [other.connection.info.backend_pid]
            return bool((await own.execute("SELECT pg_blocking_pids(%s) <> '{}'", pids))[0][0])

        await until(waits, 10, "it waits for the message")
        await own.execute("COMMIT")
        return [len(one), len(await later)]

    assert after_a_promotion(act) == [1, 0]
    assert first().status == Status.SENDING
    assert told() == []


def test_a_token_that_was_given_out_again_is_not_taken_for_the_attempt() -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> None:
        await own.execute("UPDATE wa_attempt SET token = %s", [flight.token])
        loop.doubts.arise()
        await loop._claim(0)
        # It is told once: what a person decides then stands.
        await own.execute("UPDATE wa_message SET status = 'queued' WHERE status = 'uncertain'")
        loop.doubts.arise()
        await loop._claim(0)
        assert (await other.fence_one("s")).message_id == flight.message_id

    after_a_promotion(act)
    assert first().status == Status.SENDING
    assert [kind for kind, _ in told()] == ["message.uncertain"]


def test_where_nothing_is_lost_nothing_is_put_back(redis_client: redis.Redis) -> None:
    session_with("one", "two")

    async def act() -> list[Any]:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            flight = await own.fence_one("s")
            loop.doubts.note(flight)
            before = await put_back(own.connection, own.id, [Handed.of(flight)], {flight.token}, known=flight.token)
            await own.settle(accepted(flight, "engine-1"))
            after = await put_back(own.connection, own.id, [Handed.of(flight)], (), known=flight.token)
            await loop.close()
            return before + after

    assert asyncio.run(act()) == []
    assert first().status == Status.SENT


def test_what_may_have_gone_before_the_lost_attempt_too_is_uncertain_whatever_came_of_that() -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> None:
        flight.is_doubted = True
        too_fast = refused(flight, RetryableError("too fast"))
        loop.landing._after(await loop.landing._write(loop.landing.stores[0], [too_fast]))

    after_a_promotion(act)
    assert first().status == Status.UNCERTAIN
    assert [kind for kind, _ in told()] == ["message.uncertain"]


@pytest.mark.parametrize("is_stopping", [False, True])
def test_an_answer_to_a_lost_attempt_does_not_hide_that_the_database_is_older(
    is_stopping: bool, redis_client: redis.Redis
) -> None:
    session_with("one", "two", "three", "four")

    async def act() -> None:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            for _ in range(2):
                sent = await own.fence_one("s")
                loop.doubts.note(sent)
                await own.settle(accepted(sent, "engine-1"))
                await loop.queues.give_back([], [SettledJob("s", str(sent.message_id))], sent.token)
            flight = await own.fence_one("s")
            loop.doubts.note(flight)
            loop.flights["s"] = flight
            await forget(own)
            landing = loop.landing
            # Before anybody has looked, nothing is written, and the outcome is kept.
            assert await landing._write(landing.stores[0], [accepted(flight, "engine-3")]) == []

            async def is_cleared() -> bool:
                await loop._claim(0)
                return loop.doubts.is_cleared

            if is_stopping:
                # It claims nothing more, and so nobody looks but who writes.
                loop.stop()
            else:
                await until(is_cleared, 20, "what it has lost is found")
            await until(lambda: landing._results, 10, "the outcome is tried again")
            landing._after(await landing._write(landing.stores[0], landing._take_batch()))
            assert not loop.flights
            await loop.close()

    asyncio.run(act())
    assert list(Message.objects.order_by("seq").values_list("text", "status")) == [
        ("one", "uncertain"), ("two", "uncertain"), ("three", "sent"), ("four", "queued"),
    ]  # fmt: skip


@pytest.mark.parametrize("outcome", ["returned", "failed"])
def test_what_was_certainly_not_sent_makes_no_doubt_of_what_another_worker_sends(
    outcome: str, redis_client: redis.Redis
) -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> None:
        again = await other.fence_one("s")
        unsent = (
            returned(flight, "stopped") if outcome == "returned" else refused(flight, PermanentError("no such number"))
        )
        loop.landing._after(await loop.landing._write(loop.landing.stores[0], [unsent]))
        loop.doubts.arise()
        await loop._claim(0)
        await other.settle(accepted(again, "engine-2"))

    after_a_promotion(act)
    assert (first().status, first().provider_id) == (Status.SENT, "engine-2")
    assert {kind for kind, _ in told()} == {"message.sent"}


def test_a_refusal_of_the_lost_attempt_does_not_decide_what_another_worker_has_handed_over(
    redis_client: redis.Redis,
) -> None:
    async def act(loop: Dispatcher, flight: Flight, own: LabWorker, other: LabWorker) -> None:
        await other.fence_one("s")
        loop.doubts.arise()
        await loop._claim(0)
        refusal = refused(flight, PermanentError("no such number"))
        loop.landing._after(await loop.landing._write(loop.landing.stores[0], [refusal]))

    after_a_promotion(act)
    assert first().status == Status.UNCERTAIN
