"""An idle system and one message: from the commit of submit() to the engine."""

import random
import time

from django.db import transaction

from benchmarks import ours
from benchmarks.report import Line, Result
from benchmarks.seed import seed
from benchmarks.stores import Stores
from sessions_app.models import Message, Session
from sessions_app.services import messages


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """The engine's answer carries the moment at which it was asked, on the clock that both processes read."""
    samples = 30 if quick else 200
    halves, tails = [], []
    for _ in range(rounds):
        worker = ours.start_worker(stores)
        seed(stores, 10, 0)
        ours.release(stores)
        time.sleep(2)
        waits = sorted(_one(stores, session) for session in _chosen(samples))
        halves.append(waits[len(waits) // 2])
        tails.append(waits[int(len(waits) * 0.99)])
        worker.kill()
    return Result(
        "idle_latency",
        [Line("p50", halves, "ms", at_most=30), Line("p99", tails, "ms", at_most=100)],
        [f"{samples} messages a round, one at a time, 50 to 150 ms apart."],
    )


def _chosen(samples: int) -> list[Session]:
    sessions = list(Session.objects.all())
    return [random.choice(sessions) for _ in range(samples)]


def _one(stores: Stores, session: Session) -> float:
    committed: list[int] = []
    with transaction.atomic():
        # Called before what submit() itself has done on commit.
        transaction.on_commit(lambda: committed.append(time.monotonic_ns()))
        [message] = messages.submit(session, [messages.Draft(to="+51930246633", text="hello")])
    while not (asked := Message.objects.values_list("provider_id", flat=True).get(pk=message.pk)):
        time.sleep(0.02)
    time.sleep(random.uniform(0.05, 0.15))
    return (int(asked) - committed[0]) / 1e6
