"""A start reconciles in the background, once however many processes start; a command that only imports never does."""

import contextlib
import re
import select
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from sessions_app.models import Orphan, Reconciliation, Worker
from sessions_app.reconciliation.run import _LOCK
from tests.acceptance.stack import Stack
from tests.factories import observer
from tests.processes import PROJECT, Process, find_free_port, gunicorn, wait_until
from tests.reconciliation_lab import in_order, stock_queue
from tests.servers import Servers

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

COMMANDS = sorted(path.stem for path in (PROJECT / "sessions_app/management/commands").glob("[!_]*.py"))
HARMLESS = [
    ["check"],
    ["shell", "-c", "from sessions_app.models import Session"],
    ["collectstatic", "--noinput", "--dry-run", "-v", "0"],
    ["makemigrations", "--check", "--dry-run"],
    ["test"],
    *([command, "--help"] for command in COMMANDS),
]


def manage(log: Path, environ: dict[str, str], *arguments: str) -> Process:
    return Process([sys.executable, "manage.py", *arguments], environ, log)


class Traps:
    """Two ports on which nobody answers, and that know whether anybody came."""

    def __init__(self) -> None:
        self._sockets = [socket.socket() for _ in range(2)]
        for one in self._sockets:
            one.bind(("127.0.0.1", 0))
            one.listen()
        postgres, redis_port = (one.getsockname()[1] for one in self._sockets)
        self.environ = {
            "DATABASE_URL": f"postgresql://a:b@127.0.0.1:{postgres}/waqueue",
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        }

    def visited(self) -> bool:
        return bool(select.select(self._sockets, [], [], 0)[0])

    def close(self) -> None:
        for one in self._sockets:
            one.close()


@pytest.fixture
def traps() -> Iterator[Traps]:
    with contextlib.closing(Traps()) as made:
        yield made


@pytest.mark.fault(31)
def test_what_only_imports_connects_to_nothing_and_says_no_traceback(
    traps: Traps, process: Callable[..., Process]
) -> None:
    assert {"orphans", "reconcile_queues", "replay_incident"} <= set(COMMANDS)
    # `makemigrations` itself asks the database for its history.
    running = [(words, process(manage, traps.environ, *words)) for words in HARMLESS if words[0] != "makemigrations"]
    for words, one in running:
        assert one.wait(90) == 0, words
        assert "Traceback" not in one.output, words
    assert not traps.visited()


@pytest.mark.fault(31)
def test_commands_with_both_stores_down_end_soon_and_without_a_traceback(
    tmp_path: Path, process: Callable[..., Process]
) -> None:
    environ = {
        "DATABASE_URL": f"postgresql://a:b@127.0.0.1:{find_free_port()}/waqueue",
        "REDIS_URL": f"redis://127.0.0.1:{find_free_port()}/0",
    }
    running = [(words, code, process(manage, environ, *words)) for words, code in WITHOUT_STORES]
    assert {words[0] for words, _ in WITHOUT_STORES} >= set(COMMANDS) - {"rqworker"}
    for words, code, one in running:
        assert one.wait(90) == code, (words, one.output)
        assert "Traceback" not in one.output, one.output
        assert "start-up reconciliation" not in one.output
        # Besides what Django says of its own checks, and RQ above its table.
        (said,) = [saying for saying in one.output.splitlines() if SAID.search(saying)] or [""]
        assert bool(said) == (code != 0), one.output
        assert code == 0 or words[0] == "rqstats" or one.output.strip() == said


SAID = re.compile("PostgreSQL could not be asked|Redis could not be asked|could not run|Redis cannot")

# Each command with what it answers when both stores are down, as its help says.
WITHOUT_STORES: list[tuple[list[str], int]] = [
    (["makemigrations", "--check", "--dry-run"], 0),
    (["collectstatic", "--noinput", "--dry-run", "-v", "0"], 0),
    (["test"], 0),
    (["migrate"], 1),
    (["showmigrations"], 1),
    (["createsuperuser", "--noinput", "--username", "a", "--email", "a@example.com"], 1),
    (["rqstats"], 1),
    (["rqenqueue", "a.b"], 1),
    (["reconcile_queues"], 2),
    (["reconcile_queues", "--dry-run", "--session", "alpha", "--format", "json"], 2),
    (["replay_incident"], 1),
    (["create_api_key", "a", "--scope", "read"], 2),
    (["rotate_secrets"], 2),
    (["rotate_secrets", "--dry-run"], 2),
    (["orphans", "list"], 2),
    (["orphans", "show", "alpha"], 2),
    (["orphans", "archive", "alpha"], 2),
    (["orphans", "restore", "alpha"], 2),
    (["orphans", "purge", "alpha", "--expect", "1"], 2),
    (["orphans", "export", "alpha"], 2),
]


