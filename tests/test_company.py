"""What comes due one after the other is looked at, and written, together; what somebody waits for is not held up."""

import asyncio

import pytest

from sessions_app.models import Attempt, Message, Session, Status
from sessions_app.queues import keys
from sessions_app.queues.connection import web_client
from sessions_app.worker import clock
from sessions_app.worker.dispatcher import Dispatcher
from sessions_app.worker.outcomes import accepted
from tests.dispatch_lab import in_thread, make_dispatcher, session_with, workers
from tests.processes import until

pytestmark = pytest.mark.django_db(transaction=True)

SESSIONS = 60
APART_MS = 5


def pace(milliseconds: int) -> None:
    """Give every session this pace."""
    Session.objects.update(min_interval_ms=milliseconds, max_interval_ms=milliseconds)


def test_paced_sessions_that_come_due_one_by_one_share_their_commits() -> None:
    for number in range(SESSIONS):
        session_with("one", name=f"s{number}")
    pace(5000)

    async def act() -> None:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            await loop.open()
            seconds, micros = web_client().time()
            begin = seconds * 1000 + micros // 1000 + 200
            due = {f"s{number}": begin + number * APART_MS for number in range(SESSIONS)}
            web_client().zadd(keys.DUE, due)
            await serve(loop, SESSIONS)

    asyncio.run(act())
    attempts = Attempt.objects.all()
    assert attempts.count() == SESSIONS
    # One look at the clock is one fence, and one commit of outcomes has one time.
    assert attempts.values("fenced_at").distinct().count() <= SESSIONS // 2
    assert attempts.values("finished_at").distinct().count() <= SESSIONS // 2


async def serve(loop: Dispatcher, count: int) -> None:
    """Run the whole loop until so many messages are sent."""
    landing = [
        asyncio.create_task(loop.landing.settle_forever()),
        asyncio.create_task(loop.landing.give_back_forever()),
    ]
    claiming = asyncio.create_task(loop.claim_forever())

    async def are_sent() -> bool:
        return await in_thread(Message.objects.filter(status=Status.SENT).count) == count

    await until(are_sent, 20, "they are sent")
    loop.stop()
    await claiming
    await until(lambda: loop.is_idle, 10, "everything is in both stores")
    for task in landing:
        task.cancel()
    await loop.close()


@pytest.mark.parametrize(("pace_ms", "is_at_once"), [(0, True), (50, True), (3000, False)])
def test_only_an_outcome_whose_session_has_to_wait_anyway_waits_for_company(pace_ms: int, is_at_once: bool) -> None:
    session_with("one", "two")
    pace(pace_ms)

    async def act() -> bool:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            loop.landing.add([accepted(await own.fence_one(), "x")])
            was_at_once = loop.landing._has_results.is_set()
            # It is written in any case.
            await asyncio.wait_for(loop.landing._has_results.wait(), 10)
            await loop.close()
            return was_at_once

    assert asyncio.run(act()) is is_at_once


def test_an_outcome_with_a_pace_goes_with_one_that_does_not_wait() -> None:
    session_with("one", name="slow")
    pace(3000)
    session_with("one", name="fast")

    async def act() -> int:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            for flight in (await own.fence("slow", "fast")).flights:
                loop.landing.add([accepted(flight, "x")])
            assert loop.landing._has_results.is_set()
            batch = loop.landing._take_batch()
            await loop.close()
            return len(batch)

    assert asyncio.run(act()) == 2


def test_only_a_session_that_is_due_before_the_next_look_calls_for_one() -> None:
    async def act() -> tuple[bool, bool]:
        async with workers(1) as (own,):
            loop = await make_dispatcher(own)
            loop._looks_at = clock.now() + 0.5
            loop._note_given_back(2.0)
            is_called_for_later = loop._wake.is_set()
            loop._note_given_back(0.0)
            return is_called_for_later, loop._wake.is_set()

    assert asyncio.run(act()) == (False, True)
