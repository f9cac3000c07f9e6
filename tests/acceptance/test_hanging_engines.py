"""Engines that hang: whoever is on another engine keeps its pace."""

import itertools
import statistics
from collections.abc import Iterable

import pytest

from sessions_app.models import Status
from sessions_app.services.pacing import Pacing
from tests import waha_stub
from tests.acceptance.engine import Clocked, Engine
from tests.acceptance.stack import Stack
from tests.lengths import how_many
from tests.processes import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True), pytest.mark.fault(24)]

PACE_SECONDS = 0.5
SEND_SECONDS = how_many(5, full=60)
# What a busy machine may add to a pace: to nearly all gaps, and to the longest one. Both are far from a hanging send.
LATE_SECONDS, LATEST_SECONDS = 1.5, how_many(3, full=6)
# So long that the first of the hanging sends is given up meanwhile.
MESSAGES = how_many(16, full=150)


def assert_pace_was_kept(times: Iterable[list[float]]) -> None:
    """Fail unless nearly every message came when its session's pace let it, and none came much later."""
    gaps = [later - earlier for own in times for earlier, later in itertools.pairwise(own)]
    assert statistics.median(gaps) < 2 * PACE_SECONDS
    assert statistics.quantiles(gaps, n=20)[-1] < PACE_SECONDS + LATE_SECONDS
    assert max(gaps) < PACE_SECONDS + LATEST_SECONDS < SEND_SECONDS


@pytest.mark.parametrize("hanging", [1, 100])
def test_sessions_whose_engine_hangs_for_as_long_as_a_send_may_take_delay_nobody_else(
    stack: Stack, engine: Engine, hanging: int
) -> None:
    stack.ready_worker(WAQUEUE_SEND_SECONDS=str(SEND_SECONDS))
    # Engines at addresses of their own, as the worker's client sees them: ten sessions each.
    hosts = tuple(f"127.0.0.{number + 1}" for number in range(max(1, hanging // 10)))
    with Engine(hosts=hosts) as stuck:
        stuck.on_send = waha_stub.silent
        for number in range(hanging):
            stack.submit(stuck.session(f"hanging{number}", host=hosts[number % len(hosts)]), range(2))
        wait_until(lambda: len(stuck.accepted) == hanging, 30, "all of them hang")
        assert {sent.headers["Host"] for sent in stuck.accepted} == {f"{host}:{stuck.port}" for host in hosts}
        clocked = engine.on_send = Clocked()
        pace = Pacing(min_interval_ms=int(1000 * PACE_SECONDS), max_interval_ms=int(1000 * PACE_SECONDS))
        served = [engine.session(f"s{number}", pacing=pace) for number in range(30)]
        for session in served:
            stack.submit(session, range(MESSAGES))
        stack.wait_for(1, Status.UNCERTAIN, within_s=SEND_SECONDS + 25)
        # Nobody waited for a hanging one to be given up, and all go on while they are.
        assert len(clocked.times) == len(served)
        assert stack.count(Status.SENT) < len(served) * MESSAGES
        stack.wait_for(len(served) * MESSAGES, Status.SENT, within_s=3 * MESSAGES)
        stack.wait_for(hanging, Status.UNCERTAIN, within_s=30)
    for session in served:
        assert engine.ledger(session) == list(range(MESSAGES))
    assert_pace_was_kept(clocked.times.values())
