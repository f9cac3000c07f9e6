"""Messages posted one by one over 8 connections, beside a Django view with one INSERT and one stock `enqueue`."""

from benchmarks import web
from benchmarks.peers import django_peer
from benchmarks.report import Line, Result
from benchmarks.rounds import alternate, compared
from benchmarks.stores import Stores


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """Both under gunicorn as `make run` starts it. The sessions are paused and no worker runs."""
    seconds = 2 if quick else 6
    sides = {
        "waqueue": lambda: web.measure_ours(stores, seconds),
        "Django view": lambda: django_peer.measure(stores, seconds),
    }
    found = alternate(sides, rounds)
    lines = compared(found, "waqueue", {"Django view": 0.5})
    for name, runs in found.items():
        lines += [Line(f"{name}: {at}", [run.extra[f"{at}_ms"] for run in runs], "ms") for at in ("p50", "p99")]
    return Result(
        "post_one",
        lines,
        [
            f"{web.CONNECTIONS} connections post to {web.SESSIONS:,} sessions in turn. All of it is kept and put.",
            "The Django view has no key to check, no middleware, no log, no event, and no order to keep.",
        ],
    )
