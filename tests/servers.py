"""A pytest plugin: throw-away PostgreSQL and Valkey for the suite, and private ones for tests that break them.

It is loaded by `-p tests.servers`, so that the servers run before pytest-django reads the settings. With
TEST_DATABASE_URL or TEST_REDIS_URL the suite uses those instead. WAQUEUE_TEST_POSTGRES_BIN (a folder) and
WAQUEUE_TEST_REDIS_SERVER (a program) run other builds in the place of the wheels' ones.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pytest

from waqueue.embedded import EmbeddedPostgres, EmbeddedValkey, ServerError, hold_lock
from waqueue.embedded.server import EmbeddedServer

# A killed server loses nothing by these: what it told the system is kept. Only a power cut would, and nobody cuts it.
_POSTGRES_SETTINGS: dict[str, str | int] = {"fsync": "off", "full_page_writes": "off", "max_connections": 600}
_PREFIX = "waqueue-test-"
_SECRET_KEY = "only-for-the-tests-0123456789-abcdefghijklmnopqrstuvwxyz"

AnyServer = TypeVar("AnyServer", bound=EmbeddedServer)


def _remove_what_killed_runs_left() -> None:
    for folder in Path(_memory_folder() or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if (folder / "lock").exists() and (lock := hold_lock(folder / "lock")) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def postgres_at(folder: Path, **settings: str | int) -> EmbeddedPostgres:
    """Return a PostgreSQL on a folder, of the build that is under test, not started."""
    bin_dir = os.environ.get("WAQUEUE_TEST_POSTGRES_BIN")
    return EmbeddedPostgres(folder, bin_dir=Path(bin_dir) if bin_dir else None, settings=_POSTGRES_SETTINGS | settings)


def valkey_at(folder: Path, **settings: str | int) -> EmbeddedValkey:
    """Return a Valkey (or Redis) on a folder, of the build that is under test, not started."""
    program = os.environ.get("WAQUEUE_TEST_REDIS_SERVER")
    return EmbeddedValkey(folder, program=Path(program) if program else None, settings=settings)


def _memory_folder() -> str | None:
    """Return a folder in memory when there is plenty: a PostgreSQL is a thousand files to make and to remove."""
    has_room = os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 8 * 2**30
    return "/dev/shm" if has_room and "TMPDIR" not in os.environ else None


class Servers:
    """Makes servers in a folder of its own, and ends and removes them all.

    `template` is the folder of a stopped PostgreSQL: a copy of it is there sooner than a new one.
    """

    def __init__(self, template: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_memory_folder()))
        # It tells those who come later that we live.
        self._lock = hold_lock(self.folder / "lock")
        # As root, PostgreSQL's own account has to walk through.
        self.folder.chmod(0o711)
        self._template = template
        self._made: list[EmbeddedServer] = []

    def postgres(self, **settings: str | int) -> EmbeddedPostgres:
        """Start another PostgreSQL, empty but for the database `waqueue`."""
        folder = self._place()
        if self._template:
            # With cp, for it keeps owners.
            subprocess.run(["cp", "-a", self._template, folder], check=True)
            for name in ("port", "log"):
                (folder / name).unlink()
        return self.start(postgres_at(folder, **settings))

    def valkey(self, **settings: str | int) -> EmbeddedValkey:
        """Start another Valkey (or Redis), empty. It keeps its data over `kill` and `start`."""
        return self.start(valkey_at(self._place(), **settings))

    def start(self, server: AnyServer) -> AnyServer:
        """Start a server and end it when the others end."""
        self._made.append(server)
        server.start()
        return server

    def close(self) -> None:
        """End all servers and remove their data."""
        while self._made:
            self._made.pop().kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _place(self) -> Path:
        return self.folder / str(len(self._made))


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Point the environment to the suite's servers before anything reads the settings.

    A wrapper runs before every plain hook, pytest-django's among them.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        # The servers are the controller's. Each worker has a database number of its own, and empties only that.
        os.environ["REDIS_URL"] = with_database(os.environ["REDIS_URL"], int(worker.removeprefix("gw")) + 1)
    else:
        _prepare_environment(early_config)
    return (yield)


def _prepare_environment(config: pytest.Config) -> None:
    # What a shell has set for a real waqueue must not reach the tests.
    for name in [name for name in os.environ if name.startswith("WAQUEUE_") and not name.startswith("WAQUEUE_TEST_")]:
        del os.environ[name]
    # A terminated run clears up as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _remove_what_killed_runs_left()
    servers = Servers()
    config.add_cleanup(servers.close)
    try:
        database_url = os.environ.get("TEST_DATABASE_URL") or servers.postgres().url
        redis_url = os.environ.get("TEST_REDIS_URL") or servers.valkey(appendonly="no").url
    except ServerError as error:
        raise pytest.UsageError(str(error)) from error
    os.environ |= {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "WAQUEUE_SECRET_KEY": _SECRET_KEY,
        # A thread of a test gives its connection back only when it is collected: for so many there is room.
        "WAQUEUE_DATABASE_POOL_SIZE": "40",
        # What nobody knows stays so, unless a test is about finding out.
        "WAQUEUE_LOOK_UP_SECONDS": "",
        "DJANGO_SETTINGS_MODULE": "waqueue.settings",
    }


def with_database(redis_url: str, number: int) -> str:
    """Return the address of another database number of the same Redis."""
    parts = urlsplit(redis_url)
    if parts.scheme == "unix":
        return parts._replace(query=f"db={number}").geturl()
    return parts._replace(path=f"/{number}").geturl()


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[Path]:
    """Return the folder of a stopped PostgreSQL to make others from."""
    made = Servers()
    server = made.postgres()
    server.stop()
    yield server.folder
    made.close()


@pytest.fixture
def servers(postgres_template: Path) -> Iterator[Servers]:
    """Return a maker of private servers, for tests that need several or special ones."""
    made = Servers(postgres_template)
    yield made
    made.close()


@pytest.fixture
def own_postgres(servers: Servers) -> EmbeddedPostgres:
    """Return a PostgreSQL that the test owns and may stop, kill and start again."""
    return servers.postgres()


@pytest.fixture
def own_redis(servers: Servers) -> EmbeddedValkey:
    """Return a Valkey (or Redis) that the test owns and may stop, kill and start again."""
    return servers.valkey()
