"""Who is judged dead, and whose death a message is blamed for."""

import asyncio
from typing import Any

import pytest

from sessions_app.exceptions import (
    NotConnected,
    OutcomeUnknown,
    PermanentError,
    RetryableError,
    SendError,
    SessionRefused,
)
from sessions_app.models import Message, OnUncertain, Status
from sessions_app.models.worker import SILENCE, STEADY
from sessions_app.worker import fence, heartbeat, stalled
from sessions_app.worker.going_on import settle_and_fence
from sessions_app.worker.outcomes import Settlement, accepted, died, refused
from sessions_app.worker.settle import settle
from tests.dispatch_lab import claimed, session_with, workers
from tests.factories import observer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.fault(23)]


def judged(what: str, *parameters: Any) -> Settlement:
    """What a steady judge says of a flight past its deadline, once `what` befell its worker: before, nothing."""
    session_with("one")

    async def act() -> list[Settlement]:
        async with workers() as (judge, owner):
            for worker in (judge, owner):
                await heartbeat.register(worker.connection, worker.id, "w", 1)
            await owner.fence()
            await owner.execute("UPDATE wa_in_flight SET deadline_at = now() - interval '1 second'")
            await judge.execute("UPDATE wa_worker SET steady_since = now() - %s * 2", [STEADY])
            assert await stalled.judge(judge.connection, judge.id) == []
            await owner.execute(what, [*parameters, owner.id])
            return await stalled.judge(judge.connection, judge.id)

    (settlement,) = asyncio.run(act())
    return settlement


def test_what_was_in_flight_in_a_worker_that_fell_silent_is_blamed_for_its_death() -> None:
    settlement = judged("UPDATE wa_worker SET heartbeat_at = now() - %s * 2 WHERE id = %s", SILENCE)
    assert (settlement.outcome, settlement.death) == ("uncertain", 1)
    assert settlement.error_detail == "its worker w died while it was being sent"


@pytest.mark.parametrize(
    "what", ["UPDATE wa_worker SET stopped_at = now() WHERE id = %s", "DELETE FROM wa_worker WHERE id = %s"]
)
def test_what_a_worker_left_behind_that_said_goodbye_or_of_which_nothing_is_known_is_not(what: str) -> None:
    settlement = judged(what)
    assert (settlement.outcome, settlement.death) == ("uncertain", 0)


def test_what_messages_say_is_read_when_they_stand_in_flight_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    session_with("lethal")
    seen: list[Any] = []

    async def dies(*_: Any) -> Any:
        with observer() as looking:
            seen.append(
                looking.execute("SELECT status, f.message_id = m.id FROM wa_message m, wa_in_flight f").fetchall()
            )
        raise MemoryError

    async def act() -> None:
        async with workers(1) as (worker,):
            with pytest.raises(MemoryError):
                await worker.fence()
            with pytest.raises(MemoryError):
                await settle_and_fence(worker.connection, worker.id, [], claimed("s"), {}, 0)

    monkeypatch.setattr(fence, "read", dies)
    asyncio.run(act())
    assert seen == [[("sending", True)]] * 2


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (None, 0),
        (PermanentError("no"), 0),
        (RetryableError("busy"), 0),
        (OutcomeUnknown("no answer"), 2),
        (NotConnected("no link"), 2),
        (SessionRefused("banned"), 2),
    ],
)
def test_who_came_through_has_killed_nobody(error: SendError | None, left: int) -> None:
    session_with("one")
    Message.objects.update(deaths=2)

    async def act() -> None:
        async with workers(1) as (worker,):
            flight = await worker.fence_one()
            await settle(worker.connection, [refused(flight, error) if error else accepted(flight, "engine-1")])

    asyncio.run(act())
    assert Message.objects.get().deaths == left


def test_a_death_is_counted_once_however_often_it_is_written_and_never_for_a_newer_attempt() -> None:
    session_with("one", on_uncertain=OnUncertain.RESEND)

    async def act() -> None:
        async with workers() as (first, second):
            flight = await first.fence_one()
            for _ in range(3):
                await settle(second.connection, [died(flight, "its worker died")])
            await first.execute("UPDATE wa_message SET next_attempt_at = NULL")
            await second.fence()
            await settle(first.connection, [died(flight, "its worker died")])

    asyncio.run(act())
    message = Message.objects.get()
    assert (message.status, message.deaths, message.attempts) == (Status.SENDING, 1, 2)
