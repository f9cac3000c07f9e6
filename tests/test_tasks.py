"""Long acts of staff: done by a child of the worker, in parts, once, to be cancelled; and nothing else is run there."""

import os
import pickle
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue
from rq.serializers import JSONSerializer, PickleSerializer

from sessions_app.exceptions import NotFound, WrongState
from sessions_app.models import AuditEntry, BackgroundTask, Message, Orphan, OrphanEntry, Session, TaskState
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import orphans, tasks
from sessions_app.services.orphans import purging, restoring
from tests.acceptance.conftest import stack as stack
from tests.acceptance.stack import Stack
from tests.factories import ACTOR, at_once, make_session
from tests.processes import Process, wait_until
from tests.reconciliation_lab import in_order, legacy_list, run, texts_in_line

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("without_pause")]


def an_orphan(client: redis.Redis, count: int) -> Orphan:
    in_order()
    legacy_list(client, "gone", range(count))
    run(policy=Policy.ARCHIVE)
    return Orphan.objects.get()


def later(orphan: Orphan, session: Session) -> BackgroundTask:
    return orphans.restore_later(
        orphan, session, selection=orphans.Selection(), with_duplicates=False, actor=ACTOR
    )  # fmt: skip


def state(task: BackgroundTask) -> tuple[str, int, int, str]:
    task.refresh_from_db()
    return task.state, task.done, task.total, task.result


def test_a_restore_goes_part_by_part_and_says_how_far_it_is(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 3)
    task = later(an_orphan(redis_client, 8), beta := make_session("beta"))
    assert (*state(task), task.actor) == ("waiting", 0, 8, "", ACTOR.label)
    assert redis_client.lrange("rq:queue:default", 0, -1) == [str(task.pk).encode()]
    seen = []
    restore = restoring.restore_chunk

    def watched(*args: Any, **options: Any) -> int:
        seen.append(state(task)[:2])
        return restore(*args, **options)

    monkeypatch.setattr(restoring, "restore_chunk", watched)
    tasks.run(task.pk)
    assert seen == [("running", 0), ("running", 3), ("running", 6), ("running", 8)]
    assert state(task) == ("done", 8, 8, "8 restored to beta, 0 left")
    assert task.started_at < task.finished_at
    assert texts_in_line(beta) == [str(number) for number in range(8)]
    tasks.run(task.pk)
    assert Message.objects.count() == 8


def test_a_purge_that_is_cancelled_ends_after_its_part_and_says_what_it_did(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "CHUNK", 2)
    orphan = an_orphan(redis_client, 8)
    task = orphans.purge_later(orphan, expected=8, selection=orphans.Selection(), actor=ACTOR)
    purge = purging.purge_chunk

    def purge_and_cancel(*args: Any, **options: Any) -> int:
        if OrphanEntry.objects.count() == 6:
            tasks.cancel(task.pk, actor=ACTOR)
        return purge(*args, **options)

    monkeypatch.setattr(purging, "purge_chunk", purge_and_cancel)
    tasks.run(task.pk)
    assert state(task) == ("cancelled", 4, 8, "4 purged")
    assert OrphanEntry.objects.count() == 4
    assert AuditEntry.objects.filter(action="cancel task").count() == 1
    with pytest.raises(WrongState, match="this task is cancelled already"):
        tasks.cancel(task.pk, actor=ACTOR)
    tasks.run(task.pk)
    assert OrphanEntry.objects.count() == 4


def test_one_that_waits_is_cancelled_without_having_done_anything(redis_client: redis.Redis) -> None:
    orphan = an_orphan(redis_client, 3)
    task = orphans.purge_later(orphan, expected=3, selection=orphans.Selection(), actor=ACTOR)
    tasks.cancel(task.pk, actor=ACTOR)
    tasks.run(task.pk)
    assert state(task)[:2] == ("cancelled", 0)
    assert OrphanEntry.objects.count() == 3


def test_two_that_do_the_same_task_at_once_do_it_once(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 2)
    task = later(an_orphan(redis_client, 20), make_session("beta"))
    assert at_once(*[lambda: tasks.run(task.pk)] * 3) == [None] * 3
    assert state(task)[:2] == ("done", 20)
    assert Message.objects.count() == 20


