"""Who gets a worker's attention, and which worker's: real processes, more work than they can do at once."""

import pytest
from django.db.models import Count

from sessions_app.models import Attempt, DesiredState, Message, Session, Status, Worker
from sessions_app.services import sessions
from tests.acceptance.stack import ACTOR, Stack
from tests.processes import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]


def submitted_in_bulk(stack: Stack, session: Session, count: int) -> None:
    """Give a session a long line."""
    for start in range(0, count, 2000):
        stack.submit(session, range(start, min(start + 2000, count)))


def test_a_long_line_delays_anothers_single_message_by_no_more_than_what_is_in_flight(stack: Stack) -> None:
    long = stack.session("long", desired_state=DesiredState.PAUSED)
    short = stack.session("short")
    submitted_in_bulk(stack, long, 6000)
    # With one message at once, a session that went on by itself would keep the other one waiting.
    worker = stack.ready_worker(WAQUEUE_CONCURRENCY="1")
    sessions.act(long, "resume", actor=ACTOR)
    for number in range(5):
        wait_until(lambda done=100 * number: len(stack.ledger(long)) > done, 30, "the long line is served")
        (single,) = stack.submit(short, [number])
        newest = Attempt.objects.latest("token").token
        wait_until(Message.objects.filter(pk=single.pk, status=Status.SENT).exists, 20, "the single one is sent")
        # Tokens count the attempts that came between.
        assert Attempt.objects.get(message_id=single.pk).token - newest < 60
    assert Message.objects.filter(session=long, status=Status.QUEUED).exists()
    assert worker.is_running()


def test_a_worker_that_comes_later_gets_its_share(stack: Stack) -> None:
    served = [stack.session(f"s{number}", delay_ms=100) for number in range(60)]
    for session in served:
        stack.submit(session, range(100))
    stack.ready_worker()
    stack.wait_for(600, Status.SENT, within_s=60)
    stack.ready_worker()
    late = Worker.objects.latest("started_at")
    wait_until(lambda: Attempt.objects.filter(worker_id=late.pk).count() > 300, 30, "the late worker sends")
    since = Attempt.objects.latest("token").token
    wait_until(lambda: Attempt.objects.filter(token__gt=since).count() > 1000, 30, "both send")
    shares = Attempt.objects.filter(token__gt=since).values("worker_id").annotate(count=Count("token"))
    counts = sorted(share["count"] for share in shares)
    assert len(counts) == 2
    assert counts[0] > 0.35 * sum(counts), counts
    stack.wait_for(6000, Status.SENT, within_s=120)
    for session in served:
        stack.assert_in_order_and_once(session, 100)


def test_a_pause_holds_from_the_next_message_on_though_a_session_goes_on_by_itself(stack: Stack) -> None:
    session = stack.session("s", delay_ms=20)
    stack.submit(session, range(400))
    stack.ready_worker()
    wait_until(lambda: len(stack.ledger(session)) > 20, 30, "it sends")
    sessions.act(session, "pause", actor=ACTOR)
    sent = len(stack.ledger(session))
    wait_until(lambda: not Message.objects.filter(status=Status.SENDING).exists(), 20, "what was in flight has landed")
    assert len(stack.ledger(session)) <= sent + 1
    sessions.act(session, "resume", actor=ACTOR)
    stack.wait_for(400, Status.SENT, within_s=60)
    stack.assert_in_order_and_once(session, 400)
