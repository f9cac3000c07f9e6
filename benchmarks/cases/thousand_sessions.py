"""1,000 sessions of 20 messages, no-op send, beside SimpleWorker, Celery, procrastinate and BullMQ."""

from benchmarks import ours
from benchmarks.peers import bullmq_peer, celery_peer, install, procrastinate_peer, rq_peer
from benchmarks.report import Result
from benchmarks.rounds import Measure, alternate, compared
from benchmarks.stores import Stores


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """Rates are compared: SimpleWorker would take minutes for all of them and gets fewer, over all queues."""
    each = 5 if quick else 20
    sides: dict[str, Measure] = {
        "waqueue": lambda: ours.measure(stores, 1000, each),
        "SimpleWorker": lambda: rq_peer.measure(stores, 1000, 1),
        "Celery": lambda: celery_peer.measure(stores, 1000 * each),
        "procrastinate": lambda: procrastinate_peer.measure(stores, 1000, 5),
    }
    notes = [
        "SimpleWorker serves 1,000 queues with 1 message each: it looks through as many queues per message as with 20.",
        "Celery keeps no order: 2 prefork processes on one queue.",
        "procrastinate keeps order by a lock per session: 5 messages each, 30 jobs at once. It has no target.",
    ]
    if install.has_node():
        sides["BullMQ"] = lambda: bullmq_peer.measure(stores, 1000, each, connection="own")
        sides["BullMQ, shared"] = lambda: bullmq_peer.measure(stores, 1000, each, connection="shared")
        notes.append("BullMQ has a queue and a worker per session in one process, and no database. Each worker has a")
        notes.append("connection of its own, as its guide begins, or all share one, beside those on which they wait.")
    else:
        notes.append("BullMQ was SKIPPED: there is no node, or no npm.")
    found = alternate(sides, rounds)
    at_least = {"SimpleWorker": 50, "Celery": 5, "procrastinate": None, "BullMQ": 1.5, "BullMQ, shared": 1.5}
    return Result("thousand_sessions", compared(found, "waqueue", at_least), notes)
