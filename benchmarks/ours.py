"""Our side: one worker process, from the signal to the commit of the last outcome."""

import random
import sys
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.processes import Process
from benchmarks.report import BenchmarkError, Run
from benchmarks.seed import seed
from benchmarks.stores import Stores
from sessions_app.models import Deployment
from sessions_app.queues import keys, mirror

CONCURRENCY = 1000
# One event is written for every outcome: their sequence tells how far a worker is without reading any table.
EVENTS = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('wa_event', 'id')), 0)"
SENT = "SELECT count(*) FROM wa_message WHERE status = 'sent'"


def start_worker(stores: Stores, concurrency: int = CONCURRENCY, **environ: str) -> Process:
    """Empty the stores, start a worker, and return when it listens and has nothing left to prepare.

    It does not reconcile by the clock: a million messages are seeded in more than a minute, and half of them would be
    repaired. `compare` says what a reconciliation takes.
    """
    stores.reset()
    environ = {"WAQUEUE_CONCURRENCY": str(concurrency), "WAQUEUE_RECONCILE_SECONDS": "3600", **environ}
    worker = stores.run([sys.executable, "-m", "benchmarks.worker"], environ=environ)

    def is_ready() -> bool:
        generation = stores.redis.hget(keys.META, "generation")
        is_prepared = bool(generation) and Deployment.current().redis_generation == generation.decode()
        return is_prepared and stores.redis.pubsub_numsub(keys.WAKE)[0][1] > 0

    worker.wait_until(is_ready, 60, "the worker is ready")
    return worker


def release(stores: Stores, *, spread_s: float = 0) -> float:
    """Resume all sessions and signal them, at once or one by one at random moments; return the moment of the first."""
    rows = stores.database.execute("UPDATE wa_session SET desired_state = 'active' RETURNING name").fetchall()
    names = [row[0] for row in rows]
    at = time.monotonic()
    if not spread_s:
        mirror.signal(names)
        return at
    for name in random.sample(names, len(names)):
        mirror.signal([name])
        time.sleep(random.uniform(0, 2 * spread_s / len(names)))
    return at


def watch(stores: Stores, worker: Process, count: int, since: int, *, stall_s: float = 60) -> Iterable[int]:
    """Yield how many outcomes were written, again and again, until it is `count`."""
    last, moved = -1, time.monotonic()
    while (done := stores.value(EVENTS) - since) < count:
        if done != last:
            last, moved = done, time.monotonic()
        if time.monotonic() - moved > stall_s:
            raise BenchmarkError(f"only {done} of {count} messages were sent:\n{worker.tail()}")
        yield done
        time.sleep(0.02)


def measure(
    stores: Stores, sessions: int, each: int, *, only: int | None = None, transport: str = "noop",
    config: dict[str, Any] | None = None,
) -> Run:  # fmt: skip
    """Send `sessions` x `each` messages, or the first `only` of them, with one worker."""
    worker = start_worker(stores)
    seed(stores, sessions, each, transport, config)
    count = only or sessions * each
    before, since, cpu = worker.memory_mb(), stores.value(EVENTS), worker.cpu_seconds()
    begin = release(stores)
    middle = 0.0
    for done in watch(stores, worker, count, since):
        if not middle and done >= count / 2:
            middle = worker.memory_mb()
    if only is None:
        # The sequence is a commit ahead of the rows.
        worker.wait_until(lambda: stores.value(SENT) >= count, 60, f"all {count} messages are sent", pause_s=0.002)
    seconds = time.monotonic() - begin
    extra = {
        "cpu_us": 1e6 * (worker.cpu_seconds() - cpu) / count,
        "memory_before_mb": before, "memory_middle_mb": middle, "memory_end_mb": worker.memory_mb(),
        "memory_peak_mb": worker.memory_mb("VmHWM"),
    }  # fmt: skip
    worker.kill()
    return Run(count, seconds, extra)
