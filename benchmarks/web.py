"""The web side: gunicorn with the settings of `make run`, messages posted one by one, and a look at what was kept."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks import gunicorn_config
from benchmarks.posting import post
from benchmarks.processes import Process
from benchmarks.report import BenchmarkError, Run
from benchmarks.seed import TEXT, seed
from benchmarks.stores import Stores
from sessions_app.models import Reconciliation, Scope
from sessions_app.services import api_keys
from sessions_app.services.audit import Actor
from waqueue.embedded.system import find_free_port

SESSIONS, CONNECTIONS = 1000, 8
_PROCESSES = 2
# As in waqueue/run/supervisor.py.
_SETTINGS = ["--worker-class", "gthread", "--threads", "8", "--no-control-socket"]


@dataclass(frozen=True, slots=True)
class Server:
    """A web server that answers, and what its clients have to send with every request."""

    process: Process
    address: str
    headers: Mapping[str, str]

    def path(self, session: int) -> str:
        """Where messages of a session are posted, on both sides."""
        return f"{self.address}/whatsapp/sessions/s{session}/messages"


def start(stores: Stores, application: str, headers: Mapping[str, str], *, is_awaited: bool = True) -> Server:
    """Start a web server; return it when all of its processes have loaded the application, or at once."""
    address = f"127.0.0.1:{find_free_port()}"
    argv = [sys.executable, "-m", "gunicorn", application, "--bind", address, *_SETTINGS]
    # With the log that `make run` writes.
    environ = {"WEB_CONCURRENCY": str(_PROCESSES), "WAQUEUE_LOG_LEVEL": "INFO"}
    process = stores.run([*argv, "--config", gunicorn_config.__file__], environ=environ)
    if is_awaited:
        process.wait_until(
            lambda: process.log.read_text().count(gunicorn_config.READY) >= _PROCESSES, 60, f"{application} is loaded"
        )
    return Server(process, f"http://{address}", headers)


def start_ours(stores: Stores) -> Server:
    """Empty the stores and start waqueue's, for paused sessions s0, s1, ...: there is no worker."""
    stores.reset()
    seed(stores, SESSIONS, 0)
    return serve_ours(stores)


def serve_ours(stores: Stores) -> Server:
    """Start waqueue's for the sessions that there are."""
    _, key = api_keys.create(
        name="benchmark", scopes=[Scope.SEND], session_names=[], expires_at=None, actor=Actor.command("benchmarks")
    )
    server = start(stores, "waqueue.wsgi", {"Authorization": f"Bearer {key}"})
    begun = Reconciliation.objects.exclude(finished_at=None)
    server.process.wait_until(begun.exists, 60, "the reconciliation of the start is over")
    return server


def post_singles(stores: Stores, server: Server, seconds: float) -> Run:
    """Post messages one by one for so long, to all sessions in turn; return what came after a second of warming up."""
    requests = [(server.path(number), {"to": "+51930246633", "text": TEXT}) for number in range(SESSIONS)]
    return post(
        stores, requests, connections=CONNECTIONS, status=202, headers=server.headers, warm_up_s=1, seconds=seconds,
        renew_s=0.5,
    )  # fmt: skip


def measure_ours(stores: Stores, seconds: float) -> Run:
    """Post messages to waqueue for so long."""
    server = start_ours(stores)
    run = post_singles(stores, server, seconds)
    server.process.kill()
    check_kept(stores, "wa_message", run.messages + run.extra["answers_before"])
    return run


def check_kept(stores: Stores, table: str, count: float) -> None:
    """Raise BenchmarkError unless there are so many rows, and so many jobs in RQ's queues."""
    rows = stores.value(f"SELECT count(*) FROM {table}")
    jobs = sum(stores.redis.llen(queue) for queue in stores.redis.smembers("rq:queues"))
    if not rows == jobs == count:
        raise BenchmarkError(f"of {count} accepted messages there are {rows} rows and {jobs} jobs")
