"""Engines that hang: whoever is on another engine keeps its pace."""

import itertools
import statistics

import pytest

from sessions_app.models import Status
from sessions_app.services.pacing import Pacing
from tests import waha_stub
from tests.acceptance.engine import Clocked, Engine
from tests.acceptance.stack import Stack
from tests.processes import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True), pytest.mark.fault(24)]

PACE_SECONDS = 0.5


@pytest.mark.parametrize("hanging", [1, 100])
def test_sessions_whose_engine_hangs_for_as_long_as_a_send_may_take_delay_nobody_else(
    stack: Stack, engine: Engine, hanging: int
) -> None:
    stack.ready_worker()
    with Engine() as stuck:
        stuck.on_send = waha_stub.silent
        for number in range(hanging):
            stack.submit(stuck.session(f"hanging{number}"), range(2))
        wait_until(lambda: len(stuck.accepted) == hanging, 30, "all of them hang")
        clocked = engine.on_send = Clocked()
        pace = Pacing(min_interval_ms=int(1000 * PACE_SECONDS), max_interval_ms=int(1000 * PACE_SECONDS))
        served = [engine.session(f"s{number}", pacing=pace) for number in range(50)]
        for session in served:
            stack.submit(session, range(10))
        stack.wait_for(500, Status.SENT, within_s=50)
        # Nobody waited for a hanging one to be given up.
        assert stuck.in_flight == stack.count(Status.SENDING) == hanging
    for session in served:
        assert engine.ledger(session) == list(range(10))
    gaps = [later - earlier for times in clocked.times.values() for earlier, later in itertools.pairwise(times)]
    assert statistics.median(gaps) < 2 * PACE_SECONDS
