"""What Redis is asked per message at 1,000 sessions, by its own statistics."""

from typing import Any

from benchmarks import ours
from benchmarks.report import Line, Result
from benchmarks.seed import seed
from benchmarks.stores import Stores

# The only commands of a worker's hot path that come over the wire; all others run inside its scripts.
_FROM_OUTSIDE = ("evalsha", "eval", "publish", "subscribe", "hello", "auth", "select", "client|setinfo", "script|load")


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """A round trip is a script called from outside; the commands that it runs inside are counted apart."""
    each = 5 if quick else 20
    trips, commands, reads, micros = [], [], [], []
    for _ in range(rounds):
        worker = ours.start_worker(stores)
        seed(stores, 1000, each)
        since = stores.value(ours.EVENTS)
        stores.redis.config_resetstat()
        ours.release(stores)
        for _done in ours.watch(stores, worker, 1000 * each, since):
            pass
        calls: dict[str, Any] = stores.redis.info("commandstats")
        reads.append(stores.redis.info("stats")["total_reads_processed"] / (1000 * each))
        worker.kill()
        outside = [calls[f"cmdstat_{name}"]["calls"] for name in _FROM_OUTSIDE if f"cmdstat_{name}" in calls]
        trips.append(sum(outside) / (1000 * each))
        commands.append(sum(stat["calls"] for stat in calls.values()) / (1000 * each))
        micros.append(calls["cmdstat_evalsha"]["usec"] / (1000 * each))
    return Result(
        "redis_round_trips",
        [
            Line("round trips a message", trips, "", at_most=2),
            Line("reads of a socket a message", reads, ""),
            Line("commands a message, with those inside scripts", commands, ""),
            Line("time in scripts a message", micros, "microseconds"),
        ],
        [
            "These are the worker's. To put a message is one round trip more, however many are put with it.",
            "Reads count everything that Redis was sent, heartbeats and this benchmark included.",
        ],
    )
