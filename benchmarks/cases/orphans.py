"""An orphan of 100,000 archived, restored and purged, while a worker sends for 1,000 other sessions."""

import time
from collections.abc import Callable

from benchmarks import acts, ours
from benchmarks.report import BenchmarkError, Line, Result, Run
from benchmarks.seed import seed
from benchmarks.stores import Stores
from sessions_app.models import Orphan, OrphanSource, OrphanState, Session
from sessions_app.queues import keys
from sessions_app.services import orphans, sessions
from sessions_app.services.audit import Actor

_SENDERS, _PACE_MS = 1000, 2000
_ALONE_S = 5


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """Two orphans: both are archived, then one is restored and the other one purged, each by a process of its own."""
    count, each = (5000, 40) if quick else (100_000, 150)
    found: dict[str, list[Run]] = {"archive": [], "restore": [], "purge": []}
    for number in range(rounds):
        for act, one in _round(stores, count, each):
            found[act].append(one)
            print(
                f"  round {number + 1} of {rounds}: {act}: {one.messages:,} messages in {one.seconds:.2f} s", flush=True
            )
    lines = []
    for act, runs in found.items():
        lines += [
            Line(act, [one.rate for one in runs], at_least=10_000),
            Line(f"{act}: others' sends", [one.extra["kept"] for one in runs], "of their rate", at_least=0.8),
            Line(f"{act}: peak memory", [one.extra["memory_peak_mb"] for one in runs], "MB"),
        ]
    return Result(
        "orphans",
        lines,
        [
            f"{_SENDERS:,} sessions with a message every {_PACE_MS} ms and one worker; their rate is that of the "
            f"{_ALONE_S} s before each act.",
            "The orphans are RQ queues with jobs as waqueue writes them. What is restored waits in a paused session.",
        ],
    )


def _round(stores: Stores, count: int, each: int) -> list[tuple[str, Run]]:
    worker = ours.start_worker(stores)
    names = ["gone0", "gone1"]
    for name in names:
        _leave_behind(stores, name, count)
    seed(stores, _SENDERS, each, pace_ms=_PACE_MS)
    sessions.create(name="back", transport="noop", desired_state="paused", actor=Actor.command("benchmarks"))
    stores.database.execute("VACUUM (ANALYZE)")
    ours.release(stores, spread_s=_PACE_MS / 1000)
    Session.objects.filter(name="back").update(desired_state="paused")
    found = []
    rows = [_detected(stores, name) for name in names]
    for row in rows:
        found.append(("archive", _beside_sends(stores, lambda row=row: acts.measure(stores, "archive", row.pk))))
    found.append(("restore", _beside_sends(stores, lambda: acts.measure(stores, "restore", rows[0].pk, "back"))))
    found.append(("purge", _beside_sends(stores, lambda: acts.measure(stores, "purge", rows[1].pk, count))))
    worker.kill()
    ends = list(Orphan.objects.order_by("queue").values_list("state", flat=True))
    if any(one.messages != count for _, one in found) or ends != [OrphanState.RESTORED, OrphanState.PURGED]:
        raise BenchmarkError(f"the orphans of {count} are {ends}, by acts of {[one.messages for _, one in found]}")
    return found


def _leave_behind(stores: Stores, name: str, count: int) -> None:
    """A queue in Redis of a session that PostgreSQL has forgotten."""
    seed(stores, 1, count, mirrored=False)
    stores.database.execute("UPDATE wa_session SET name = %s", [name])
    stores.database.execute("UPDATE wa_deployment SET redis_generation = ''")
    acts.measure(stores, "rebuild")
    stores.database.execute("TRUNCATE wa_session, wa_message, wa_event CASCADE")
    stores.redis.zrem(keys.DUE, name)


def _detected(stores: Stores, name: str) -> Orphan:
    key = keys.queue_key(name).encode()
    orphan, _ = orphans.detect(
        key, session_name=name, source=OrphanSource.RQ, reason="a benchmark", messages=stores.redis.llen(key),
        now=Session.objects.earliest("pk").created_at,
    )  # fmt: skip
    return orphan


def _beside_sends(stores: Stores, act: Callable[[], Run]) -> Run:
    """Do it, and say what became of the rate at which others' messages are sent."""
    alone = _rate(stores, lambda: time.sleep(_ALONE_S))
    if alone < 0.5 * _SENDERS * 1000 / _PACE_MS:
        raise BenchmarkError(f"the senders alone reach {alone:.0f} messages/s: they have run out, or the worker lags")
    made: list[Run] = []
    rate = _rate(stores, lambda: made.append(act()))
    return Run(made[0].messages, made[0].seconds, made[0].extra | {"kept": rate / alone})


def _rate(stores: Stores, act: Callable[[], None]) -> float:
    begin, before = time.monotonic(), stores.value(ours.SENT)
    act()
    return float(stores.value(ours.SENT) - before) / (time.monotonic() - begin)
