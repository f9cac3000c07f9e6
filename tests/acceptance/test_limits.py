"""A transport that bears less than the process: never more at once, all sent, and nobody else kept waiting."""

import pytest

from sessions_app.models import LoopbackEntry, Status
from tests.acceptance.stack import Stack

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
