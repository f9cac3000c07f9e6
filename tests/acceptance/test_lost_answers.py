"""A COMMIT whose answer is lost, and a PostgreSQL that has no connection left: nobody guesses what was written."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from django.db import connection

from sessions_app.models import Attempt, Event, InFlight, Message, Status
from tests.acceptance.stack import Stack
from tests.api_client import Answer
from tests.factories import job_ids
from tests.processes import Process, rqworker, wait_until
from tests.proxy import Proxy, through
from tests.servers import Servers
from tests.site import Site

pytestmark = pytest.mark.acceptance

TIMES = 4
MESSAGES = "/whatsapp/sessions/alpha/messages"
HELLO = {"to": "+51930246633", "text": "hello"}


@pytest.fixture
def network(stack: Stack) -> Iterator[Proxy]:
    """Have a network between the workers and PostgreSQL."""
    with through(connection.get_connection_params()) as made:
        yield made


@pytest.mark.fault(33)
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("of", "says"), [("fence", b"INSERT INTO wa_in_flight"), ("settle", b"WITH result AS MATERIALIZED")]
)
def test_a_commit_of_a_worker_whose_answer_is_lost_is_looked_up_before_anything_is_decided(
    of: str, says: bytes, stack: Stack, network: Proxy
) -> None:
    session = stack.session("s", delay_ms=20)
    stack.submit(session, range(60))
    network.lose_answer(says, times=TIMES)
    worker = stack.worker(DATABASE_URL=network.instead_of(stack.environ["DATABASE_URL"]))
    stack.wait_for(60, Status.SENT, within_s=120)
    assert network.broken == TIMES
    stack.assert_in_order_and_once(session, 60)
    # Whatever had been fenced unheard was put back, and cost no attempt; whatever had been settled is settled once.
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}
    outcomes = list(Attempt.objects.values_list("outcome", flat=True))
    assert outcomes.count("sent") == 60
    assert set(outcomes) <= {"sent", "returned"}
    if of == "fence":
        # Not each: one that comes before the last was put back finds its session in flight.
        assert 0 < outcomes.count("returned") <= TIMES
    assert Event.objects.filter(kind="message.sent").count() == 60
    wait_until(lambda: not InFlight.objects.exists(), 10, "nothing is left in flight")
    assert worker.is_running()


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Proxy]]:
    """Have a web process with a network between it and its PostgreSQL."""
    with contextlib.closing(Servers()) as servers:
        postgres, valkey = servers.postgres(), servers.valkey()
        with Proxy("127.0.0.1", postgres.port) as network:
            log = tmp_path_factory.mktemp("lossy") / "web.log"
            site = Site(postgres, valkey, log, DATABASE_URL=network.instead_of(postgres.url))
            site.process.start()
            try:
                wait_until(site.is_answering, 60, "the web process answers")
                yield site, network
            finally:
                site.process.kill()


def new_session(site: Site) -> str:
    """The address of the messages of a session that no other test has."""
    name = f"s{uuid.uuid4().hex[:8]}"
    assert site.call("POST", "/whatsapp/sessions", {"name": name}).status == 201
    return f"/whatsapp/sessions/{name}/messages"


def kept(site: Site, path: str) -> list[str]:
    """The ids of the messages of a session that are in the database, in their order."""
    with observer_of(site) as looking:
        found = looking.execute(
            "SELECT m.id::text FROM wa_message m JOIN wa_session s ON s.id = m.session_id WHERE s.name = %s "
            "ORDER BY m.seq",
            [path.split("/")[3]],
        )
        return [pk for (pk,) in found.fetchall()]


@pytest.mark.fault(33)
@pytest.mark.parametrize("has_key", [False, True], ids=["without a key", "with a key"])
@pytest.mark.parametrize("kind", ["message", "batch"])
def test_a_commit_of_a_submit_whose_answer_is_lost_is_looked_up_and_goes_on_as_any_other(
    kind: str, has_key: bool, lossy: tuple[Site, Proxy]
) -> None:
    site, network = lossy
    path, is_batch = new_session(site), kind == "batch"
    key = {"Idempotency_Key": path} if has_key else {}
    address, body = (f"{path}/batch", {"messages": [HELLO] * 3}) if is_batch else (path, HELLO)
    assert site.call("POST", address, body).status == 202
    before = network.broken
    # A statement by itself is its own COMMIT.
    network.lose_answer(b"COMMIT" if is_batch or has_key else HELLO["text"].encode())
    found = site.call("POST", address, body, **key)
    assert network.broken == before + 1
    assert found.status == 202
    ids = kept(site, path)
    assert len(ids) == (6 if is_batch else 2)
    if is_batch:
        assert site.call("GET", f"/whatsapp/batches/{found['batch_id']}")["counts"]["queued"] == 3
    else:
        assert (found["id"], found["position"]) == (ids[1], 2)
    # Its jobs were put as after any commit, and did not wait for reconciliation.
    with redis.Redis.from_url(site.redis.url) as client:
        assert job_ids(client, path.split("/")[3]) == ids
    if has_key:
        again = site.call("POST", address, body, **key)
        assert again.status == 202 and again.headers["Idempotency-Replayed"] == "true"
        assert again.body == found.body
        assert kept(site, path) == ids


@pytest.mark.fault(33)
def test_what_was_answered_with_503_is_not_written_afterwards_by_a_server_that_is_still_at_it(
    lossy: tuple[Site, Proxy],
) -> None:
    site, network = lossy
    path = new_session(site)
    with blocked_submit(site, path) as asked:
        network.cut()
        refused = asked.result(20)
        assert (refused.status, refused["code"]) == (503, "database_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
    # It has the lock that it waited for.
    assert kept(site, path) == []
    assert site.call("POST", path, HELLO).status == 202
    assert len(kept(site, path)) == 1


@pytest.mark.fault(33)
def test_a_submit_that_nobody_can_be_asked_about_is_503_within_seconds(lossy: tuple[Site, Proxy]) -> None:
    site, _ = lossy
    path = new_session(site)
    with contextlib.suppress(psycopg.OperationalError), blocked_submit(site, path) as asked:
        site.postgres.kill()
        refused = asked.result(15)
        assert (refused.status, refused["code"]) == (503, "database_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
    site.postgres.start()
    wait_until(lambda: site.call("POST", path, HELLO).status == 202, 30, "the web goes on")
    assert len(kept(site, path)) == 1


def observer_of(site: Site) -> "psycopg.Connection[Any]":
    """A connection of its own to the database of a site."""
    return psycopg.connect(site.postgres.url, autocommit=True)


@contextlib.contextmanager
def blocked_submit(site: Site, path: str) -> Iterator[Future[Answer]]:
    """Have a message handed in that waits for its place until the block ends, and then until nobody is at anything."""
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    acts = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
    with ThreadPoolExecutor(1) as client, observer_of(site) as looking:
        with observer_of(site) as other, other.transaction():
            other.execute("SELECT next_seq FROM wa_session_counter FOR UPDATE")
            asked = client.submit(site.call, "POST", path, HELLO)
            wait_until(lambda: looking.execute(waits).fetchone() != (0,), 20, "the message waits for its place")
            yield asked
        wait_until(lambda: looking.execute(acts).fetchone() == (0,), 20, "nobody is at anything")


@pytest.mark.fault(33)
def test_without_a_connection_left_the_web_answers_503_and_workers_go_on_with_their_own(
    servers: Servers, tmp_path: Path, process: Callable[..., Process]
) -> None:
    site = Site(servers.postgres(max_connections=40), servers.valkey(), tmp_path / "web.log")
    taken: list[psycopg.Connection] = []
    site.process.start()
    try:
        wait_until(site.is_answering, 60, "the web process answers")
        body = {"name": "alpha", "config": {"delay_ms": 100}}
        assert site.call("POST", "/whatsapp/sessions", body).status == 201
        for _ in range(150):
            assert site.call("POST", MESSAGES, HELLO).status == 202
        looking = psycopg.connect(site.postgres.url, autocommit=True)

        def sent() -> int:
            return int(looking.execute("SELECT count(*) FROM wa_message WHERE status = 'sent'").fetchone()[0])

        worker = process(rqworker, site.environ)
        wait_until(lambda: sent() > 10, 60, "it sends")
        # What the web process had is taken too.
        site.process.kill()
        with pytest.raises(psycopg.OperationalError, match=r"connection slots|too many"):
            while True:
                taken.append(psycopg.connect(site.postgres.url))
        site.process.start()
        wait_until(site.is_answering, 60, "the web process answers")
        refused = site.call("POST", MESSAGES, HELLO)
        assert (refused.status, refused["code"]) == (503, "database_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        wait_until(lambda: sent() == 150, 90, "the worker goes on")
        assert worker.is_running()
        for one in taken:
            one.close()
        wait_until(lambda: site.call("POST", MESSAGES, HELLO).status == 202, 30, "the web goes on too")
        wait_until(lambda: sent() == 151, 60, "and what came then is sent")
        looking.close()
    finally:
        site.process.kill()
        for one in taken:
            one.close()
