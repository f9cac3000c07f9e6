"""100 sessions of 20 messages, no-op send, beside an unmodified rq SimpleWorker on 100 queues."""

from benchmarks import ours
from benchmarks.peers import rq_peer
from benchmarks.report import Result
from benchmarks.rounds import alternate, compared
from benchmarks.stores import Stores


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """Both send all of them."""
    each = 5 if quick else 20
    sides = {
        "waqueue": lambda: ours.measure(stores, 100, each),
        "SimpleWorker": lambda: rq_peer.measure(stores, 100, each),
    }
    found = alternate(sides, rounds)
    return Result("hundred_sessions", compared(found, "waqueue", {"SimpleWorker": 10}))
