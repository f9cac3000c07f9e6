"""Attempts that a worker has made and its database has forgotten, having lost its last commits: none is made again."""

import asyncio
from typing import Any

import pytest
import redis

from sessions_app.models import Attempt, Deployment, InFlight, Message, Status
from sessions_app.queues import keys
from sessions_app.queues.dispatch import AGAIN_MS
from sessions_app.worker import doubts
from sessions_app.worker.fence import Verdict, Waiting
from sessions_app.worker.outcomes import accepted
from sessions_app.worker.settle import settle
from tests.dispatch_lab import claimed, make_dispatcher, session_with, workers
from tests.processes import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.fault(14)]


def test_a_database_that_lost_a_fence_of_a_message_that_was_handed_over_does_not_send_it_again(
    redis_client: redis.Redis,
) -> None:
    session, (message, _) = session_with("one", "two")

    async def act() -> None:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            # Redis has heard of none of the attempts of this worker; the newest of them was lost with the server.
            loop.doubts.known_token = 5
            loop.doubts.arise()
            await loop._claim(10)
            assert not loop.flights
            await loop.close()

    asyncio.run(act())
    message.refresh_from_db()
    assert message.status == Status.UNCERTAIN
    assert not Attempt.objects.exists()
    assert int(redis_client.hget(keys.META, "mark") or 0) == 5
    assert session.messages.filter(status=Status.QUEUED).count() == 1


def test_what_is_fenced_while_the_newest_attempt_is_looked_up_makes_no_older_database(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_with("one")
    Deployment.objects.update(known_token=3)
    # Another worker has settled an attempt that this one has not heard of.
    redis_client.hset(keys.META, "mark", 3)
    look = doubts.newest_token

    async def act() -> int:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            loop.doubts.known_token = 2

            async def look_and_go_on(connection: Any) -> int:
                newest = await look(connection)
                # As a session does that goes on.
                await own.execute("UPDATE wa_deployment SET known_token = 4")
                loop.doubts.known_token = 4
                return newest

            monkeypatch.setattr(doubts, "newest_token", look_and_go_on)
            await loop._claim(10)
            flying = len(loop.flights)
            await loop.drain(5)
            await loop.close()
            return flying

    assert asyncio.run(act()) == 1


def test_a_message_that_is_called_uncertain_while_an_engine_has_it_is_settled_by_the_answer(
    redis_client: redis.Redis,
) -> None:
    session_with("one", "two")

    async def act() -> None:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            (flight,) = (await own.fence("s")).flights
            loop.flights["s"] = flight
            # Of another session: the server that was promoted has not heard of it.
            loop.doubts.known_token = flight.token + 1
            loop.doubts.arise()
            await loop._claim(10)
            assert await own.execute("SELECT status FROM wa_message WHERE token = %s", [flight.token]) == [
                ("uncertain",)
            ]
            await own.settle(accepted(flight, "engine-1"))
            await loop.close()

    asyncio.run(act())
    assert Message.objects.order_by("seq").values_list("status", "provider_id")[0] == ("sent", "engine-1")
    assert not InFlight.objects.exists()


def test_what_is_fenced_in_doubt_is_known_as_well() -> None:
    session_with("one")

    async def act() -> bool:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            loop.doubts.arise()
            # Its commit was answered just before the server died, and is read just after.
            fenced = await own.fence("s")
            loop.take_off(fenced)
            is_known = loop.doubts.known_token == fenced.flights[0].token
            await loop.drain(5)
            await loop.close()
            return is_known

    assert asyncio.run(act())


def test_an_outcome_lands_no_other_message_that_has_got_its_token_again() -> None:
    session_with("one", "two")

    async def act() -> None:
        async with workers(1) as (own,):
            flight = await own.fence_one()
            # The fence was lost with the server, and its token was given out anew.
            await own.execute("UPDATE wa_message SET status = 'uncertain', token = NULL WHERE status = 'sending'")
            await own.execute("DELETE FROM wa_attempt")
            await own.execute("DELETE FROM wa_in_flight")
            await own.execute("SELECT setval('wa_attempt_token', %s, false)", [flight.token])
            again = await own.fence_one()
            assert again.token == flight.token and again.message_id != flight.message_id
            await own.settle(accepted(flight, "engine-1"))

    asyncio.run(act())
    assert InFlight.objects.count() == 1
    assert list(Message.objects.order_by("seq").values_list("status", flat=True)) == ["uncertain", "sending"]
    assert Attempt.objects.get().outcome == ""


def test_a_message_whose_outcome_the_database_has_lost_is_uncertain_and_not_put_back() -> None:
    session_with("one", "two")

    async def act() -> list[Any]:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            await loop._fence(claimed("s"))
            await until(lambda: loop.landing._results, 10, "it was sent")
            before = await own.execute("SELECT * FROM wa_in_flight")
            loop.landing._after(await loop.landing._write(loop.landing.stores[0], loop.landing._take_batch()))
            assert not loop.flights and not await own.execute("SELECT * FROM wa_in_flight")
            # As a replica has it that was promoted, and had not heard of the last commit.
            places = ", ".join(["%s"] * len(before[0]))
            await own.execute(f"INSERT INTO wa_in_flight VALUES ({places})", list(before[0]))
            await own.execute("UPDATE wa_attempt SET outcome = '', finished_at = NULL")
            await own.execute("UPDATE wa_message SET status = 'sending' WHERE status = 'sent'")
            await loop.doubts.return_unanswered()
            lost = loop.landing._take_batch()
            await settle(own.connection, lost)
            await loop.close()
            return lost

    (lost,) = asyncio.run(act())
    assert lost.outcome == "uncertain"
    assert list(Message.objects.order_by("seq").values_list("status", flat=True)) == ["uncertain", "queued"]


def test_a_session_that_another_worker_has_in_flight_is_due_again_while_that_still_counts_as_in_hand() -> None:
    async def act() -> int | None:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            delay = loop._waits.delay_ms(Waiting(claimed("s")[0], Verdict.IN_FLIGHT, delay_ms=59_000))
            await loop.close()
            return delay

    assert asyncio.run(act()) == AGAIN_MS
