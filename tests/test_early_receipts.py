"""A receipt may come before the send's own answer: it waits for that, and the end is as if it had come after."""

import asyncio
import random
from datetime import timedelta

import pytest
from django.utils import timezone

from sessions_app.exceptions import OutcomeUnknown
from sessions_app.models import Attempt, Message, OnUncertain, Receipt, Status
from sessions_app.services import receipts
from sessions_app.worker.outcomes import accepted, refused
from tests.dispatch_lab import in_thread, workers
from tests.factories import become, now
from tests.hook_lab import ack, bare, have_waited, post, sent, tell, waha_message, waha_session

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("answer", "stages", "status"),
    [
        ("accepted", ("delivered",), Status.DELIVERED),
        ("accepted", ("read", "sent"), Status.READ),
        ("accepted", ("accepted",), Status.SENT),
        ("lost", ("accepted",), Status.SENT),
        ("lost", ("sent", "delivered"), Status.DELIVERED),
        ("lost", ("failed",), Status.UNCERTAIN),
        ("accepted", ("failed",), Status.UNCERTAIN),
    ],
)
def test_a_receipt_before_the_answer_waits_for_it_and_the_end_is_the_same(
    answer: str, stages: tuple[str, ...], status: Status
) -> None:
    message = waha_message()

    async def act() -> None:
        async with workers(1) as (worker,):
            flight = await worker.fence_one("school")
            await in_thread(tell, message, *stages)
            assert (await in_thread(now, message)).status == Status.SENDING
            await in_thread(receipts.look_again)
            outcome = (
                accepted(flight, bare(message)) if answer == "accepted" else refused(flight, OutcomeUnknown("lost"))
            )
            await worker.settle(outcome)

    asyncio.run(act())
    have_waited()
    assert receipts.look_again() == len(stages)
    assert now(message).status == status
    assert not Receipt.objects.exclude(next_look_at=None).exists()


def test_a_resend_by_policy_that_was_queued_meanwhile_is_withdrawn() -> None:
    message = waha_message(on_uncertain=OnUncertain.RESEND)

    async def act() -> None:
        async with workers(1) as (worker,):
            flight = await worker.fence_one("school")
            await in_thread(tell, message, "sent")
            await worker.settle(refused(flight, OutcomeUnknown("lost")))

    asyncio.run(act())
    assert (now(message).status, message.resends) == (Status.QUEUED, 1)
    have_waited()
    receipts.look_again()
    assert now(message).status == Status.SENT


def test_an_answer_after_the_receipt_is_kept_as_evidence_and_changes_nothing() -> None:
    message = waha_message()

    async def act() -> None:
        async with workers(1) as (worker,):
            flight = await worker.fence_one("school")
            await worker.settle(refused(flight, OutcomeUnknown("lost")))
            await in_thread(tell, message, "delivered")
            (late,) = await worker.settle(accepted(flight, bare(message)))
            assert not late.is_current

    asyncio.run(act())
    assert now(message).status == Status.DELIVERED
    assert Attempt.objects.get().late_outcome == "sent"


def test_a_receipt_for_an_id_of_the_engines_waits_until_the_answer_has_told_it() -> None:
    message = waha_message()
    tell("BAE5F0000000", "delivered")
    have_waited()
    receipts.look_again()
    assert Receipt.objects.get().message is None and Receipt.objects.get().next_look_at is not None
    sent(message, "BAE5F0000000")
    have_waited()
    receipts.look_again()
    assert now(message).status == Status.DELIVERED
    assert Receipt.objects.get().message == message


def test_what_stays_unknown_is_kept_and_looked_for_ever_more_seldom_and_then_no_more() -> None:
    waha_session()
    tell("BAE5F0000000", "delivered")
    have_waited(60)
    receipts.look_again()
    receipt = Receipt.objects.get()
    assert receipt.next_look_at is not None and receipt.next_look_at > timezone.now() + timedelta(seconds=50)
    have_waited(3600)
    receipts.look_again()
    assert Receipt.objects.get().next_look_at is None
    assert receipts.look_again() == 0


def test_a_receipt_and_the_fence_of_a_resend_leave_one_of_them_standing() -> None:
    """Either the resend is withdrawn, or it has begun and its own answer is awaited; never both."""
    for number in range(8):
        name = f"s{number}"
        message = become(waha_message(name=name), Status.QUEUED, resends=1)

        async def act(name: str = name, message: Message = message) -> int:
            async with workers(1) as (worker,):
                body = ack(message, "sent", session=name)
                told = asyncio.create_task(in_thread(post, body, session=name))
                # Random is who comes first, and how far; whatever it is, the end has to be one of the two.
                await asyncio.sleep(random.random() / 100)
                fenced = await worker.fence(name)
                await told
                return len(fenced.flights)

        flights = asyncio.run(act())
        assert now(message).status == (Status.SENDING if flights else Status.SENT)
