"""A worker reconciles by the clock: what goes wrong while it runs is put right without anybody asking."""

import os
import signal
import sys
from pathlib import Path

import pytest
import redis
from django.db import connection

from sessions_app.models import DesiredState, Event, Message, Orphan, OrphanState, Reconciliation
from sessions_app.worker.long_upkeep import MANY_MESSAGES
from tests.acceptance.stack import Stack
from tests.processes import PROJECT, Process, descendants, is_alive, is_stopped, wait_until
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


def submit_many(stack: Stack, count: int) -> None:
    """A paused session with very many messages, cloned from its first."""
    session = stack.session("deep", desired_state=DesiredState.PAUSED)
    stack.submit(session, [0])
    columns = [field.column for field in Message._meta.concrete_fields]
    own = {"id": "gen_random_uuid()", "seq": "seq + n"}
    values = ", ".join(own.get(column, column) for column in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO wa_message ({', '.join(columns)}) SELECT {values} FROM wa_message, generate_series(1, %s) n",
            [count - 1],
        )


def child_of(worker: Process) -> int:
    """The process in which a worker reconciles; it rebuilds in one like it."""

    def is_reconciling(pid: int) -> bool:
        try:
            return b"\0reconcile\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def find() -> int:
        return next(filter(is_reconciling, descendants(worker.pid)), 0)

    return wait_until(find, 60, "the worker starts a process for it")


@pytest.mark.fault(27)
def test_a_worker_has_very_many_messages_reconciled_by_another_process(stack: Stack) -> None:
    in_order()
    submit_many(stack, MANY_MESSAGES + 1)
    worker = stack.ready_worker(WAQUEUE_RECONCILE_SECONDS="1")
    child = child_of(worker)
    timed = Reconciliation.objects.filter(trigger="timer")
    wait_until(lambda: timed.exclude(finished_at=None).exists(), 120, "the timed run is over")
    wait_until(lambda: not is_alive(child), 30, "its process has ended")
    client = redis.Redis.from_url(stack.redis.url)
    wait_until(lambda: client.llen("rq:queue:wa:deep") == MANY_MESSAGES + 1, 120, "the mirror is whole")
    assert worker.stop() == 0


def test_the_process_that_reconciles_ends_with_its_worker(stack: Stack) -> None:
    in_order()
    submit_many(stack, MANY_MESSAGES + 1)
    worker = stack.ready_worker(WAQUEUE_RECONCILE_SECONDS="1")
    child = child_of(worker)
    # It cannot end by itself then.
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: is_stopped(child), 10, "the process is frozen")
    worker.kill()
    wait_until(lambda: not is_alive(child), 30, "its child has ended too")


def test_a_run_whose_process_is_killed_has_failed_and_is_told(stack: Stack) -> None:
    in_order()
    submit_many(stack, MANY_MESSAGES + 1)
    worker = stack.ready_worker(WAQUEUE_RECONCILE_SECONDS="1")
    os.kill(child_of(worker), signal.SIGKILL)
    wait_until(lambda: Event.objects.filter(data__outcome="failed").exists(), 60, "somebody is told")
    failed = Reconciliation.objects.filter(outcome="failed").earliest("pk")
    assert failed.error in ("its process has died", "its process ended with -9")
    assert not Reconciliation.objects.filter(outcome="running", pk__lt=failed.pk).exists()


def test_a_run_without_redis_has_failed_and_is_told(stack: Stack) -> None:
    in_order()
    stack.ready_worker(WAQUEUE_RECONCILE_SECONDS="1")
    stack.redis.kill()
    wait_until(lambda: Event.objects.filter(data__outcome="failed").exists(), 60, "somebody is told")
    stack.redis.start()


def test_the_process_finds_the_project_wherever_its_worker_was_started(stack: Stack, tmp_path: Path) -> None:
    in_order()
    submit_many(stack, MANY_MESSAGES + 1)
    argv = [sys.executable, str(PROJECT / "manage.py"), "rqworker"]
    environ = stack.environ | {"WAQUEUE_RECONCILE_SECONDS": "1"}
    worker = Process(argv, environ, tmp_path / "worker.log", cwd=tmp_path).start()
    try:
        timed = Reconciliation.objects.filter(trigger="timer").exclude(finished_at=None)
        wait_until(timed.exists, 120, "the timed run is over")
        assert not timed.filter(outcome="failed").exists()
    finally:
        worker.kill()
