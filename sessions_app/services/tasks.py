"""Long acts of staff: done in the background by a worker, in parts, with progress, and to be cancelled.

The row is the truth. A task whose process died is taken up again where it was: every part commits what it did.
"""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import Error as DatabaseError
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from sessions_app.database import part_of_an_act
from sessions_app.exceptions import NotFound, QueueUnavailable, WaqueueError, WrongState
from sessions_app.models import BackgroundTask, TaskState
from sessions_app.queues import chores
from sessions_app.services import audit
from sessions_app.services.audit import Actor

log = logging.getLogger(__name__)

# What more than this many messages are asked for goes into the background.
LARGE = 1000

# Does one part of a task, given how much was done before; returns how much that was, 0 when nothing is left, None when
# nothing was done but something may be left. It runs in one transaction with the note of how far the task is.
Part = Callable[[int], int | None]
# Makes, from a task's parameters, its part and what is to be done at the end; the latter returns the result in words.
Kind = Callable[[dict[str, Any], Actor], tuple[Part, Callable[[int], str]]]
_KINDS: dict[str, Kind] = {}


def kind(name: str) -> Callable[[Kind], Kind]:
    """Make a kind of task known by its name: nothing else can be run."""

    def register(act: Kind) -> Kind:
        _KINDS[name] = act
        return act

    return register


def start(name: str, title: str, *, parameters: dict[str, Any], total: int, actor: Actor) -> BackgroundTask:
    """Have a task done by a worker. It waits in PostgreSQL when Redis cannot be reached."""
    task = BackgroundTask.objects.create(
        kind=name, title=title[:300], parameters=parameters, total=total, actor=actor.label
    )
    transaction.on_commit(lambda: _enqueue(task.pk))
    return task


def get(task_id: uuid.UUID) -> BackgroundTask:
    """The task of that id. Raises NotFound."""
    try:
        return BackgroundTask.objects.get(pk=task_id)
    except BackgroundTask.DoesNotExist:
        raise NotFound(f"there is no task {task_id}") from None


def cancel(task_id: uuid.UUID, *, actor: Actor) -> BackgroundTask:
    """Ask a task to end after the part that it is doing. Raises WrongState when it has ended, NotFound."""
    unfinished = BackgroundTask.objects.filter(pk=task_id, state__in=(TaskState.WAITING, TaskState.RUNNING))
    if not unfinished.update(is_cancel_requested=True):
        state = get(task_id).state
        raise WrongState(f"this task is {state} already", state=state)
    task = get(task_id)
    audit.record(actor, "cancel task", task.title)
    return task


def run(task_id: uuid.UUID) -> None:
    """Do a task, or go on with it. Another process that does it already is left alone."""
    with _alone(task_id) as is_mine:
        if not is_mine:
            return
        task = get(task_id)
        if task.state not in (TaskState.WAITING, TaskState.RUNNING):
            return
        BackgroundTask.objects.filter(pk=task_id).update(
            state=TaskState.RUNNING, started_at=task.started_at or timezone.now()
        )
        try:
            state, result = _do(task)
        except DatabaseError:
            # Nothing is wrong with the task: whoever finds it unfinished goes on with it.
            raise
        except Exception as error:
            state, result = TaskState.FAILED, _why(task, error)
        BackgroundTask.objects.filter(pk=task_id).update(state=state, result=result[:500], finished_at=timezone.now())
        log.info("task %s (%s) by %s: %s: %s", task_id, task.title, task.actor, state, result)


def _do(task: BackgroundTask) -> tuple[TaskState, str]:
    part, conclude = _KINDS[task.kind](task.parameters, Actor(task.actor))
    done = task.done
    while True:
        if BackgroundTask.objects.filter(pk=task.pk, is_cancel_requested=True).exists():
            return TaskState.CANCELLED, conclude(done)
        try:
            # How it ends is a commit of its own, which waits for the disk, and for all parts.
            with part_of_an_act():
                count = part(done)
                BackgroundTask.objects.filter(pk=task.pk).update(done=done + (count or 0))
        except DatabaseError:
            raise
        except Exception as error:
            # What was done before stays done, and is said.
            why = _why(task, error)
            return TaskState.FAILED, f"{why}; {conclude(done)}" if done else why
        if count == 0:
            return TaskState.DONE, conclude(done)
        done += count or 0


def _why(task: BackgroundTask, error: Exception) -> str:
    if isinstance(error, WaqueueError):
        return error.detail
    log.error("task %s failed", task.pk, exc_info=error)
    return f"it failed unexpectedly: {type(error).__name__}"


def enqueue_abandoned() -> int:
    """Enqueue the tasks that nobody does: their job was lost, or their process died; return how many.

    Raises QueueUnavailable, OtherDeployment.
    """
    unfinished = BackgroundTask.objects.filter(state__in=(TaskState.WAITING, TaskState.RUNNING))
    count = 0
    for task_id in unfinished.filter(~Q(kind="")).values_list("pk", flat=True):
        with _alone(task_id) as is_mine:
            if is_mine:
                chores.enqueue(str(task_id))
                count += 1
    return count


@contextmanager
def _alone(task_id: uuid.UUID) -> Iterator[bool]:
    key = task_id.int & 0x7FFF_FFFF_FFFF_FFFF
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
        is_mine = bool(cursor.fetchone()[0])
        try:
            yield is_mine
        finally:
            if is_mine:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [key])


def _enqueue(task_id: uuid.UUID) -> None:
    try:
        chores.enqueue(str(task_id))
    except QueueUnavailable as error:
        log.warning("the task %s waits for Redis: %s", task_id, error)
