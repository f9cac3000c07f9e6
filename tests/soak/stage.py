"""The waqueue that is soaked: its stores, behind proxies, its web server and its workers, as operators run them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import redis

from tests.processes import PROJECT, find_free_port, gunicorn, rqworker
from tests.proxy import Proxy
from tests.servers import Servers
from tests.soak.life import Life

# What operators may set too. Heartbeats, silence and steadiness are the product's own.
SEND_SECONDS = 8
DRAIN_SECONDS = 10
_SETTINGS = {
    "WAQUEUE_SECRET_KEY": "only-for-the-soak-0123456789-abcdefghijklmnopqrstuvwxyz",
    "WAQUEUE_SEND_SECONDS": str(SEND_SECONDS),
    "WAQUEUE_DRAIN_SECONDS": str(DRAIN_SECONDS),
    "WAQUEUE_RECONCILE_SECONDS": "15",
    # A resend by policy waits for the last of these.
    "WAQUEUE_LOOK_UP_SECONDS": "1,3",
    "WEB_CONCURRENCY": "2",
    "DJANGO_SETTINGS_MODULE": "waqueue.settings",
}


class Stage:
    """All processes of one waqueue. Whatever is done to one that is not as it should be for it, is left out."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self._servers = Servers()
        self.postgres = self._servers.postgres()
        self.redis = self._servers.valkey()
        self.postgres_proxy = Proxy("127.0.0.1", self.postgres.port)
        self.redis_proxy = Proxy("127.0.0.1", self.redis.port)
        self._network = contextlib.ExitStack()
        self.environ = _SETTINGS | {
            "DATABASE_URL": self.postgres_proxy.instead_of(self.postgres.url),
            "REDIS_URL": self.redis_proxy.instead_of(self.redis.url),
        }
        self.port = find_free_port()
        self.web = Life(gunicorn(folder / "web.log", self.environ, self.port))
        self.workers = [self._worker(str(slot)) for slot in range(workers)]
        # Workers that were asked to leave; those that are frozen, by slot; commands that run beside everything.
        self.leaving: list[Life] = []
        self.frozen: dict[int, Life] = {}
        self.commands: list[subprocess.Popen[bytes]] = []
        self._old_redis = self._servers.folder / "old-redis"

    @property
    def lives(self) -> list[Life]:
        """All that serve or have served, the frozen ones among them."""
        return [self.web, *self.workers, *self.leaving]

    def start(self) -> str:
        """Start everything; return a key of the API that may do everything."""
        for proxy in (self.postgres_proxy, self.redis_proxy):
            self._network.enter_context(proxy)
        self.manage("migrate", "-v0")
        scopes = [word for scope in ("read", "send", "manage") for word in ("--scope", scope)]
        key = self.manage("create_api_key", "soak", *scopes).strip()
        self.heal()
        return key

    def close(self) -> None:
        """End everything."""
        for life in self.lives:
            life.kill()
        for command in self.commands:
            command.kill()
            command.wait()
        self._network.close()
        self._servers.close()

    def heal(self) -> None:
        """Have everything run that should, undisturbed."""
        self.start_postgres()
        self.start_redis()
        self.redis_proxy.latency_s = self.postgres_proxy.latency_s = 0.0
        for slot in list(self.frozen):
            self.thaw(slot)
        for slot in range(len(self.workers)):
            self.start_worker(slot)
        self.start_web()

    def manage(self, *arguments: str) -> str:
        """Run a command as an operator does, and return what it printed."""
        done = self.command(*arguments)
        assert done.returncode == 0, done
        return done.stdout

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it."""
        argv, environ = [sys.executable, "manage.py", *arguments], os.environ | self.environ
        return subprocess.run(argv, cwd=PROJECT, env=environ, capture_output=True, text=True)

    def begin_command(self, *arguments: str) -> None:
        """Run a command beside everything else."""
        argv, environ = [sys.executable, "manage.py", *arguments], os.environ | self.environ
        with (self.folder / "commands.log").open("ab") as log:
            self.commands.append(subprocess.Popen(argv, cwd=PROJECT, env=environ, stdout=log, stderr=log))

    def database(self, **options: Any) -> psycopg.Connection[Any]:
        """A connection of the soak's own, past the proxy."""
        return psycopg.connect(self.postgres.url, autocommit=True, connect_timeout=3, **options)

    def redis_client(self) -> "redis.Redis[bytes]":
        """A client of the soak's own, past the proxy."""
        return redis.Redis.from_url(self.redis.url, socket_timeout=5, retry=None)

    # The web server and the workers.

    def start_web(self) -> None:
        """Start the web server unless it runs."""
        self.web.start()

    def kill_web(self) -> None:
        """Kill the web server with its processes."""
        self.web.kill()

    def start_worker(self, slot: int) -> None:
        """Start a worker unless it runs."""
        self.workers[slot].start()

    def kill_worker(self, slot: int) -> None:
        """Kill a worker, frozen or not."""
        if self.frozen.get(slot) is self.workers[slot]:
            del self.frozen[slot]
        self.workers[slot].kill()

    def replace_worker(self, slot: int) -> None:
        """Ask a worker to leave and start another."""
        self.workers[slot].ask_to_leave()
        self.leaving.append(self.workers[slot])
        # With a log of its own, for the other one still writes.
        self.workers[slot] = self._worker(f"{slot}-after-{len(self.leaving)}")
        self.workers[slot].start()

    def freeze(self, slot: int) -> None:
        """Stop a worker in its tracks."""
        if slot not in self.frozen and self.workers[slot].is_running():
            self.workers[slot].process.send(signal.SIGSTOP)
            self.frozen[slot] = self.workers[slot]

    def thaw(self, slot: int) -> None:
        """Let a frozen worker go on."""
        life = self.frozen.pop(slot, None)
        if life is not None and life.is_running():
            life.process.send(signal.SIGCONT)

    def _worker(self, name: str) -> Life:
        return Life(rqworker(self.folder / f"worker-{name}.log", self.environ))

    # The stores.

    def start_postgres(self) -> None:
        """Start PostgreSQL unless it runs."""
        if not self.postgres.is_running():
            self.postgres.start()

    def end_database_connections(self) -> int:
        """Have PostgreSQL end all connections but the one that asks; return how many there were."""
        with self.database() as connection:
            rows = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall()
        return len(rows)

    def start_redis(self) -> None:
        """Start Redis unless it runs, with the data that it has."""
        if not self.redis.is_running():
            self.redis.start()

    def kill_redis(self) -> None:
        """Kill Redis, and keep what it has for `start_old_redis`."""
        self.redis.kill()
        shutil.rmtree(self._old_redis, ignore_errors=True)
        shutil.copytree(self.redis.data_dir, self._old_redis)

    def start_empty_redis(self) -> None:
        """Restart Redis without its data."""
        self.redis.kill()
        shutil.rmtree(self.redis.data_dir)
        self.redis.start()

    def start_old_redis(self) -> None:
        """Restart Redis with what it had when it was killed last."""
        if not self._old_redis.exists():
            self.kill_redis()
        self.redis.kill()
        shutil.rmtree(self.redis.data_dir)
        shutil.copytree(self._old_redis, self.redis.data_dir)
        self.redis.start()
