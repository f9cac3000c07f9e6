"""Fixtures for all tests. Those of servers stand in `tests/servers.py`."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import redis
from django.conf import settings
from django.utils import translation

from sessions_app.queues.connection import bulk_client, deployment_id, upkeep_client, web_client
from sessions_app.transports import registry
from sessions_app.transports.loopback import LoopbackTransport
from tests.emptying import empty_quickly  # noqa: F401 (a fixture for all tests)
from tests.hostile_lab import ran  # noqa: F401 (a fixture)
from tests.processes import Process
from tests.reconciliation_lab import ready, without_pause  # noqa: F401 (fixtures)
from tests.redis_lab import lab, wakes  # noqa: F401 (fixtures)
from tests.servers import Servers
from tests.waha_lab import KEY
from tests.waha_stub import WORKING, WahaStub


@pytest.fixture(scope="session")
def redis_client() -> Iterator[redis.Redis]:
    """Return a client of the suite's own Redis database."""
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        yield client


@pytest.fixture(autouse=True)
def in_english() -> None:
    """Begin each test in the language of the settings: a request leaves its own behind."""
    translation.activate(settings.LANGUAGE_CODE)


@pytest.fixture(autouse=True)
def clean_redis(redis_client: redis.Redis) -> None:
    """Begin each test with an empty Redis, and not knowing whose it is: the database is another each time."""
    redis_client.flushdb()
    deployment_id.cache_clear()
    for client in (web_client, bulk_client, upkeep_client):
        # Made while a test before had another Redis, or none.
        if client.cache_info().currsize and _address(client()) != _address(redis_client):
            client().close()
            client.cache_clear()


def _address(client: redis.Redis) -> list[object]:
    return [client.connection_pool.connection_kwargs.get(name) for name in ("path", "host", "port")]


@contextlib.contextmanager
def _instead(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """Have this process use the Redis at `url` for a while."""
    monkeypatch.setattr(settings, "REDIS_URL", url)
    clients = (web_client, bulk_client, upkeep_client)
    for client in clients:
        client.cache_clear()
    with redis.Redis.from_url(url) as own:
        yield own
    for client in clients:
        client().close()
        client.cache_clear()


@pytest.fixture
def quiet_redis(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """Have a Redis that no other test uses: its statistics and its slow log are those of this one."""
    with _instead(servers.valkey(appendonly="no").url, monkeypatch) as own:
        yield own


@pytest.fixture
def kept_redis(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """Have a Redis that no other test uses, set up as it should be: it keeps what it is told."""
    with _instead(servers.valkey().url, monkeypatch) as own:
        yield own


@pytest.fixture
def stub() -> Iterator[WahaStub]:
    """Have a WAHA that asks for a key and has a session `school`."""
    with WahaStub(api_key=KEY, sessions={"school": WORKING}) as started:
        yield started


@pytest.fixture
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no choice of transports, so that a session can be made on the spot."""
    monkeypatch.setattr(registry, "_TRANSPORTS", {LoopbackTransport.name: LoopbackTransport})


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Return `process(make, environ, *arguments)`: start one, to be killed when the test ends.

    `make` is `rqworker`, `gunicorn` or another function of a log file, an environment and arguments. What the processes
    wrote is shown when the test fails.
    """
    started: list[Process] = []

    def start(
        make: Callable[..., Process], environ: Mapping[str, str], *arguments: object, **options: object
    ) -> Process:
        started.append(make(tmp_path / f"process-{len(started)}.log", environ, *arguments, **options))
        return started[-1].start()

    yield start
    for one in started:
        one.kill()
        sys.stdout.write(f"--- {one.log.name}\n{one.output[-8000:]}\n")
