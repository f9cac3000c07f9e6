"""The task, as Celery's own processes import it: it runs in Celery's environment and imports nothing of waqueue.

`python celery_tasks.py COUNT` submits that many.
"""

import os
import sys
from functools import cache
from typing import Any

import celery
import psycopg

app = celery.Celery("peer", broker=os.environ["REDIS_URL"])
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)


@cache
def _connection() -> "psycopg.Connection[Any]":
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)


@app.task(name="peer.job")
def job(row: int) -> None:
    """One message: the same two updates as in `rows`."""
    connection = _connection()
    connection.execute("UPDATE peer.row SET started_at = clock_timestamp() WHERE id = %s", [row])
    connection.execute("UPDATE peer.row SET done_at = clock_timestamp() WHERE id = %s", [row])


if __name__ == "__main__":
    with app.producer_pool.acquire() as producer:
        for row in range(int(sys.argv[1])):
            job.apply_async((row,), producer=producer)
