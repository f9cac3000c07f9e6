"""RQ's own static queue, on which the long acts of staff are jobs like any other project's."""

import redis
from redis.exceptions import RedisError
from rq import Queue
from rq.serializers import JSONSerializer

from sessions_app.exceptions import QueueUnavailable
from sessions_app.queues.connection import upkeep_client

NAME = "default"
# The only function that a job on this queue may name.
FUNCTION = "sessions_app.jobs.run_task"
_TIMEOUT_SECONDS = 24 * 3600


def enqueue(task_id: str, *, client: redis.Redis | None = None) -> None:
    """Have a task run; a job of it that waits already stays the only one. Raises QueueUnavailable."""
    try:
        client = client or upkeep_client()
        queue = Queue(NAME, connection=client, serializer=JSONSerializer)
        # Not by `queue.job_ids`: it stops at an entry that is no text.
        if client.lpos(queue.key, task_id) is None:
            queue.enqueue(
                FUNCTION, task_id, job_id=task_id, job_timeout=_TIMEOUT_SECONDS, description=f"task {task_id}",
                result_ttl=0, failure_ttl=7 * 24 * 3600,
            )  # fmt: skip
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
