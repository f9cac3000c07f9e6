"""Who gets a worker's attention, and which worker's: real processes, more work than they can do at once."""

from datetime import timedelta

import pytest
import redis
from django.db.models import Count

from sessions_app.models import Attempt, DesiredState, Message, Reconciliation, Status, Worker
from sessions_app.queues import keys
from sessions_app.services import sessions
from sessions_app.worker.dispatcher import _GO_ON_SECONDS
from tests.acceptance.engine import Engine, Gate
from tests.acceptance.stack import ACTOR, Stack
from tests.processes import wait_until
from tests.size_lab import lengthen

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

LONG = 100_000


@pytest.mark.usefixtures("known_redis")
def test_anothers_single_message_waits_for_no_more_than_one_claim_of_a_long_line(stack: Stack, engine: Engine) -> None:
    long = engine.session("long", desired_state=DesiredState.PAUSED)
    short = engine.session("short")
    # With one message at once, a session that went on by itself would keep the other one waiting.
    worker = stack.ready_worker(WAQUEUE_CONCURRENCY="1", WAQUEUE_RECONCILE_SECONDS="3600")
    wait_until(Reconciliation.objects.finished().exists, 60, "the run of its start is over, which would signal")
    # Its jobs are not in the mirror, which decides nothing.
    lengthen(stack.submit(long, [1])[0], LONG)
    sessions.act(long, "resume", actor=ACTOR)
    client = redis.Redis.from_url(stack.redis.url)
    # Nobody signals the long line any more: its version counts its claims.
    claims = lambda: int(client.hget(keys.VERSIONS, long.name) or 0)  # noqa: E731
    between = []
    for number in range(LONG, LONG + 5):
        sent = len(engine.ledger(long))
        wait_until(lambda done=sent: len(engine.ledger(long)) > done + 20, 30, "the long line is served")
        gate = engine.on_send = Gate(held=number)
        (single,) = stack.submit(short, [number])
        claims_before, due_at = claims(), stack.now()
        wait_until(lambda wanted=number: wanted in engine.ledger(short), 30, "the single one is with the engine")
        # As long as it is there, the worker has no room for another claim.
        assert claims() - claims_before <= 1
        fenced_at = Attempt.objects.get(message_id=single.pk).fenced_at
        ahead = Attempt.objects.filter(session_id=long.pk, fenced_at__gt=due_at, fenced_at__lt=fenced_at)
        # The claim that was under way goes on for a second at most, with the message that was being decided then; the
        # other, if the line was given back just before, sends one message, since now another session is due.
        over_at = due_at + timedelta(seconds=_GO_ON_SECONDS)
        assert ahead.filter(fenced_at__gt=over_at).count() <= 2
        between.append(ahead.count())
        gate.is_open = True
    # Where nothing stalls, the worker hears of the other session at once, and not at the end of that second.
    assert sorted(between)[2] <= 10, between
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
