"""Receipts bring a message to where they say that it is: once, never backwards, in whatever order they come."""

import asyncio
import itertools
import logging
import random
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.db import connection, transaction
from django.utils import timezone

from sessions_app.exceptions import OutcomeUnknown
from sessions_app.models import (
    Attempt,
    Event,
    Hold,
    Message,
    OnUncertain,
    Receipt,
    Session,
    SessionDispatch,
    Status,
)
from sessions_app.services import messages, receipts
from sessions_app.worker.outcomes import accepted, refused
from sessions_app.worker.settle import settle
from tests.api_client import ApiClient
from tests.dispatch_lab import LabWorker, in_thread, workers
from tests.factories import (
    ACTOR,
    Threads,
    at_once,
    become,
    hold,
    is_due,
    job_ids,
    submit,
    traces,
    wait_until_blocked,
)
from tests.hook_lab import ack, bare, post, tell, waha_message, waha_session
from tests.processes import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def sent(message: Message, provider_id: str = "") -> Message:
    """Have it accepted by WAHA, with our id unless it gave another."""
    return become(message, Status.SENT, sent_at=timezone.now(), provider_id=provider_id or bare(message), token=1)


def now(message: Message) -> Message:
    message.refresh_from_db()
    return message


def kinds(message: Message) -> list[str]:
    return [kind for kind in traces(message)[0] if kind != "message.queued"]


def have_waited(seconds: float = 10) -> None:
    """Let all receipts that wait have waited for so long."""
    Receipt.objects.exclude(next_look_at=None).update(
        next_look_at=timezone.now() - timedelta(seconds=1), received_at=timezone.now() - timedelta(seconds=seconds)
    )


# Sent, delivered, read


@pytest.mark.fault(30)
def test_in_whatever_order_they_come_the_message_ends_read_and_never_goes_back() -> None:
    session = waha_session()
    for order in itertools.permutations(("accepted", "sent", "delivered", "read")):
        message = sent(submit(session, "Hola")[0])
        came: list[str] = []
        for stage in order:
            assert tell(message, stage) == [1]
            came.append(now(message).status)
        ranks = [("sent", "delivered", "read").index(status) for status in came]
        assert ranks == sorted(ranks), order
        assert message.status == Status.READ
        assert message.delivered_at is not None and message.read_at is not None
        assert message.provider_id == bare(message)


@pytest.mark.fault(30)
def test_the_same_receipt_ten_times_counts_once_also_under_other_events() -> None:
    message = sent(waha_message())
    body = ack(message, "delivered")
    assert [post(body)["receipts"] for _ in range(10)] == [1] + [0] * 9
    first = now(message).delivered_at
    assert tell(message, *["delivered"] * 10) == [1] * 10
    assert now(message).delivered_at == first
    assert kinds(message) == ["message.delivered"]


def test_ten_at_once_of_one_event_count_once() -> None:
    message = sent(waha_message())
    body = ack(message, "read")
    answers = at_once(*[lambda: post(body)] * 8)
    assert sorted(answer["receipts"] for answer in answers) == [0] * 7 + [1]
    assert (now(message).status, kinds(message)) == (Status.READ, ["message.read"])


def test_delivered_and_read_at_once_leave_both_their_times() -> None:
    for number in range(5):
        message = sent(waha_message(name=f"s{number}"))
        bodies = [ack(message, stage, session=f"s{number}") for stage in ("delivered", "read")]
        random.shuffle(bodies)
        at_once(*[lambda body=body, name=f"s{number}": post(body, session=name) for body in bodies])
        assert now(message).status == Status.READ
        assert message.delivered_at is not None and message.read_at is not None


def test_each_step_is_an_event_that_says_by_what() -> None:
    message = sent(waha_message())
    tell(message, "sent", "delivered", "read")
    assert kinds(message) == ["message.delivered", "message.read"]
    assert Event.objects.get(kind="message.read").data == {"receipt": "read", "source": "hook"}


def test_an_id_that_the_engine_gave_is_matched_as_well() -> None:
    message = sent(waha_message(), "BAE5F0000000")
    assert tell("BAE5F0000000", "delivered") == [1]
    assert now(message).status == Status.DELIVERED


def test_the_look_for_an_engines_id_uses_its_index() -> None:
    waha_session()
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        cursor.execute("EXPLAIN " + receipts._OF_ENGINE, ["BAE5F", 1])
        plan = "\n".join(row[0] for row in cursor.fetchall())
        cursor.execute("RESET enable_seqscan")
    assert "wa_message_of_engine" in plan, plan


