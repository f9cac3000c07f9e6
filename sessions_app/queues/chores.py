"""RQ's own static queue, on which the long acts of staff are jobs like any other project's."""

import time

import redis
from redis.exceptions import RedisError
from rq import Queue
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from sessions_app.exceptions import QueueUnavailable
from sessions_app.queues import inspect, keys
from sessions_app.queues.connection import upkeep_client

NAME = "default"
# The only function that a job on this queue may name.
FUNCTION = "sessions_app.jobs.run_task"
_TIMEOUT_SECONDS = 24 * 3600
_FAILED_SECONDS = 7 * 24 * 3600


def enqueue(task_id: str, *, client: redis.Redis | None = None) -> None:
    """Have a task run; a job of it that waits already stays the only one. Raises QueueUnavailable, OtherDeployment."""
    client = client or upkeep_client()
    # Whoever has that Redis has a queue of this name, too.
    inspect.meta(client=client)
    try:
        queue = Queue(NAME, connection=client, serializer=JSONSerializer)
        # Not by `queue.job_ids`: it stops at an entry that is no text.
        if client.lpos(queue.key, task_id) is None:
            queue.enqueue(
                FUNCTION, task_id, job_id=task_id, job_timeout=_TIMEOUT_SECONDS, description=f"task {task_id}",
                result_ttl=0, failure_ttl=_FAILED_SECONDS,
            )  # fmt: skip
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def set_aside(job_id: str, *, client: redis.Redis) -> None:
    """Keep a job that was taken off the queue and may not run among its failed ones, as it is: it is never read.

    Raises RedisError.
    """
    queue = Queue(NAME, connection=client, serializer=JSONSerializer)
    job_key = keys.job_key(job_id)
    with client.pipeline() as pipe:
        pipe.lrem(queue.intermediate_queue_key, 1, job_id)
        pipe.hset(job_key, "status", "failed")
        pipe.expire(job_key, _FAILED_SECONDS)
        pipe.zadd(FailedJobRegistry(queue=queue).key, {job_id: time.time() + _FAILED_SECONDS})
        pipe.execute()
