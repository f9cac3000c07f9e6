"""A worker that is stopped for so long that others take over, and then goes on: nothing is handed over twice for it."""

import signal
import time

import pytest
from django.db.models.functions import Now

from sessions_app.models import Attempt, Hold, InFlight, Message, Session, Status, Worker
from sessions_app.worker.sender import FROZEN_SECONDS
from tests.acceptance.engine import Engine, Gate
from tests.acceptance.stack import Stack
from tests.lengths import freeze_s
from tests.processes import Process, wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.django_db(transaction=True),
    pytest.mark.fault("14a"),
    pytest.mark.usefixtures("known_redis"),
]

# So long may a send take: whoever is frozen is judged the sooner.
HURRIED = {"WAQUEUE_SEND_SECONDS": "5"}


def outcomes(number: int) -> list[tuple[str, str]]:
    """What came of each attempt of a message, and what was heard of it too late."""
    return list(
        Attempt.objects.filter(message__text=str(number)).order_by("token").values_list("outcome", "late_outcome")
    )


def thaw(worker: Process) -> None:
    """Let it go on, when it was frozen for long enough after all else that was waited for, until it beats again."""
    end = time.monotonic() + freeze_s(0)
    wait_until(lambda: time.monotonic() > end, freeze_s(0) + 10, "the freeze lasts")
    thawed_at = Worker.objects.filter(pid=worker.pid).values_list(Now(), flat=True).get()
    worker.send(signal.SIGCONT)
    wait_until(Worker.objects.filter(pid=worker.pid, heartbeat_at__gt=thawed_at).exists, 30, "it beats again")


def is_missed(worker: Process) -> bool:
    """Whether somebody has seen that it is silent, and ended its connections to PostgreSQL."""
    return Worker.objects.filter(pid=worker.pid, missed_at__isnull=False).exists()


def assert_it_serves_again(stack: Stack, worker: Process, other: Process, session: Session, number: int) -> None:
    """Fail unless it sends one more message, alone."""
    assert other.stop() == 0
    stack.submit(session, [number])
    wait_until(Message.objects.filter(text=str(number), status=Status.SENT).exists, 30, "the thawed worker sends")
    assert worker.is_running()
    wait_until(lambda: not InFlight.objects.exists(), 30, "nothing stays in flight")


def test_frozen_after_its_claim_it_takes_nothing_that_another_has_taken_meanwhile(stack: Stack, engine: Engine) -> None:
    session = engine.session("s")
    stack.submit(session, range(4))
    frozen = stack.freeze("claim: answered")
    gate = engine.on_send = Gate(held=1)
    # So long that the other's send is under way still when the freeze is over.
    other = stack.ready_worker(WAQUEUE_SEND_SECONDS="240")
    wait_until(lambda: is_missed(frozen) and engine.ledger(session) == [0, 1], 60, "another is sending")
    thaw(frozen)
    # Once it sends for another session, it is past what it had claimed before.
    neighbour = engine.session("neighbour")
    its_own = Attempt.objects.filter(worker_id=Worker.objects.get(pid=frozen.pid).pk)
    wait_until(lambda: stack.submit(neighbour, [100]) and its_own.exists(), 30, "it claims and sends")
    assert set(its_own.values_list("session_id", flat=True)) == {neighbour.pk}
    assert engine.ledger(session) == [0, 1]
    assert Message.objects.get(text="1").status == Status.SENDING
    gate.is_open = True
    unsent = Message.objects.exclude(status=Status.SENT)
    wait_until(lambda: not unsent.exists(), 60, "all are sent, also the neighbour's")
    assert_it_serves_again(stack, frozen, other, session, 4)
    assert engine.ledger(session) == list(range(5))
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}


def test_frozen_after_its_fence_it_puts_back_when_nobody_has_judged_it(stack: Stack, engine: Engine) -> None:
    session = engine.session("s")
    stack.submit(session, range(3))
    frozen = stack.freeze("fence: committed")
    # As PostgreSQL's clock has it, which is no other than the worker's.
    fenced = Attempt.objects.annotate(now=Now())
    age = lambda: (fenced.get().now - fenced.get().fenced_at).total_seconds()  # noqa: E731
    too_long = freeze_s(FROZEN_SECONDS + 1)
    wait_until(lambda: age() > too_long, too_long + 60, "it is frozen for too long")
    frozen.send(signal.SIGCONT)
    stack.wait_for(3, Status.SENT, within_s=60)
    assert engine.ledger(session) == [0, 1, 2]
    assert outcomes(0) == [("returned", ""), ("sent", "")]
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}


