"""An answer that comes twice, or after somebody has decided: it counts once, by token, and undoes nothing."""

import asyncio

import pytest

from sessions_app.exceptions import OutcomeUnknown, PermanentError
from sessions_app.models import Attempt, Event, InFlight, Message, OnUncertain, SessionDispatch, Status
from sessions_app.services import messages
from sessions_app.worker.outcomes import accepted, refused
from sessions_app.worker.settle import Settled
from tests.dispatch_lab import ACTOR, in_thread, session_with, workers

pytestmark = pytest.mark.django_db(transaction=True)


# Twice


@pytest.mark.fault(33)
def test_a_settle_written_twice_changes_nothing_the_second_time() -> None:
    _, (message,) = session_with("one")

    async def act() -> Settled:
        async with workers(1) as (worker,):
            flight = await worker.fence_one()
            await worker.settle(accepted(flight, "engine-1"))
            (again,) = await worker.settle(accepted(flight, "engine-1"))
            return again

    again = asyncio.run(act())
    # It is what decided, so that its job leaves the mirror also when the first answer was lost.
    assert again.is_current
    assert not again.is_new_hold
    assert Event.objects.filter(kind="message.sent").count() == 1
    assert Attempt.objects.get().late_outcome == ""
    message.refresh_from_db()
    assert message.attempts == 1


@pytest.mark.parametrize("status", [Status.DELIVERED, Status.READ])
def test_a_settle_written_twice_has_decided_also_when_a_receipt_came_between(status: Status) -> None:
    session_with("one")

    async def act() -> Settled:
        async with workers(1) as (worker,):
            flight = await worker.fence_one()
            await worker.settle(accepted(flight, "engine-1"))
            await worker.execute("UPDATE wa_message SET status = %s", [status])
            (again,) = await worker.settle(accepted(flight, "engine-1"))
            return again

    assert asyncio.run(act()).is_current
    assert Message.objects.get().status == status


@pytest.mark.fault(33)
def test_a_settle_written_twice_does_not_undo_what_a_person_did_in_between() -> None:
    _, (message,) = session_with("one")

    async def act() -> list[Settled]:
        async with workers(1) as (worker,):
            flight = await worker.fence_one()
            await worker.settle(refused(flight, PermanentError("no")))
            await in_thread(messages.retry, message.pk, actor=ACTOR)
            return await worker.settle(refused(flight, PermanentError("no")))

    (again,) = asyncio.run(act())
    assert not again.is_current
    message.refresh_from_db()
    assert message.status == Status.QUEUED


# Late


def test_what_is_said_too_late_takes_nothing_away_of_what_the_engine_answered() -> None:
    session_with("one")

    async def act() -> None:
        async with workers(1) as (worker,):
            flight = await worker.fence_one()
            await worker.settle(accepted(flight, "engine-1"))
            await worker.settle(refused(flight, OutcomeUnknown("its worker died")))

    asyncio.run(act())
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.late_outcome) == ("sent", "uncertain")
    assert (attempt.provider_id, attempt.error_detail) == ("engine-1", "its worker died")
    assert Message.objects.get().status == Status.SENT


def test_a_late_answer_settles_an_uncertain_message() -> None:
    _, (message,) = session_with("one")

    async def act() -> list[Settled]:
        async with workers() as (slow, judge):
            flight = await slow.fence_one()
            await judge.settle(refused(flight, OutcomeUnknown("its worker died")))
            return await slow.settle(accepted(flight, "engine-1"))

    (late,) = asyncio.run(act())
    assert late.is_current
    message.refresh_from_db()
    assert (message.status, message.provider_id) == (Status.SENT, "engine-1")


def test_a_late_answer_settles_a_resend_that_has_not_begun() -> None:
    _, (message,) = session_with("one")

    async def act() -> list[Settled]:
        async with workers() as (slow, judge):
            flight = await slow.fence_one()
            await judge.settle(refused(flight, OutcomeUnknown("its worker died")))
            await in_thread(messages.resolve, message.pk, outcome="resend", actor=ACTOR)
            late = await slow.settle(accepted(flight, "engine-1"))
            assert not (await judge.fence()).flights
            return late

    (late,) = asyncio.run(act())
    assert late.is_current
    message.refresh_from_db()
    assert message.status == Status.SENT


def test_a_late_answer_after_a_newer_attempt_is_evidence_only() -> None:
    _, (message,) = session_with("one")

    async def act() -> list[Settled]:
        async with workers() as (slow, judge):
            flight = await slow.fence_one()
            await judge.settle(refused(flight, OutcomeUnknown("its worker died")))
            await in_thread(messages.resolve, message.pk, outcome="resend", actor=ACTOR)
            await judge.fence_one()
            return await slow.settle(accepted(flight, "engine-1"))

    (late,) = asyncio.run(act())
    assert not late.is_current
    message.refresh_from_db()
    assert (message.status, message.provider_id) == (Status.SENDING, "")
    assert InFlight.objects.count() == 1
    first, second = Attempt.objects.order_by("token")
    assert (first.outcome, first.late_outcome, second.outcome) == ("uncertain", "sent", "")


def test_a_late_uncertainty_does_not_unsettle_what_a_person_decided() -> None:
    _, (message,) = session_with("one")

    async def act() -> list[Settled]:
        async with workers() as (slow, judge):
            flight = await slow.fence_one()
            await judge.settle(refused(flight, OutcomeUnknown("its worker died")))
            await in_thread(messages.resolve, message.pk, outcome="failed", actor=ACTOR)
            return await slow.settle(refused(flight, OutcomeUnknown("timeout")))

    asyncio.run(act())
    message.refresh_from_db()
    assert message.status == Status.FAILED


def test_a_late_answer_frees_the_session_that_was_held_for_its_message() -> None:
    session_with("one", "two", on_uncertain=OnUncertain.HOLD_SESSION)

    async def act() -> None:
        async with workers() as (slow, judge):
            flight = await slow.fence_one()
            (held,) = await judge.settle(refused(flight, OutcomeUnknown("its worker died")))
            assert held.hold == "uncertain"
            await slow.settle(accepted(flight, "engine-1"))

    asyncio.run(act())
    assert SessionDispatch.objects.get().hold == ""
