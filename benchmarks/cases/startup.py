"""The web server's start with 10,000 sessions and nothing wrong, with and without reconciliation."""

import http.client
import time

from benchmarks import acts, web
from benchmarks.report import BenchmarkError, Line, Result, Run
from benchmarks.rounds import alternate
from benchmarks.seed import seed
from benchmarks.stores import Stores
from sessions_app.models import Reconciliation, ReconciliationOutcome

_STARTS = 3


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """Ready is the first answer to /livez; the start is the moment at which gunicorn is started."""
    sessions, each, starts = (1000, 10, 1) if quick else (10_000, 10, _STARTS)
    stores.reset()
    seed(stores, sessions, each, mirrored=False)
    acts.measure(stores, "rebuild")
    took: list[float] = []
    found = alternate({
        "with": lambda: _start(stores, "waqueue.wsgi", took),
        "without": lambda: _start(stores, "benchmarks.wsgi_without", None),
    }, rounds * starts)  # fmt: skip
    later = [1000 * (a.seconds - b.seconds) for a, b in zip(found["with"], found["without"], strict=True)]
    return Result(
        "startup",
        [
            Line("ready with reconciliation", [one.seconds for one in found["with"]], "s"),
            Line("ready without", [one.seconds for one in found["without"]], "s"),
            Line("later by", later, "ms", at_most=100),
            Line("the reconciliation itself", took, "s", at_most=2),
        ],
        [f"{sessions:,} sessions with {each} messages each; gunicorn with two processes, as `make run` starts it."],
    )


def _start(stores: Stores, application: str, took: list[float] | None) -> Run:
    Reconciliation.objects.all().delete()
    begin = time.monotonic()
    server = web.start(stores, application, {}, is_awaited=False)
    server.process.wait_until(lambda: _answers(server), 60, f"{application} answers", pause_s=0.005)
    seconds = time.monotonic() - begin
    if took is not None:
        ended = Reconciliation.objects.finished()
        server.process.wait_until(ended.exists, 60, "the reconciliation of the start is over")
        run = ended.get()
        if run.outcome != ReconciliationOutcome.CLEAN:
            raise BenchmarkError(f"the reconciliation ended {run.outcome}: {run.counts}")
        took += [(end - run.started_at).total_seconds() for end in [run.finished_at] if end]
    server.process.kill()
    return Run(1, seconds)


def _answers(server: web.Server) -> bool:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