@pytest.mark.fault(31)
def test_what_is_wrong_in_the_program_still_shows_where(traps: Traps, process: Callable[..., Process]) -> None:
    wrong = ("1 / 0", "from django.db import ProgrammingError; raise ProgrammingError('no such column')")
    for one in [process(manage, traps.environ, "shell", "-v", "0", "-c", words) for words in wrong]:
        assert one.wait(90) == 1
        assert "Traceback" in one.output, one.output


@pytest.mark.fault(31)
def test_commands_with_empty_stores_begin_no_reconciliation(servers: Servers, process: Callable[..., Process]) -> None:
    postgres, valkey = servers.postgres(), servers.valkey()
    environ = {"DATABASE_URL": postgres.url, "REDIS_URL": valkey.url}
    client = redis.Redis.from_url(valkey.url)
    stock_queue(client, "gone", "abc")
    met = client.info("stats")["total_connections_received"]
    without_tables = [(words, 0) for words in HARMLESS if "--help" not in words]
    without_tables.append((["createsuperuser", "--noinput", "--username", "a", "--email", "a@example.com"], 1))
    for commands in (without_tables, [(["migrate", "-v", "0"], 0)]):
        for code, one in [(code, process(manage, environ, *words)) for words, code in commands]:
            assert one.wait(90) == code, one.output
            assert "Traceback" not in one.output
            assert "orphan" not in one.output
            if code:
                lacks = 'PostgreSQL lacks a table: relation "auth_user" does not exist. Run `manage.py migrate` first.'
                assert one.output.splitlines()[-1] == lacks
    assert client.info("stats")["total_connections_received"] == met
    assert client.llen("rq:queue:wa:gone") == 3
    with psycopg.connect(postgres.url) as database:
        assert database.execute("SELECT count(*) FROM wa_reconciliation").fetchone() == (0,)


@pytest.mark.fault(32)
def test_eight_web_processes_and_four_workers_at_once_begin_one_run(
    stack: Stack, process: Callable[..., Process]
) -> None:
    in_order()
    client = redis.Redis.from_url(stack.redis.url)
    stock_queue(client, "gone", "abc")
    quiet = stack.environ | {"WAQUEUE_RECONCILE_SECONDS": "3600"}

    def eight(log: Path, environ: dict[str, str], port: int) -> Process:
        one = gunicorn(log, environ, port, threads=1)
        one._argv = [*one._argv, "--workers", "8"]
        return one

    with observer() as other:
        # All of them are there, and turned away, before the first of them may begin.
        other.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        server = process(eight, quiet, port := find_free_port())
        workers = [stack.worker(**quiet) for _ in range(4)]
        wait_until(lambda: server.output.count("Booting worker") == 8, 120, "eight web processes")
        wait_until(lambda: Worker.objects.count() == 4, 120, "four workers")
        wait_until(lambda: _answers(port), 120, "they answer, though the run is not done")
        assert not Reconciliation.objects.exists()
        other.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
    wait_until(lambda: Reconciliation.objects.filter(outcome="repaired").exists(), 60, "a start-up run")
    said = "another process has done the start-up reconciliation"
    wait_until(
        lambda: sum(one.output.count(said) for one in (server, *workers)) == 11, 90, "the others see that it was done"
    )
    run = Reconciliation.objects.get()
    assert (run.trigger, run.counts) == ("startup", {"orphan_queue": 1})
    assert Orphan.objects.get().messages == 3
    assert server.is_running()
    assert all(worker.is_running() for worker in workers)


@pytest.mark.fault(32)
def test_a_start_waits_for_no_redis_and_reconciles_once_it_is_there(
    stack: Stack, process: Callable[..., Process]
) -> None:
    in_order()
    stack.redis.stop()
    port = find_free_port()
    server = process(gunicorn, stack.environ, port)
    wait_until(lambda: _answers(port), 60, "the web server answers")
    wait_until(lambda: "the start-up reconciliation waits: Redis cannot be reached" in server.output, 30, "it says so")
    assert "Traceback" not in server.output
    stack.redis.start()
    client = redis.Redis.from_url(stack.redis.url)
    stock_queue(client, "gone", "abc")
    wait_until(lambda: Orphan.objects.filter(state="archived").exists(), 30, "the reconciliation")
    assert server.output.count("the start-up reconciliation waits") == 1
    assert Reconciliation.objects.exclude(outcome="failed").get().trigger == "startup"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            return connection.recv(12).startswith(b"HTTP/1.")
    except OSError:
        return False
