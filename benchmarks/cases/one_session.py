"""One session without a pace, beside SimpleWorker on one queue."""

from benchmarks import ours
from benchmarks.peers import rq_peer
from benchmarks.report import Result
from benchmarks.rounds import alternate, compared
from benchmarks.stores import Stores


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """One message after the other: what a whole turn of the loop takes."""
    count = 100 if quick else 500
    sides = {
        "waqueue": lambda: ours.measure(stores, 1, count),
        "SimpleWorker": lambda: rq_peer.measure(stores, 1, count),
    }
    return Result("one_session", compared(alternate(sides, rounds), "waqueue", {"SimpleWorker": 1}))
