"""The web server beside a PostgreSQL that goes away and comes back."""

import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lengths import outage_s
from tests.processes import Process, find_free_port, gunicorn, wait_until
from tests.servers import Servers

pytestmark = pytest.mark.acceptance

AWAY_S = outage_s(16)


def manage(log: Path, environ: dict[str, str], *arguments: str) -> Process:
    return Process([sys.executable, "manage.py", *arguments], environ, log)


@pytest.mark.fault(13)
def test_after_a_long_outage_of_the_database_the_web_serves_again_at_once(
    servers: Servers, process: Callable[..., Process]
) -> None:
    postgres, valkey = servers.postgres(), servers.valkey()
    environ = {"DATABASE_URL": postgres.url, "REDIS_URL": valkey.url}
    assert process(manage, environ, "migrate", "-v", "0").wait(90) == 0
    made = process(manage, environ, "create_api_key", "web", "--scope", "read")
    assert made.wait(90) == 0
    key = next(line for line in made.output.splitlines() if line.startswith("waq_"))
    port = find_free_port()
    process(gunicorn, environ, port)

    def status() -> int:
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/whatsapp/queues", headers={"X-Api-Key": key})
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    wait_until(lambda: status() == 200, 60, "it serves")
    postgres.kill()
    # So long that attempts which come ever more seldom would now be far apart.
    began = time.monotonic()
    while time.monotonic() < began + AWAY_S:
        assert status() == 503
    postgres.start()
    wait_until(lambda: status() == 200, 4, "it serves again")
