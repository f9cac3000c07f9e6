"""A queue of 1,000,000 compared and mended, and 10,000 orphans archived: time, memory, and Redis meanwhile."""

import time

from benchmarks import acts, pinging
from benchmarks.report import BenchmarkError, Line, Result, Run
from benchmarks.seed import seed
from benchmarks.stores import Stores
from sessions_app.models import Orphan, OrphanState
from sessions_app.queues import keys

_EACH = 10


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """Each is one act in a process of its own, while a client pings Redis every millisecond."""
    length, queues = (20_000, 200) if quick else (1_000_000, 10_000)
    found: dict[str, list[Run]] = {}
    for _ in range(rounds):
        _, idle = pinging.beside(stores, lambda: time.sleep(1))
        found.setdefault("idle", []).append(Run(0, 1, idle))
        for act, one in {**_orphans(stores, queues), **_long_queue(stores, length)}.items():
            found.setdefault(act, []).append(one)
    idle_runs = found.pop("idle")
    lines = [Line("idle: Redis answers, p99.9", [one.extra["p999"] for one in idle_runs], "ms")]
    for act, runs in found.items():
        lines += [
            Line(act, [one.seconds for one in runs], "s"),
            Line(f"{act}: peak memory", [one.extra["memory_peak_mb"] for one in runs], "MB", at_most=300),
            Line(f"{act}: Redis answers, p99.9", [one.extra["p999"] for one in runs], "ms", at_most=10),
            Line(f"{act}: Redis answers, longest", [one.extra["most"] for one in runs], "ms"),
        ]
    return Result(
        "sizes",
        lines,
        [
            f"One session with {length:,} messages; to be mended, its last job stands first, and one has no content.",
            f"{queues:,} queues of no session with {_EACH} jobs each, archived by one reconciliation.",
        ],
    )


def _long_queue(stores: Stores, length: int) -> dict[str, Run]:
    stores.reset()
    seed(stores, 1, length, mirrored=False)
    acts.measure(stores, "rebuild")
    compared = _beside_pings(stores, "compare")
    queue = keys.queue_key("s0")
    stores.redis.lmove(queue, queue, "RIGHT", "LEFT")
    stores.redis.delete(keys.job_key(stores.redis.lindex(queue, length // 2).decode()))
    mended = _beside_pings(stores, "reconcile")
    acts.measure(stores, "compare")
    return {"compare": compared, "mend": mended}


def _orphans(stores: Stores, count: int) -> dict[str, Run]:
    """Their sessions are forgotten by PostgreSQL, as by a backup that was restored."""
    stores.reset()
    seed(stores, count, _EACH, mirrored=False)
    acts.measure(stores, "rebuild")
    stores.database.execute("TRUNCATE wa_session, wa_message, wa_event CASCADE")
    stores.redis.delete(keys.DUE, keys.VERSIONS)
    archived = _beside_pings(stores, "reconcile")
    rows = Orphan.objects.filter(state=OrphanState.ARCHIVED, messages=_EACH).count()
    if rows != count or next(stores.redis.scan_iter(f"{keys.RQ_QUEUE_PREFIX}wa:*"), None):
        raise BenchmarkError(f"of {count} orphans {rows} were archived")
    return {"archive orphans": archived}


def _beside_pings(stores: Stores, act: str) -> Run:
    run, waits = pinging.beside(stores, lambda: acts.measure(stores, act))
    print(f"  {act}: {run.seconds:.2f} s", flush=True)
    return Run(run.messages, run.seconds, run.extra | waits)
