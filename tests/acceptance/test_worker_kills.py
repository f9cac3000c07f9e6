"""All workers killed again and again, under load and at any moment: nothing lost, nothing twice, all in order."""

import os
import random
import signal
import sys
import time
from collections import defaultdict

import pytest
from django.db.models.functions import Now

from sessions_app.models import InFlight, Message, Status, Worker
from sessions_app.models.worker import STEADY
from tests.acceptance.engine import Engine, OneByOne
from tests.acceptance.stack import Stack
from tests.processes import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

SESSIONS = 200
KILLS = 20
# What one death leaves in doubt is so much at most, and its session waits until that was judged.
HURRIED = {"WAQUEUE_SEND_SECONDS": "5", "WAQUEUE_CONCURRENCY": "8"}


def let_them_judge() -> None:
    """Let all workers judge at once: none of them lives for long enough to have been steady."""
    Worker.objects.update(steady_since=Now() - STEADY)


@pytest.mark.fault(7)
# It starts 40 workers: 90 seconds, and many more on a machine that has other things to do.
@pytest.mark.timeout(600)
def test_all_workers_killed_20_times_at_random_moments_lose_nothing_and_send_nothing_twice(
    stack: Stack, engine: Engine
) -> None:
    # Random is when they die. WAQUEUE_TEST_SEED takes the moments of a run that failed.
    seed = int(os.environ.get("WAQUEUE_TEST_SEED") or random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"WAQUEUE_TEST_SEED={seed}\n")
    moments = random.Random(seed)
    served = [engine.session(f"s{number}") for number in range(SESSIONS)]
    behaviour = engine.on_send = OneByOne(0.03)
    submitted = 0
    under_load = 0
    for _ in range(KILLS):
        workers = [stack.worker(**HURRIED) for _ in range(2)]
        for session in served:
            stack.submit(session, [submitted])
        submitted += 1
        pids = [worker.pid for worker in workers]
        registered = Worker.objects.filter(pid__in=pids, stopped_at=None)
        wait_until(lambda known=registered: known.count() == 2, 60, "both workers work")
        let_them_judge()
        for worker in workers:
            # The moment itself is what is random: before the first claim, or in the middle of anything.
            time.sleep(moments.uniform(0, 0.5))
            worker.send(signal.SIGKILL)
        for worker in workers:
            assert worker.wait(10) == -signal.SIGKILL
        under_load += InFlight.objects.exists()
    assert under_load > KILLS / 2, "hardly anything was under way when they died"

    stack.judge(WAQUEUE_SEND_SECONDS="5")
    count = SESSIONS * submitted
    wait_until(lambda: not Message.objects.exclude(status__in=[Status.SENT, Status.UNCERTAIN]).exists(), 120, "all end")
    assert Message.objects.count() == count
    unknown = defaultdict(set)
    for name, text in Message.objects.filter(status=Status.UNCERTAIN).values_list("session__name", "text"):
        unknown[name].add(int(text))
    assert sum(map(len, unknown.values())) <= KILLS * 2 * int(HURRIED["WAQUEUE_CONCURRENCY"])
    for session in served:
        ledger = engine.ledger(session)
        assert ledger == sorted(set(ledger)), session.name
        assert set(range(submitted)) - set(ledger) <= unknown[session.name], session.name
    assert not behaviour.overlapping
    assert unknown
