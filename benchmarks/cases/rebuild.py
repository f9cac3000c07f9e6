"""10,000 queues of 100 jobs rebuilt after FLUSHALL, beside a bare client that writes the same hashes and lists."""

import time
from collections.abc import Iterator
from itertools import islice

from benchmarks import acts
from benchmarks.report import BenchmarkError, Line, Result, Run
from benchmarks.rounds import alternate, compared
from benchmarks.seed import queued, seed
from benchmarks.stores import Stores
from sessions_app.queues import keys
from sessions_app.queues.jobs import job_fields

_STEP = 1000


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """Of the bare client only the writing counts, not what it takes to have something to write."""
    sessions, each = (1000, 20) if quick else (10_000, 100)
    stores.reset()
    seed(stores, sessions, each, mirrored=False)
    found = alternate({"waqueue": lambda: _ours(stores, sessions * each), "bare client": lambda: _bare(stores)}, rounds)
    ours = found["waqueue"]
    return Result(
        "rebuild",
        [
            *compared(found, "waqueue", {"bare client": 0.3}),
            Line("peak memory", [run.extra["memory_peak_mb"] for run in ours], "MB"),
            Line("waqueue's own processor time", [1e6 * run.extra["cpu_s"] / run.messages for run in ours], "us each"),
        ],
        [
            f"{sessions:,} sessions with {each} messages each, in their order.",
            f"The bare client does HSET and RPUSH, {_STEP} messages a round trip, of fields that were made before.",
        ],
    )


def _ours(stores: Stores, count: int) -> Run:
    stores.redis.flushall()
    run = acts.measure(stores, "rebuild")
    jobs = sum(stores.redis.llen(queue) for queue in stores.redis.smembers(keys.RQ_QUEUES))
    if not run.messages == jobs == count:
        raise BenchmarkError(f"of {count} messages {run.messages} were rebuilt, and there are {jobs} jobs")
    return run


def _bare(stores: Stores) -> Run:
    stores.redis.flushall()
    count, seconds = 0, 0.0
    for chunk in _chunks():
        begin = time.monotonic()
        with stores.redis.pipeline(transaction=False) as pipe:
            for queue, job, job_id, fields in chunk:
                pipe.hset(job, items=fields)
                pipe.rpush(queue, job_id)
            pipe.execute()
        seconds += time.monotonic() - begin
        count += len(chunk)
    return Run(count, seconds)


def _chunks() -> Iterator[list[tuple[str, str, str, list[bytes | str]]]]:
    jobs = (
        (keys.queue_key(name), keys.job_key(message.pk), str(message.pk), job_fields(name, message))
        for name, message in queued("session_id", "seq")
    )
    while chunk := list(islice(jobs, _STEP)):
        yield chunk
