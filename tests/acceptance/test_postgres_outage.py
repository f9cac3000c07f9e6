"""PostgreSQL that restarts, or is away, under a whole waqueue: web, workers, clients, and an engine with a ledger."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.api_client import Answer
from tests.lengths import outage_s
from tests.processes import Process, cpu_seconds, rqworker, wait_until
from tests.servers import Servers
from tests.site import Site
from tests.waha_lab import KEY
from tests.waha_stub import WORKING, WahaStub, delayed

pytestmark = pytest.mark.acceptance

NAMES = [f"school-{number}" for number in range(5)]
# Longer than the silence after which a worker counts as dead, and than the longest wait between two tries.
AWAY_S = outage_s(20)
# A worker that waits takes a hundredth of a processor; one that spins takes whatever a busy machine leaves it.
MOST_BUSY = 0.05


class Client(threading.Thread):
    """Hands one message after the other to a session, each until it is accepted, as a careful client does."""

    def __init__(self, site: Site, session: str) -> None:
        super().__init__(daemon=True)
        self._site = site
        self._session = session
        self._stopping = threading.Event()
        self.accepted = 0
        self.refused: list[Answer] = []

    def run(self) -> None:
        path = f"/whatsapp/sessions/{self._session}/messages"
        while not self._stopping.wait(0.05):
            body = {"to": "+51930246633", "text": str(self.accepted)}
            answer = self._site.call("POST", path, body, Idempotency_Key=f"{self._session}-{self.accepted}")
            if answer.status == 202:
                self.accepted += 1
            else:
                self.refused.append(answer)

    def stop(self) -> None:
        self._stopping.set()
        self.join(30)
        assert not self.is_alive()


@pytest.fixture
def engine() -> Iterator[WahaStub]:
    """Have an engine that takes a moment for each message."""
    with WahaStub(api_key=KEY, sessions=dict.fromkeys(NAMES, WORKING), on_send=delayed(0.1)) as started:
        yield started


@pytest.fixture
def site(servers: Servers, tmp_path: Path, engine: WahaStub) -> Iterator[Site]:
    """Have a web server, and sessions that send through the engine as fast as it takes."""
    made = Site(servers.postgres(), servers.valkey(), tmp_path / "web.log")
    made.process.start()
    try:
        wait_until(made.is_answering, 60, "the web process answers")
        for name in NAMES:
            body = {"name": name, "transport": "waha", "config": {"base_url": engine.url, "api_key": KEY}}
            pacing = dict.fromkeys(("min_interval_ms", "max_interval_ms", "per_recipient_ms"), 0)
            caps = dict.fromkeys(("hourly_cap", "daily_cap"), 0)
            assert made.call("POST", "/whatsapp/sessions", body | {"pacing": pacing | caps}).status == 201
        yield made
    finally:
        made.process.kill()


@pytest.fixture
def clients(site: Site) -> Iterator[list[Client]]:
    """Have a client for each session."""
    made = [Client(site, name) for name in NAMES]
    for client in made:
        client.start()
    yield made
    for client in made:
        client.stop()


def rows(site: Site, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(site.postgres.url, autocommit=True) as looking:
        return looking.execute(statement).fetchall()


def assert_all_were_sent_once_and_in_order(site: Site, engine: WahaStub, clients: list[Client]) -> None:
    for client in clients:
        client.stop()
    count = sum(client.accepted for client in clients)
    wait_until(lambda: rows(site, "SELECT count(*) FROM wa_message WHERE status = 'sent'") == [(count,)], 120, "all")
    assert rows(site, "SELECT status, attempts FROM wa_message GROUP BY 1, 2") == [("sent", 1)]
    for client, name in zip(clients, NAMES, strict=True):
        texts = [sent.text for sent in engine.arrived if sent.body["session"] == name]
        assert texts == [str(number) for number in range(client.accepted)]
    # What arrived was fenced, what was fenced and not handed over was put back, and the engine's word was kept.
    outcomes = Counter(outcome for (outcome,) in rows(site, "SELECT outcome FROM wa_attempt"))
    assert outcomes["sent"] == len(engine.arrived) == count
    assert set(outcomes) <= {"sent", "returned"}
    ids = {f"3EB0{number:08d}" for number in range(1, count + 1)}
    assert {pk for (pk,) in rows(site, "SELECT provider_id FROM wa_message")} == ids


def assert_refused_as_promised(clients: list[Client]) -> None:
    """That whoever was refused was told each time by a 503 when to try again."""
    for client in clients:
        for answer in client.refused:
            assert (answer.status, answer["code"]) == (503, "database_unavailable")
            assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.fault(13)
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_restarts_of_postgresql_lose_nothing_and_send_nothing_twice(
    how: str, site: Site, engine: WahaStub, clients: list[Client], process: Callable[..., Process]
) -> None:
    both = [process(rqworker, site.environ) for _ in range(2)]
    for number in range(1, 4):
        wait_until(lambda least=60 * number: len(engine.accepted) > least, 90, "it sends")
        getattr(site.postgres, how)()
        site.postgres.start()
    enough = len(engine.accepted) + 60
    wait_until(lambda: len(engine.accepted) > enough, 90, "it sends again")
    assert_all_were_sent_once_and_in_order(site, engine, clients)
    assert_refused_as_promised(clients)
    assert all(worker.is_running() for worker in both)


@pytest.mark.fault(13)
def test_while_postgresql_is_down_nothing_is_sent_and_what_the_engine_answers_is_kept_and_written_later(
    site: Site, engine: WahaStub, clients: list[Client], process: Callable[..., Process]
) -> None:
    worker = process(rqworker, site.environ)
    wait_until(lambda: len(engine.accepted) > 60, 90, "it sends")
    slow: list[Any] = []

    async def slowly(engine: WahaStub, request: Any) -> Any:
        slow.append(request)
        return await delayed(3)(engine, request)

    engine.on_send = slowly
    # Each session has a message on its way: none can send another before that one is settled.
    wait_until(lambda: len(slow) == len(NAMES), 60, "all are sending")
    handed_over = len(engine.paths)
    site.postgres.kill()
    began, busy = time.monotonic(), cpu_seconds(worker.pid)
    wait_until(lambda: engine.in_flight == 0, 30, "the engine has answered all of them")
    engine.on_send = delayed(0.1)
    wait_until(lambda: time.monotonic() > began + AWAY_S, AWAY_S + 10, "the outage lasts")
    assert cpu_seconds(worker.pid) - busy < MOST_BUSY * (time.monotonic() - began)
    assert len(engine.paths) == handed_over
    assert worker.is_running()
    site.postgres.start()
    enough = len(engine.accepted) + 60
    wait_until(lambda: len(engine.accepted) > enough, 90, "it sends again")
    assert_all_were_sent_once_and_in_order(site, engine, clients)
    assert all(client.refused for client in clients)
    assert_refused_as_promised(clients)
