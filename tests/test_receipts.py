"""Receipts bring a message to where they say that it is: once, never backwards, in whatever order they come."""

import itertools
import logging
import random
from datetime import timedelta

import pytest
import redis
from django.db import connection, transaction
from django.utils import timezone

from sessions_app.models import (
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
from tests.api_client import ApiClient
from tests.factories import (
    ACTOR,
    Threads,
    at_once,
    become,
    hold,
    is_due,
    job_ids,
    now,
    submit,
    traces,
    wait_until_blocked,
)
from tests.hook_lab import ack, bare, have_waited, post, sent, tell, waha_message, waha_session

pytestmark = pytest.mark.django_db(transaction=True)


def kinds(message: Message) -> list[str]:
    return [kind for kind in traces(message)[0] if kind != "message.queued"]


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
    session = waha_session()
    submit(session, *map(str, range(500)))
    with connection.cursor() as cursor:
        # Of a session that has hardly any messages, another index would do as well.
        cursor.execute("UPDATE wa_message SET status = 'sent', provider_id = 'BAE' || seq")
        cursor.execute("ANALYZE wa_message")
        cursor.execute("SET enable_seqscan = off")
        cursor.execute("EXPLAIN " + receipts._OF_ENGINE, ["BAE5F", session.pk])
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
    assert Message.objects.filter(status=Status.READ).count() == 250
