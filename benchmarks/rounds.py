"""Ours and its peers in turn, so that what the machine does meanwhile meets both."""

from collections.abc import Callable, Mapping

from benchmarks.report import Line, Run

Measure = Callable[[], Run]


def alternate(sides: Mapping[str, Measure], rounds: int) -> dict[str, list[Run]]:
    """Measure every side once a round; every other round in the opposite order."""
    found: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in order:
            run = sides[name]()
            found[name].append(run)
            print(
                f"  round {number + 1} of {rounds}: {name}: {run.messages:,} messages in {run.seconds:.2f} s",
                flush=True,
            )
    return found


def compared(found: Mapping[str, list[Run]], ours: str, at_least: Mapping[str, float | None]) -> list[Line]:
    """The rates of all sides, and by how much ours is faster than each one of `at_least` (None: no target)."""
    rates = [Line(name, [run.rate for run in runs]) for name, runs in found.items()]
    ratios = [
        Line(
            f"{ours} / {peer}",
            [mine.rate / theirs.rate for mine, theirs in zip(found[ours], found[peer], strict=True)],
            "times",
            at_least=target,
        )
        for peer, target in at_least.items()
        if peer in found
    ]
    return rates + ratios
