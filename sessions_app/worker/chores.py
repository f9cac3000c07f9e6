"""The long acts of staff, in one child process of the worker: they are never in the sends' way."""

import asyncio
import contextlib
import logging
from typing import Any

from django.db import Error as DatabaseError
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from sessions_app.exceptions import QueueUnavailable
from sessions_app.queues import chores
from sessions_app.services import tasks
from sessions_app.worker import children
from sessions_app.worker.backoff import Backoff
from sessions_app.worker.thread import Thread

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0


class ChoreWorker(SimpleWorker):  # type: ignore[misc]
    """An rq worker for the static queue that runs what is allowed by name and nothing else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Whatever the command line says: a pickle in Redis must never be loaded.
        kwargs["serializer"] = JSONSerializer
        super().__init__(*args, **kwargs)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a job of ours; any other is kept among the failed ones without being called."""
        try:
            name = job.func_name
        except Exception:  # not JSON, not a call: whatever it is, it is not ours
            name = "unreadable"
        if name == chores.FUNCTION:
            super().execute_job(job, queue)
            return
        log.warning("job %s on the queue %s names %s: not allowed, not run, kept as failed", job.id, queue.name, name)
        # A Redis that is full or away right now: RQ itself clears up what was taken off and not begun.
        with contextlib.suppress(RedisError):
            chores.set_aside(job.id, client=self.connection)


async def run_forever(stopping: asyncio.Event) -> None:
    """Whenever a long act waits, have one child process do what waits; until told to stop."""
    thread = Thread("chores")
    backoff = Backoff("looking for long acts", stopping)
    try:
        while not stopping.is_set():
            try:
                if await thread.run(tasks.enqueue_abandoned):
                    await _run_child(stopping)
                backoff.reset()
            except (DatabaseError, QueueUnavailable, OSError) as error:
                # OSError: a machine that is out of memory or of processes begins no child, but the sends go on.
                await backoff.wait(error)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await stopping.wait()
    finally:
        thread.close()


async def _run_child(stopping: asyncio.Event) -> None:
    worker_class = "sessions_app.worker.chores.ChoreWorker"
    child = await children.start("-m", "django", "rqworker", chores.NAME, "--burst", "--worker-class", worker_class)
    ended = asyncio.create_task(child.wait())
    told = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([ended, told], return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
        if child.returncode is None:
            # Whatever part it is doing is one transaction; the next process goes on after it.
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(ended)