@pytest.mark.parametrize(
    ("point", "caught", "policy"),
    [
        ("fence: committed", 0, "hold"),
        ("fence: committed", 0, "resend"),
        # With the settle of the message before, in one commit.
        ("go on: committed", 1, "hold"),
    ],
)
def test_frozen_after_its_fence_it_hands_nothing_over_that_was_judged_meanwhile(
    stack: Stack, engine: Engine, point: str, caught: int, policy: str
) -> None:
    session = engine.session("s", on_uncertain=policy)
    stack.submit(session, range(4))
    frozen = stack.freeze(point, **HURRIED)
    other = stack.judge(**HURRIED)
    is_resent = policy == "resend"
    stack.wait_for(4 if is_resent else 3, Status.SENT, within_s=90)
    thaw(frozen)
    wait_until(lambda: outcomes(caught)[0] == ("uncertain", "returned"), 30, "that it was put back is kept as evidence")
    assert_it_serves_again(stack, frozen, other, session, 4)
    assert engine.ledger(session) == [number for number in range(5) if is_resent or number != caught]
    # What has been overtaken does not come back by itself: its session has gone on.
    status = Message.objects.get(text=str(caught)).status
    assert status == (Status.SENT if is_resent else Status.UNCERTAIN)
    assert len(outcomes(caught)) == (2 if is_resent else 1)


@pytest.mark.parametrize("policy", ["hold", "hold_session", "resend"])
def test_frozen_with_the_answer_in_hand_its_late_answer_settles_what_nobody_has_decided(
    stack: Stack, engine: Engine, policy: str
) -> None:
    session = engine.session("s", on_uncertain=policy)
    stack.submit(session, range(3))
    frozen = stack.freeze("send: accepted", **HURRIED)
    first_id = "3EB000000001"
    assert engine.ledger(session) == [0]
    other = stack.judge(**HURRIED)
    held = Session.objects.filter(dispatch__hold=Hold.UNCERTAIN)
    expected = {"hold": [0, 1, 2], "hold_session": [0], "resend": [0, 0, 1, 2]}[policy]
    wait_until(
        lambda: (policy != "hold_session" or held.exists()) and engine.ledger(session) == expected, 90, "it is judged"
    )
    stack.wait_for(len(expected) - 1, Status.SENT, within_s=30)
    assert Message.objects.get(text="0").status == (Status.SENT if policy == "resend" else Status.UNCERTAIN)

    thaw(frozen)
    # One that was sent again by its policy is another attempt's by now: the late answer is evidence.
    late = [("uncertain", "sent"), ("sent", "")] if policy == "resend" else [("sent", "")]
    wait_until(lambda: outcomes(0) == late, 30, "the late answer is written")
    stack.wait_for(3, Status.SENT, within_s=60)
    assert not held.exists()
    assert_it_serves_again(stack, frozen, other, session, 3)
    assert engine.ledger(session) == [*([0] if policy == "resend" else []), 0, 1, 2, 3]
    first = Message.objects.get(text="0")
    assert (first.provider_id == first_id, first.resends) == ((False, 1) if policy == "resend" else (True, 0))


def test_frozen_while_the_engine_works_the_message_is_not_handed_over_again(stack: Stack, engine: Engine) -> None:
    session = engine.session("s")
    stack.submit(session, range(3))
    gate = engine.on_send = Gate(held=0)
    frozen = stack.worker(**HURRIED)
    wait_until(lambda: engine.ledger(session) == [0], 60, "the engine has the first")
    frozen.send(signal.SIGSTOP)
    other = stack.judge(**HURRIED)
    stack.wait_for(2, Status.SENT, within_s=90)
    assert Message.objects.get(text="0").status == Status.UNCERTAIN
    gate.is_open = True
    thaw(frozen)
    assert_it_serves_again(stack, frozen, other, session, 3)
    # The answer waited in its socket, behind a deadline that had passed: it may have been read or not.
    assert Message.objects.get(text="0").status in (Status.UNCERTAIN, Status.SENT)
    assert engine.ledger(session) == [0, 1, 2, 3]
