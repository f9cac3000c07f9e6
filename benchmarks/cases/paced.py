"""300 sessions paced at 3 s: the gaps between the hand-overs of a session, by the engine's clock."""

from itertools import pairwise

from benchmarks import ours
from benchmarks.report import BenchmarkError, Line, Result
from benchmarks.seed import seed
from benchmarks.stores import Stores

_SESSIONS, _PACE_MS = 300, 3000
# The engine's id of a message is the moment of its hand-over in nanoseconds.
_MOMENTS = "SELECT array_agg(provider_id::bigint ORDER BY seq) FROM wa_message GROUP BY session_id"
_ATTEMPTS = "SELECT count(*) FROM wa_attempt"


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """Lateness is what a gap has over the pace; the least gap is the pace and the least lateness."""
    each = 3 if quick else 6
    ways = {"sessions begin at random": _PACE_MS / 1000, "all sessions due at once": 0.0}
    found: dict[str, list[list[float]]] = {how: [] for how in ways}
    for number in range(rounds):
        for how, spread_s in ways.items():
            found[how].append(sorted(_lateness(stores, each, spread_s)))
            print(f"  round {number + 1} of {rounds}: {how}: {found[how][-1][-1]:.0f} ms late at most", flush=True)
    lines = []
    for how, late in found.items():
        lines += [
            Line(f"{how}: least gap", [_PACE_MS + one[0] for one in late], "ms", at_least=_PACE_MS, always=True),
            Line(f"{how}: lateness, p50", [one[len(one) // 2] for one in late], "ms"),
            Line(f"{how}: lateness, p99", [one[int(len(one) * 0.99)] for one in late], "ms", at_most=100),
            Line(f"{how}: lateness, most", [one[-1] for one in late], "ms"),
        ]
    return Result("paced", lines, [f"{_SESSIONS} sessions of {each} messages, each of which took one attempt."])


def _lateness(stores: Stores, each: int, spread_s: float) -> list[float]:
    """How much later than the pace, in milliseconds, each message was handed over after the one before it."""
    worker = ours.start_worker(stores)
    count = _SESSIONS * each
    seed(stores, _SESSIONS, each, pace_ms=_PACE_MS)
    since = stores.value(ours.EVENTS)
    ours.release(stores, spread_s=spread_s)
    for _done in ours.watch(stores, worker, count, since):
        pass
    worker.wait_until(lambda: stores.value(ours.SENT) >= count, 60, f"all {count} messages are sent")
    worker.kill()
    if (attempts := stores.value(_ATTEMPTS)) != count:
        raise BenchmarkError(f"{count} messages took {attempts} attempts")
    sessions = [row[0] for row in stores.database.execute(_MOMENTS).fetchall()]
    return [(later - earlier) / 1e6 - _PACE_MS for moments in sessions for earlier, later in pairwise(moments)]
