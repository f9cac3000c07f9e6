"""Reconciliation beside a worker that sends and clients that make sessions: nothing that lives becomes an orphan."""

import contextlib

import pytest
import redis

from sessions_app.models import Orphan, Session, Status
from sessions_app.reconciliation.run import AlreadyRunning
from tests.acceptance.stack import Stack
from tests.factories import Threads
from tests.processes import wait_until
from tests.reconciliation_lab import found, run, run_when_alone

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True), pytest.mark.fault(17)]

RUNS = 4
LONG = 100
SHORT = 3


def test_no_session_loses_a_message_to_an_orphan_however_often_one_reconciles_while_it_is_made_and_sends(
    stack: Stack,
) -> None:
    # Somebody else's keys make a walk through Redis last, so that sessions are made during one.
    with redis.Redis.from_url(stack.redis.url) as client:
        client.mset({f"cache:{number}": "" for number in range(50_000)})
    stack.ready_worker(WAQUEUE_RECONCILE_SECONDS="3600")
    sending = [stack.session(f"sending{number}", delay_ms=20) for number in range(10)]
    for session in sending:
        stack.submit(session, range(LONG))
    made: list[Session] = []

    def make() -> None:
        while runs < RUNS or stack.count(Status.SENT) < len(sending) * LONG:
            session = stack.session(f"made{len(made)}")
            stack.submit(session, range(SHORT))
            made.append(session)

    runs = 0
    making = Threads([make])
    while not making.is_over:
        # The worker reconciles when it starts.
        with contextlib.suppress(AlreadyRunning):
            run()
            runs += 1
    assert making.join() == [None]
    assert len(made) > 10
    stack.wait_for(len(sending) * LONG + len(made) * SHORT, Status.SENT, within_s=30)
    assert not Orphan.objects.exists()
    for session in sending:
        stack.assert_in_order_and_once(session, LONG)
    for session in made:
        stack.assert_in_order_and_once(session, SHORT)
    wait_until(lambda: found(run_when_alone(dry_run=True)) == [], 10, "the mirror is right")
