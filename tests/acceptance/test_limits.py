"""A transport that bears less than the process: never more at once, all sent, and nobody else kept waiting."""

import pytest

from sessions_app.models import LoopbackEntry, Status
from tests.acceptance.stack import Stack
from tests.processes import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

_DELAY_MS = 100


def test_a_limited_transport_has_never_more_in_flight_and_sends_all_in_order(stack: Stack) -> None:
    served = [stack.session(f"s{number}", delay_ms=_DELAY_MS) for number in range(30)]
    for session in served:
        stack.submit(session, range(4))
    stack.ready_worker(WAQUEUE_TRANSPORT_CONCURRENCY="loopback=5")
    stack.wait_for(120, Status.SENT, within_s=60)
    for session in served:
        stack.assert_in_order_and_once(session, 4)
    times = list(LoopbackEntry.objects.order_by("created_at").values_list("created_at", flat=True))
    # Whoever is the sixth to begin comes when one of the five before has been answered.
    gaps = [(later - earlier).total_seconds() for earlier, later in zip(times, times[5:], strict=False)]
    assert min(gaps) >= _DELAY_MS / 1000


def test_a_single_message_has_its_turn_behind_long_lines_of_the_same_transport(stack: Stack) -> None:
    long = [stack.session(f"long{number}", delay_ms=_DELAY_MS) for number in range(2)]
    for session in long:
        stack.submit(session, range(300))
    stack.ready_worker(WAQUEUE_TRANSPORT_CONCURRENCY="loopback=2")
    wait_until(lambda: len(stack.ledger(long[0])) > 5, 30, "the long lines are served")
    short = stack.session("short", delay_ms=_DELAY_MS)
    for number in range(3):
        before = LoopbackEntry.objects.count()
        stack.submit(short, [number])
        wait_until(lambda done=number: len(stack.ledger(short)) > done, 20, "the single one is sent")
        assert LoopbackEntry.objects.count() - before < 20