def test_times_are_the_engines_within_reason() -> None:
    message = sent(waha_message())
    Message.objects.filter(pk=message.pk).update(created_at=timezone.now() - timedelta(hours=3))
    tell(message, "delivered", age_s=3600)
    tell(message, "read", age_s=-7200)
    assert now(message).delivered_at is not None and message.read_at is not None
    age = (timezone.now() - message.delivered_at).total_seconds()  # type: ignore[operator]
    assert 3500 < age < 3700
    assert message.read_at <= timezone.now()  # type: ignore[operator]


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.EXPIRED, Status.ORPHANED])
def test_what_was_decided_stays_and_the_receipt_is_evidence(status: Status) -> None:
    message = become(waha_message(), status)
    assert tell(message, "delivered") == [1]
    assert now(message).status == status
    assert Receipt.objects.get().message == message
    assert Receipt.objects.get().next_look_at is None


# Uncertain, resolved


@pytest.mark.parametrize(
    ("stage", "status"), [("accepted", "sent"), ("sent", "sent"), ("delivered", "delivered"), ("read", "read")]
)
def test_a_receipt_resolves_an_uncertain_message(stage: str, status: str, redis_client: redis.Redis) -> None:
    message = become(waha_message(), Status.UNCERTAIN, error_detail="no answer")
    redis_client.flushdb()
    tell(message, stage)
    assert now(message).status == status
    assert message.provider_id == bare(message) and message.sent_at is not None
    event = Event.objects.get(kind="message.resolved")
    assert event.data == {"receipt": stage, "source": "hook", "resolved_as": status}
    assert is_due(redis_client, "school")


def test_the_session_that_was_held_for_it_goes_on_once_none_is_left(redis_client: redis.Redis) -> None:
    session = waha_session(on_uncertain=OnUncertain.HOLD_SESSION)
    first, second = [become(each, Status.UNCERTAIN) for each in submit(session, "1", "2")]
    hold(session, Hold.UNCERTAIN)
    tell(first, "sent")
    assert SessionDispatch.objects.get().hold == Hold.UNCERTAIN
    redis_client.flushdb()
    tell(second, "sent")
    assert SessionDispatch.objects.get().hold == Hold.NONE
    assert is_due(redis_client, "school")


def test_the_last_two_that_are_resolved_at_once_end_the_hold() -> None:
    session = waha_session(on_uncertain=OnUncertain.HOLD_SESSION)
    one, other = [become(each, Status.UNCERTAIN) for each in submit(session, "1", "2")]
    hold(session, Hold.UNCERTAIN)
    with transaction.atomic():
        messages.resolve(one.pk, outcome="sent", actor=ACTOR)
        receipt = Threads([lambda: tell(other, "sent")])
        # It waits for the first one's commit, and so sees that none is left.
        wait_until_blocked()
    assert receipt.join() == [[1]]
    assert SessionDispatch.objects.get(session=session).hold == Hold.NONE


@pytest.mark.parametrize("why", [Hold.REFUSED, Hold.NOT_CONNECTED, Hold.DOUBT])
def test_a_hold_for_another_reason_stays(why: Hold) -> None:
    message = become(waha_message(), Status.UNCERTAIN)
    hold(message.session, why)
    tell(message, "read")
    assert SessionDispatch.objects.get().hold == why


@pytest.mark.parametrize("resends", [1, 0])
def test_a_resend_that_is_still_queued_is_withdrawn(resends: int, redis_client: redis.Redis) -> None:
    message = waha_message()
    messages.nudge(message.pk)
    assert job_ids(redis_client, "school") == [str(message.pk)]
    later = timezone.now() + timedelta(hours=1)
    become(message, Status.QUEUED, resends=resends, attempts=1, next_attempt_at=later)
    tell(message, "sent")
    assert (now(message).status, message.next_attempt_at) == (Status.SENT, None)
    assert kinds(message) == ["message.resolved"]
    assert job_ids(redis_client, "school") == []


def test_that_the_engine_says_it_failed_leaves_an_uncertain_message_with_the_evidence() -> None:
    message = become(waha_message(), Status.UNCERTAIN)
    tell(message, "failed", "accepted")
    assert now(message).status == Status.UNCERTAIN
    assert kinds(message) == []
    assert set(Receipt.objects.values_list("message", "stage")) == {(message.pk, "failed"), (message.pk, "accepted")}


