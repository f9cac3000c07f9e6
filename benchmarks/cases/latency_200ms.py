"""An engine that takes 200 ms, 1,000 sessions of 10 messages, 1,000 at once, one worker: the share of the ideal."""

from benchmarks import ours
from benchmarks.report import Line, Result
from benchmarks.rounds import alternate
from benchmarks.stores import Stores

_SESSIONS, _DELAY_MS = 1000, 200


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """The ideal is that every session always has a message with the engine: sessions / latency."""
    each = 3 if quick else 10
    config = {"delay_ms": _DELAY_MS}
    sides = {"waqueue": lambda: ours.measure(stores, _SESSIONS, each, transport="sleeping", config=config)}
    runs = alternate(sides, rounds)["waqueue"]
    ideal = _SESSIONS / (_DELAY_MS / 1000)
    return Result(
        "latency_200ms",
        [
            Line("waqueue", [run.rate for run in runs]),
            Line("share of the ideal", [run.rate / ideal for run in runs], "", at_least=0.8),
        ],
        [f"The ideal is {ideal:,.0f} messages/s."],
    )
