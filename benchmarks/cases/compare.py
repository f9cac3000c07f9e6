"""10,000 queues of 100 jobs held against their rows, beside a bare client that reads the same ids; Redis meanwhile."""

import time
from collections.abc import Iterator

from benchmarks import acts, pinging
from benchmarks.report import BenchmarkError, Line, Result, Run
from benchmarks.rounds import alternate
from benchmarks.seed import seed
from benchmarks.stores import Stores
from sessions_app.queues import keys

_SESSIONS, _STEP = 10_000, 200
_IDS = """
SELECT id::text FROM wa_message WHERE session_id BETWEEN %s AND %s AND status IN ('queued', 'sending')
ORDER BY session_id, priority, seq
"""


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """Nothing is wrong, so that all is read and nothing twice. The incident's way comes last: it leaves nothing."""
    sessions, each = (1000, 20) if quick else (_SESSIONS, 100)
    stores.reset()
    seed(stores, sessions, each, mirrored=False)
    acts.measure(stores, "rebuild")
    found = alternate({
        "waqueue": lambda: _ours(stores),
        "the ids in Redis": lambda: _bare(stores, sessions, rows=False),
        "the ids in both stores": lambda: _bare(stores, sessions, rows=True),
    }, rounds)  # fmt: skip
    ours = found["waqueue"]
    _, idle = pinging.beside(stores, lambda: time.sleep(1))
    _, incident = pinging.beside(stores, lambda: _keys_and_del(stores))
    lines = [Line(name, [run.seconds for run in runs], "s") for name, runs in found.items()]
    for name in ("the ids in Redis", "the ids in both stores"):
        ratios = [mine.seconds / theirs.seconds for mine, theirs in zip(ours, found[name], strict=True)]
        lines.append(Line(f"waqueue / {name}", ratios, "times", at_most=3.0))
    return Result(
        "compare",
        [
            *lines,
            Line("peak memory", [run.extra["memory_peak_mb"] for run in ours], "MB", at_most=300),
            Line("Redis answers meanwhile, p99.9", [run.extra["p999"] for run in ours], "ms", at_most=10),
            Line("Redis answers meanwhile, longest", [run.extra["most"] for run in ours], "ms"),
            Line("idle, p99.9", [idle["p999"]], "ms"),
            Line("KEYS and DEL, longest", [incident["most"]], "ms"),
        ],
        [
            f"{sessions:,} queues with {each} jobs each; each side is a process or a client of its own.",
            "waqueue reads the ids in both stores, asks for each job whether its content is there, and looks through "
            "all keys for queues of no session. Nothing differs, so that there is no second look.",
            f"The bare client reads {_STEP} queues a round trip.",
            "KEYS and DEL is the way of the incident: KEYS rq:queue:*, then DEL of every queue that it found.",
        ],
    )  # fmt: skip


def _ours(stores: Stores) -> Run:
    run, waits = pinging.beside(stores, lambda: acts.measure(stores, "compare"))
    return Run(run.messages, run.seconds, run.extra | waits)


def _bare(stores: Stores, sessions: int, *, rows: bool) -> Run:
    begin = time.monotonic()
    count = sum(len(ids) for ids in _read(stores, sessions))
    if rows:
        first = stores.value("SELECT min(id) FROM wa_session")
        for start in range(first, first + sessions, _STEP):
            stores.database.execute(_IDS, [start, start + _STEP - 1]).fetchall()
    seconds = time.monotonic() - begin
    if count != stores.value("SELECT count(*) FROM wa_message"):
        raise BenchmarkError(f"the bare client has read {count} ids")
    return Run(count, seconds)


def _read(stores: Stores, sessions: int) -> Iterator[list[bytes]]:
    for start in range(0, sessions, _STEP):
        with stores.redis.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + _STEP, sessions)):
                pipe.lrange(keys.queue_key(f"s{number}"), 0, -1)
            yield from pipe.execute()


def _keys_and_del(stores: Stores) -> None:
    for key in stores.redis.keys(f"{keys.RQ_QUEUE_PREFIX}*"):
        stores.redis.delete(key)
