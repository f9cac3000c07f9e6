"""An idle system and one message: from its 202 to the engine."""

import http.client
import json
import random
import time
from urllib.parse import urlsplit

from benchmarks import ours, web
from benchmarks.report import BenchmarkError, Line, Result
from benchmarks.seed import seed
from benchmarks.stores import Stores
from sessions_app.models import Message

_SESSIONS, _FIRST = 10, 20


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """The engine's answer carries the moment at which it was asked, on the clock that all processes read."""
    samples = 30 if quick else 200
    halves, tails = [], []
    for _ in range(rounds):
        worker = ours.start_worker(stores)
        seed(stores, _SESSIONS, 0)
        server = web.serve_ours(stores)
        ours.release(stores)
        # The first find connections to be made and statements to be planned.
        waits = sorted([_one(server) for _ in range(_FIRST + samples)][_FIRST:])
        halves.append(waits[len(waits) // 2])
        tails.append(waits[int(len(waits) * 0.99)])
        server.process.kill()
        worker.kill()
    return Result(
        "idle_latency",
        [Line("p50", halves, "ms", at_most=30), Line("p99", tails, "ms", at_most=100)],
        [
            f"{samples} messages a round, posted one at a time, 50 to 150 ms apart.",
            "What is below nothing was with the engine before the answer was read.",
        ],
    )


def _one(server: web.Server) -> float:
    """Post a message; return how many ms after its 202 the engine was asked."""
    url = urlsplit(server.path(random.randrange(_SESSIONS)))
    client = http.client.HTTPConnection(url.netloc)
    body = json.dumps({"to": "+51930246633", "text": "hello"})
    client.request("POST", url.path, body, {"Content-Type": "application/json", **server.headers})
    answer = client.getresponse()
    content = answer.read()
    answered = time.monotonic_ns()
    client.close()
    if answer.status != 202:
        raise BenchmarkError(f"{url.path} answered {answer.status}: {content[:500]!r}")
    sent = Message.objects.filter(pk=json.loads(content)["id"]).values_list("provider_id", flat=True)
    while not (asked := sent.get()):
        time.sleep(0.02)
    time.sleep(random.uniform(0.05, 0.15))
    return (int(asked) - answered) / 1e6
