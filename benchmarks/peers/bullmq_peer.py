"""BullMQ on Node.js: a queue and a worker per session, so that order is kept; no database at all."""

import time
from pathlib import Path

from benchmarks.peers import install
from benchmarks.report import Run
from benchmarks.stores import Stores

_SCRIPT = Path(__file__).with_name("bullmq_peer.mjs")


def measure(stores: Stores, queues: int, each: int, *, connection: str) -> Run:
    """Run `queues` x `each` jobs in one process, timed from the word to begin to the last completed job.

    `connection` says whether each worker has its `own`, as in the first example of BullMQ's guide
    (docs.bullmq.io/guide/connections), or all have one that is `shared`, beside the one on which each waits.
    """
    modules = install.from_npm("bullmq", "bullmq@6.7.0", "ioredis@6.0.0")
    stores.reset()
    worker = stores.run(["node", _SCRIPT, modules, str(queues), str(each), connection])
    worker.wait_for_line("ready", 300)
    begin = time.monotonic()
    worker.say("go")
    worker.wait_for_line("done", 600)
    seconds = time.monotonic() - begin
    worker.kill()
    return Run(queues * each, seconds)
