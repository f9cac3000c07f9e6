"""A worker that dies at each step of its loop: nothing is lost, nothing goes twice unless a policy says so."""

import signal
from collections.abc import Callable

import pytest
import redis
from django.db.models import Min
from django.db.models.functions import Now

from sessions_app.models import Attempt, Event, Hold, InFlight, Message, OnUncertain, Session, Status, Worker
from sessions_app.queues import keys
from sessions_app.transports.waha import WahaTransport
from tests.acceptance.engine import Engine, Gate, Together
from tests.acceptance.stack import Stack
from tests.processes import wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("known_redis"),
]

# So long may a send take: whoever died is judged the sooner.
HURRIED = {"WAQUEUE_SEND_SECONDS": "5"}


def message(session: Session, number: int) -> Message:
    return Message.objects.get(session=session, text=str(number))


def assert_redis_is_clean(stack: Stack) -> None:
    """Fail unless Redis comes to hold no job, no queue and no due session."""
    client = redis.Redis.from_url(stack.redis.url)
    left = lambda: [*client.scan_iter("rq:job:*"), *client.scan_iter("rq:queue:wa:*"), *client.zrange(keys.DUE, 0, -1)]  # noqa: E731
    wait_until(lambda: not left(), 60, "Redis is put right")


@pytest.mark.fault(2)
def test_killed_after_its_claim_its_sessions_are_served_by_another_within_20_seconds(
    stack: Stack, engine: Engine
) -> None:
    served = [engine.session(f"s{number}") for number in range(3)]
    for session in served:
        stack.submit(session, range(3))
    stack.crash("claim: answered")
    died_at = Worker.objects.values_list(Now(), flat=True).get()
    assert not Attempt.objects.exists()
    stack.ready_worker()
    stack.wait_for(9, Status.SENT, within_s=60)
    assert [engine.ledger(session) for session in served] == [[0, 1, 2]] * 3
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}
    for first in Attempt.objects.values("session_id").annotate(at=Min("fenced_at")):
        assert (first["at"] - died_at).total_seconds() < 20


def die_at(point: str) -> Callable[[Stack, Engine], None]:
    return lambda stack, engine: stack.crash(point, **HURRIED)


def die_before_the_answer(stack: Stack, engine: Engine) -> None:
    """Die when the engine has accepted three messages and answered none."""
    engine.on_send = Gate()
    worker = stack.worker(**HURRIED)
    wait_until(lambda: len(engine.accepted) == 3, 60, "the engine has accepted three")
    worker.send(signal.SIGKILL)
    assert worker.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("die", "is_accepted", "has_more"),
    [
        pytest.param(die_at("fence: committed"), False, True, marks=pytest.mark.fault(3), id="fenced"),
        pytest.param(die_before_the_answer, True, True, marks=pytest.mark.fault(4), id="handed over"),
        pytest.param(die_at("send: accepted"), True, True, marks=pytest.mark.fault(5), id="answered"),
        pytest.param(die_at("settle: about to write"), True, False, marks=pytest.mark.fault(5), id="settling"),
        pytest.param(die_at("go on: about to write"), True, True, marks=pytest.mark.fault(5), id="going on"),
    ],
)
def test_killed_between_its_fence_and_its_settle_the_message_is_uncertain_and_goes_by_its_sessions_policy(
    stack: Stack, engine: Engine, die: Callable[[Stack, Engine], None], is_accepted: bool, has_more: bool
) -> None:
    served = {policy: engine.session(policy, on_uncertain=policy) for policy in OnUncertain.values}
    # Whichever is answered first, the engine has accepted all by then.
    engine.on_send = Together(len(served))
    for session in served.values():
        # Only a session that has more goes on in the commit of its settle.
        stack.submit(session, range(3 if has_more else 1))
    die(stack, engine)
    assert InFlight.objects.count() == stack.count(Status.SENDING) == 3
    handed_over = [0] if is_accepted else []
    assert [engine.ledger(session) for session in served.values()] == [handed_over] * 3
    engine.on_send = None
    for session in served.values():
        stack.submit(session, range(3 if has_more else 1, 3))

    judge = stack.judge(**HURRIED)
    hold, hold_session, resend = (served[policy] for policy in ("hold", "hold_session", "resend"))
    stack.wait_for(5, Status.SENT, within_s=90)
    wait_until(lambda: not InFlight.objects.exists(), 30, "nothing is in flight")
    assert engine.ledger(hold) == [*handed_over, 1, 2]
    assert message(hold, 0).status == Status.UNCERTAIN
    assert engine.ledger(hold_session) == handed_over
    assert message(hold_session, 0).status == Status.UNCERTAIN
    assert Session.objects.get(pk=hold_session.pk).dispatch.hold == Hold.UNCERTAIN
    # Sent again by policy, which is marked, counted and told; and never more than once for one death.
    assert engine.ledger(resend) == [*handed_over, 0, 1, 2]
    again = message(resend, 0)
    # Each time with the id that leads back to it: an engine that knows its ids sees that it is the same message.
    ids = [sent.body["id"] for sent in engine.accepted if sent.body["session"] == "resend" and sent.text == "0"]
    assert ids == [WahaTransport.client_id(again.pk)] * len([*handed_over, 0])
    assert (again.status, again.resends, again.attempts) == (Status.SENT, 1, 2)
    assert list(Attempt.objects.filter(message=again).values_list("outcome", flat=True)) == ["uncertain", "sent"]
    assert Event.objects.filter(kind="message.resent", message_id=again.pk).count() == 1
    assert Event.objects.filter(kind="message.uncertain").count() == 2
    assert Event.objects.filter(kind="worker.gone").count() == 1
    assert "session resend: 1 message uncertain, sent again by policy" in judge.output


@pytest.mark.fault(6)
def test_killed_between_its_settle_and_redis_nothing_is_sent_again_and_redis_is_put_right(
    stack: Stack, engine: Engine
) -> None:
    session = engine.session("s")
    (settled,) = stack.submit(session, [0])
    stack.crash("settle: written")
    client = redis.Redis.from_url(stack.redis.url)
    assert (message(session, 0).status, InFlight.objects.count()) == (Status.SENT, 0)
    assert client.lrange(keys.queue_key("s"), 0, -1) == [str(settled.pk).encode()]
    stack.ready_worker()
    assert_redis_is_clean(stack)
    stack.submit(session, [1, 2])
    stack.wait_for(3, Status.SENT, within_s=60)
    assert engine.ledger(session) == [0, 1, 2]
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}
    assert_redis_is_clean(stack)


@pytest.mark.fault(3)
@pytest.mark.fault(6)
def test_killed_when_it_had_settled_one_and_fenced_the_next_in_one_commit_neither_is_sent_again(
    stack: Stack, engine: Engine
) -> None:
    session = engine.session("s")
    stack.submit(session, range(3))
    stack.crash("go on: committed", **HURRIED)
    statuses = Message.objects.order_by("seq").values_list("status", flat=True)
    assert list(statuses) == [Status.SENT, Status.SENDING, Status.QUEUED]
    assert redis.Redis.from_url(stack.redis.url).llen(keys.queue_key("s")) == 3
    stack.judge(**HURRIED)
    stack.wait_for(2, Status.SENT, within_s=90)
    assert list(statuses.all()) == [Status.SENT, Status.UNCERTAIN, Status.SENT]
    assert engine.ledger(session) == [0, 2]
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}
    assert_redis_is_clean(stack)