@pytest.mark.parametrize("order", [("failed", "accepted"), ("accepted", "failed")])
def test_that_an_accepted_message_failed_makes_it_uncertain_and_somebody_is_told(
    order: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    message = sent(waha_message())
    tell(message, *order)
    assert (now(message).status, message.error_code) == (Status.UNCERTAIN, "receipt")
    assert kinds(message) == ["message.uncertain"]
    assert any(
        record.levelno == logging.WARNING and str(message.pk) in record.getMessage() for record in caplog.records
    )
    tell(message, "delivered")
    assert now(message).status == Status.DELIVERED
    assert kinds(message) == ["message.uncertain", "message.resolved"]


@pytest.mark.parametrize("proof", ["sent", "delivered", "read"])
def test_a_failure_takes_nothing_back_that_is_proven(proof: str) -> None:
    message = sent(waha_message())
    tell(message, proof, "failed")
    assert now(message).status == proof


def test_a_failure_of_an_earlier_attempt_says_nothing_of_a_later_one() -> None:
    message = sent(waha_message())
    tell(message, "failed")
    become(message, Status.SENT, token=2)
    tell(message, "accepted")
    assert now(message).status == Status.SENT
    tell(message, "failed")
    assert now(message).status == Status.UNCERTAIN


# Before the send's own answer


async def _fenced(worker: LabWorker) -> Any:
    (flight,) = (await worker.fence("school")).flights
    return flight


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
            flight = await _fenced(worker)
            await in_thread(tell, message, *stages)
            assert (await in_thread(now, message)).status == Status.SENDING
            await in_thread(receipts.look_again)
            outcome = (
                accepted(flight, bare(message)) if answer == "accepted" else refused(flight, OutcomeUnknown("lost"))
            )
            await settle(worker.connection, [outcome])

    asyncio.run(act())
    have_waited()
    assert receipts.look_again() == len(stages)
    assert now(message).status == status
    assert not Receipt.objects.exclude(next_look_at=None).exists()


def test_a_resend_by_policy_that_was_queued_meanwhile_is_withdrawn() -> None:
    message = waha_message(on_uncertain=OnUncertain.RESEND)

    async def act() -> None:
        async with workers(1) as (worker,):
            flight = await _fenced(worker)
            await in_thread(tell, message, "sent")
            await settle(worker.connection, [refused(flight, OutcomeUnknown("lost"))])

    asyncio.run(act())
    assert (now(message).status, message.resends) == (Status.QUEUED, 1)
    have_waited()
    receipts.look_again()
    assert now(message).status == Status.SENT


def test_an_answer_after_the_receipt_is_kept_as_evidence_and_changes_nothing() -> None:
    message = waha_message()

    async def act() -> None:
        async with workers(1) as (worker,):
            flight = await _fenced(worker)
            await settle(worker.connection, [refused(flight, OutcomeUnknown("lost"))])
            await in_thread(tell, message, "delivered")
            (late,) = await settle(worker.connection, [accepted(flight, bare(message))])
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
                await asyncio.sleep(random.random() / 100)
                fenced = await worker.fence(name)
                await told
                return len(fenced.flights)

        flights = asyncio.run(act())
        assert now(message).status == (Status.SENDING if flights else Status.SENT)


# What people see


def test_the_history_tells_of_each_receipt() -> None:
    message = sent(waha_message())
    tell(message, "sent", "delivered", "failed")
    history = ApiClient().get(f"/whatsapp/messages/{message.pk}")["history"]
    told = [(item["what"], item["by"]) for item in history if item["what"].startswith("receipt.")]
    assert told == [("receipt.sent", "hook"), ("receipt.delivered", "hook"), ("receipt.failed", "hook")]


def test_a_deleted_sessions_message_is_not_told_of_any_more() -> None:
    message = sent(waha_message())
    Session.objects.update(deleted_at=timezone.now())
    assert post(ack(message, "read")).status == 404
    assert now(message).status == Status.SENT


def test_receipts_of_many_messages_are_applied_in_parts() -> None:
    session = waha_session()
    made = submit(session, *map(str, range(250)))
    for message in made:
        become(message, Status.SENDING)
        receipts.record(session, receipts.ReceiptIn(bare(message), receipts.ReceiptStage.READ, str(message.pk)))
    Message.objects.update(status=Status.SENT)
    have_waited()
    assert [receipts.look_again() for _ in range(3)] == [200, 50, 0]
    wait_until(lambda: Message.objects.filter(status=Status.READ).count() == 250, 1, "all are read")
