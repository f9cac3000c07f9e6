"""An unmodified rq SimpleWorker on one queue per session, with RQ's JSON serializer."""

import os
import sys
from functools import cache
from typing import Any

import psycopg
import redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from benchmarks.peers import rows
from benchmarks.report import Run
from benchmarks.stores import Stores


def measure(stores: Stores, queues: int, each: int) -> Run:
    """Run `queues` x `each` jobs with one SimpleWorker."""
    stores.reset()
    rows.make(stores, queues * each)
    submit(stores.redis, queues, each)
    worker = stores.run([sys.executable, "-m", "benchmarks.peers.rq_peer", str(queues)])
    run = rows.wait(stores, worker, queues * each, 900)
    worker.kill()
    return run


def submit(client: redis.Redis, queues: int, each: int) -> None:
    """Fill the queues."""
    for number in range(queues):
        queue = Queue(f"peer:{number}", connection=client, serializer=JSONSerializer)
        jobs = [
            Queue.prepare_data("benchmarks.peers.rq_peer.job", args=(number * each + at,), result_ttl=0)
            for at in range(each)
        ]
        queue.enqueue_many(jobs)


@cache
def _connection() -> "psycopg.Connection[Any]":
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)


def job(row: int) -> None:
    """One message."""
    rows.two_updates(_connection(), row)


def work(queues: int) -> None:
    """Serve the queues as `rq worker --worker-class rq.SimpleWorker` does."""
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    served = [Queue(f"peer:{number}", connection=client, serializer=JSONSerializer) for number in range(queues)]
    SimpleWorker(served, connection=client, serializer=JSONSerializer).work(logging_level="WARNING")


if __name__ == "__main__":
    work(int(sys.argv[1]))
