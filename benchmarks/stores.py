"""Throw-away PostgreSQL and Valkey with the settings that `make run` gives them, and Django pointed at them."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

import psycopg
import redis

from benchmarks.processes import Process
from waqueue.embedded import EmbeddedPostgres, EmbeddedValkey

_SECRET_KEY = "only-for-benchmarks-0123456789-abcdefghijklmnopqrstuvwxyz"
_OURS = r"SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'wa\_%' AND relname <> 'wa_deployment'"


class Stores:
    """Both servers, and the processes that were started on them. All of it is gone when the block ends."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="waqueue-bench-"))
        # Run by root, PostgreSQL gets an account of its own, which has to walk through.
        self.folder.chmod(0o711)
        self.postgres = EmbeddedPostgres(self.folder / "postgres")
        self.valkey = EmbeddedValkey(self.folder / "valkey")
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        self.postgres.start()
        self.valkey.start()
        for name in [name for name in os.environ if name.startswith("WAQUEUE_")]:
            del os.environ[name]
        os.environ |= {
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "WAQUEUE_SECRET_KEY": _SECRET_KEY,
            "WAQUEUE_LOG_LEVEL": "WARNING",
            "DJANGO_SETTINGS_MODULE": "waqueue.settings",
        }
        self._setup_django()
        self.redis = redis.Redis.from_url(self.valkey.url)
        self.database: psycopg.Connection[Any] = psycopg.connect(self.postgres.url, autocommit=True)
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self._processes:
            process.kill()
        self.database.close()
        self.redis.close()
        self._close_django()
        self.valkey.kill()
        self.postgres.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, argv: list[str | Path], **options: Any) -> Process:
        """Start a process on these servers; it ends with them at the latest."""
        process = Process(argv, log=self.folder / f"process-{len(self._processes)}.log", **options)
        self._processes.append(process)
        return process

    def value(self, statement: str, parameters: list[Any] | None = None) -> Any:
        """The one value that a query gives."""
        row = self.database.execute(statement, parameters).fetchone()
        return row[0] if row else None

    def reset(self) -> None:
        """Empty both stores, so that no round pays for the ones before it."""
        tables = [row[0] for row in self.database.execute(_OURS).fetchall()]
        self.database.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")
        self.database.execute("DROP SCHEMA IF EXISTS peer CASCADE")
        self.redis.flushall()

    def _setup_django(self) -> None:
        import django
        from django.core.management import call_command
        from django.db import connection

        django.setup()
        connection.settings_dict["OPTIONS"].pop("pool", None)
        call_command("migrate", verbosity=0)

    def _close_django(self) -> None:
        from django.db import connections

        connections.close_all()
