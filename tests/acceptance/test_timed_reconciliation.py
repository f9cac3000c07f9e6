"""A worker reconciles by the clock: what goes wrong while it runs is put right without anybody asking."""

import pytest
import redis

from sessions_app.models import Orphan, OrphanState, Reconciliation
from tests.acceptance.stack import Stack
from tests.processes import wait_until
from tests.reconciliation_lab import in_order, stock_queue, texts_of

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]


def test_an_orphan_that_appears_while_a_worker_runs_is_archived_by_its_timer(stack: Stack) -> None:
    in_order()
    stack.ready_worker(WAQUEUE_RECONCILE_SECONDS="1")
    wait_until(lambda: Reconciliation.objects.filter(trigger="timer").exists(), 30, "the first timed run")
    stock_queue(redis.Redis.from_url(stack.redis.url), "gone", "abc")
    wait_until(lambda: Orphan.objects.filter(state=OrphanState.ARCHIVED).exists(), 30, "the orphan is archived")
    assert texts_of(Orphan.objects.get()) == ["a", "b", "c"]
    wait_until(lambda: Reconciliation.objects.filter(outcome="repaired").exists(), 10, "the run is over")
    assert Reconciliation.objects.get(outcome="repaired").trigger == "timer"
