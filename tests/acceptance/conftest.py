"""A whole waqueue for one test: real processes on the suite's PostgreSQL and on a Redis that the test may kill."""

import os
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from django.db import connection

from sessions_app.queues import connection as redis_connection
from tests.acceptance.engine import Engine
from tests.acceptance.stack import Stack
from tests.acceptance.web import call
from tests.processes import Process, find_free_port, gunicorn, wait_until
from tests.reconciliation_lab import in_order
from waqueue.embedded import EmbeddedValkey


def _forget_clients() -> None:
    for cached in (
        redis_connection.web_client,
        redis_connection.bulk_client,
        redis_connection.upkeep_client,
        redis_connection.deployment_id,
    ):
        cached.cache_clear()


@pytest.fixture
def stack(
    transactional_db: None, own_redis: EmbeddedValkey, settings: object, process: Callable[..., Process]
) -> Iterator[Stack]:
    """Return a waqueue whose Redis is the test's own; this process speaks to the same stores."""
    settings.REDIS_URL = own_redis.url  # type: ignore[attr-defined]
    _forget_clients()
    database = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}")
    yield Stack(own_redis, {"DATABASE_URL": database.geturl(), "REDIS_URL": own_redis.url}, process)
    _forget_clients()


@pytest.fixture
def web(stack: Stack, process: Callable[..., Process]) -> Callable[..., int]:
    """Return `web(**environ)`: start a web server and return its port."""

    def start(**environ: str) -> int:
        port = find_free_port()
        process(gunicorn, stack.environ | environ, port)

        def answers() -> bool:
            try:
                return call(port, "GET", "/livez")[0] == 200
            except OSError:
                return False

        wait_until(answers, 30, "the web server answers")
        return port

    return start


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Return a WAHA's simulator with a ledger of its own."""
    with Engine() as started:
        yield started


@pytest.fixture
def known_redis(stack: Stack) -> None:
    """Have a Redis that was put in order before: otherwise the first worker signals all sessions once more."""
    in_order()