@pytest.mark.parametrize(
    ("kind", "parameters", "why"),
    [
        ("os.system", {}, "it failed unexpectedly: KeyError"),
        ("restore orphan", {}, "it failed unexpectedly: KeyError"),
        ("purge orphan", {"orphan": str(uuid.UUID(int=0)), "newer_than": None, "indexes": None}, "there is no orphan"),
    ],
)
def test_one_that_cannot_be_done_fails_with_a_reason(kind: str, parameters: dict[str, Any], why: str) -> None:
    task = BackgroundTask.objects.create(kind=kind, title=kind, parameters=parameters, actor="x")
    tasks.run(task.pk)
    assert state(task)[0] == TaskState.FAILED
    assert why in task.result


def test_one_that_does_not_exist_is_not_found() -> None:
    with pytest.raises(NotFound):
        tasks.run(uuid.uuid4())


def test_what_nobody_does_is_enqueued_again_once(redis_client: redis.Redis) -> None:
    task = later(an_orphan(redis_client, 3), make_session("beta"))
    BackgroundTask.objects.filter(pk=task.pk).update(state=TaskState.RUNNING)
    redis_client.flushdb()
    assert tasks.enqueue_abandoned() == tasks.enqueue_abandoned() == 1
    assert redis_client.lrange("rq:queue:default", 0, -1) == [str(task.pk).encode()]
    tasks.run(task.pk)
    assert tasks.enqueue_abandoned() == 0


class Bomb:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.acceptance
@pytest.mark.fault(34)
def test_a_worker_runs_nothing_but_tasks_whatever_stands_on_its_queue(stack: Stack, tmp_path: Path) -> None:
    client = redis.Redis.from_url(stack.redis.url)
    orphan, beta = an_orphan(client, 5), make_session("beta", desired_state="paused")
    ran = tmp_path / "ran"
    named = Queue("default", connection=client, serializer=JSONSerializer)
    named.enqueue("os.system", f"touch {ran}", job_id="names-os-system")
    named.enqueue("sessions_app.jobs.run_task.__globals__", job_id="names-more")
    Queue("default", connection=client, serializer=PickleSerializer).enqueue(
        os.system, f"touch {ran}", job_id="pickled"
    )
    for job in ("bomb", "bomb-in-meta"):
        named.enqueue("os.system", "true", job_id=job)
    client.hset("rq:job:bomb", "data", zlib.compress(pickle.dumps(Bomb(ran))))
    client.hset("rq:job:bomb-in-meta", "meta", pickle.dumps(Bomb(ran)))
    client.rpush("rq:queue:default", "gone", "no id\n", b"\xff")
    task = later(orphan, beta)
    worker = stack.worker()
    wait_until(lambda: state(task)[0] == "done", 90, "the task behind all that is done")
    wait_until(lambda: client.llen("rq:queue:default") == 0, 30, "the queue is empty")
    assert not ran.exists()
    assert texts_in_line(beta) == [str(number) for number in range(5)]
    assert "job names-os-system on the queue default names os.system: not allowed, not run" in worker.output
    kept = {b"names-os-system", b"names-more", b"pickled", b"bomb", b"bomb-in-meta"}
    assert set(client.zrange("rq:failed:default", 0, -1)) == kept
    assert all(client.hget(b"rq:job:" + job_id, "status") == b"failed" for job_id in kept)
    assert worker.is_running()


@pytest.mark.acceptance
def test_a_task_whose_process_is_killed_is_taken_up_again_and_two_workers_do_it_once(stack: Stack) -> None:
    client = redis.Redis.from_url(stack.redis.url)
    orphan, beta = an_orphan(client, 2500), make_session("beta", desired_state="paused")
    task = later(orphan, beta)
    # Its children inherit the order to die after a part.
    dying = stack.worker(WAQUEUE_TEST_CRASH_AT="restore: part restored")
    wait_until(lambda: Message.objects.count() >= 1000, 60, "a part was restored")
    dying.kill()
    assert state(task)[0] == "running"
    workers: list[Process] = [stack.worker(), stack.worker()]
    try:
        wait_until(lambda: state(task)[0] != "running", 90, "the task is done")
    except AssertionError as error:
        raise AssertionError(f"{state(task)}; {[worker.output[-3000:] for worker in workers]}") from error
    assert state(task)[0] == "done", state(task)
    assert texts_in_line(beta) == [str(number) for number in range(2500)]
    assert Message.objects.count() == 2500
    assert Orphan.objects.get().state == "restored"
    assert all(worker.is_running() for worker in workers)
