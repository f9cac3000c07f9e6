"""Outcomes on their way into PostgreSQL: what cannot be written, or not now, keeps no other from it."""

import asyncio

import pytest

from sessions_app.models import InFlight, Message, Status
from sessions_app.worker.outcomes import accepted
from tests.dispatch_lab import make_dispatcher, session_with, workers
from tests.processes import until

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_outcome_that_cannot_be_written_is_uncertain_and_the_others_are_written() -> None:
    for name in ("a", "b", "c"):
        session_with("one", name=name)

    async def act() -> None:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            flights = (await own.fence("a", "b", "c")).flights
            outcomes = [accepted(flight, "x") for flight in flights]
            # No such state: the row's column is too short for it.
            object.__setattr__(outcomes[1], "status", "a state that is far too long for its column")
            await loop.landing._write(loop.landing.stores[0], outcomes)
            await loop.close()

    asyncio.run(act())
    assert sorted(Message.objects.values_list("status", flat=True)) == ["sent", "sent", "uncertain"]
    assert not InFlight.objects.exists()


def test_an_outcome_waits_for_a_table_that_is_away_and_is_then_written_as_it_was() -> None:
    session_with("one")

    async def act() -> None:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            flight = await own.fence_one()
            loop.flights["s"] = flight
            await own.execute("ALTER TABLE wa_recipient_pace RENAME TO wa_away")
            try:
                writing = asyncio.create_task(loop.landing._write(loop.landing.stores[0], [accepted(flight, "x")]))
                tries = loop.landing._settling
                await until(lambda: tries._failures >= 2 or writing.done(), 30, "it is refused twice")
                assert not writing.done() and "s" in loop.flights
            finally:
                await own.execute("ALTER TABLE wa_away RENAME TO wa_recipient_pace")
            (settled,) = await asyncio.wait_for(writing, 30)
            assert settled.is_current
            await loop.close()

    asyncio.run(act())
    assert Message.objects.get().status == Status.SENT


def test_an_outcome_that_is_refused_twice_is_left_to_the_judge() -> None:
    session_with("one")

    async def act() -> set[int]:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            flight = await own.fence_one()
            loop.flights["s"] = flight
            outcome = accepted(flight, "x")
            object.__setattr__(outcome, "status", "a state that is far too long for its column")
            object.__setattr__(outcome, "error_detail", "its outcome could not be written, again")
            assert await loop.landing._write(loop.landing.stores[0], [outcome]) == []
            await loop.close()
            return loop.tokens()

    # What the worker does not remember, its own upkeep finds in the database and tells of.
    assert asyncio.run(act()) == set()
    assert InFlight.objects.count() == 1


def test_a_locked_row_keeps_no_other_outcome_from_being_written() -> None:
    for name in ("a", "b", "c"):
        session_with("one", name=name)

    async def act() -> tuple[list[str], int]:
        async with workers(2) as (own, other):
            loop = await make_dispatcher(own)
            flights = (await own.fence("a", "b", "c")).flights
            await other.execute("BEGIN")
            await other.execute(
                "SELECT 1 FROM wa_message m JOIN wa_session s ON s.id = m.session_id WHERE s.name = 'b' FOR UPDATE OF m"
            )
            written = await loop.landing._write(loop.landing.stores[0], [accepted(flight, "x") for flight in flights])
            await other.execute("ROLLBACK")
            async with asyncio.timeout(10):
                await loop.landing._has_results.wait()
            (late,) = loop.landing._take_batch()
            again = await loop.landing._write(loop.landing.stores[0], [late])
            await loop.close()
            return sorted(one.settlement.flight.session_name for one in written), len(again)

    assert asyncio.run(act()) == (["a", "c"], 1)
    assert set(Message.objects.values_list("status", flat=True)) == {Status.SENT}
