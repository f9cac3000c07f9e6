"""10,000 sessions against 1,000, and a backlog of 1,000,000 messages against 20,000; the worker's memory."""

from benchmarks import ours
from benchmarks.report import Line, Result
from benchmarks.rounds import alternate
from benchmarks.stores import Stores


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """Nothing may cost more because there is more of it."""
    each, backlog, only = (5, 50, 10_000) if quick else (20, 1000, 50_000)
    few, many, deep = "1,000 sessions", "10,000 sessions", f"backlog of {1000 * backlog:,}"
    found = alternate({
        few: lambda: ours.measure(stores, 1000, each),
        many: lambda: ours.measure(stores, 10_000, max(1, each // 4)),
        deep: lambda: ours.measure(stores, 1000, backlog, only=only),
    }, rounds)  # fmt: skip
    lines = [Line(name, [run.rate for run in runs]) for name, runs in found.items()]
    for name in (many, deep):
        ratios = [run.rate / base.rate for run, base in zip(found[name], found[few], strict=True)]
        lines.append(Line(f"{name} / {few}", ratios, "times", at_least=0.8))
    for name in (many, deep):
        lines.append(
            Line(f"{name}: peak memory", [run.extra["memory_peak_mb"] for run in found[name]], "MB", at_most=200)
        )
        growth = [run.extra["memory_end_mb"] / run.extra["memory_middle_mb"] for run in found[name]]
        lines.append(Line(f"{name}: memory at the end / half-way", growth, "times", at_most=1.1))
    return Result(
        "many_sessions",
        lines,
        [f"{few}: {each} messages each. The backlog's rate is that of its first {only:,} messages."],
    )
