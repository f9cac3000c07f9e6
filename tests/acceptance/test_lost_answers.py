"""A COMMIT whose answer is lost, and a PostgreSQL that has no connection left: nobody guesses what was written."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from django.db import connection

from sessions_app.models import Attempt, Event, InFlight, Message, Status
from tests.acceptance.stack import Stack
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


@pytest.mark.fault(33)
def test_a_commit_of_a_submit_whose_answer_is_lost_is_503_and_the_same_key_finds_the_message(
    servers: Servers, tmp_path: Path
) -> None:
    postgres, valkey = servers.postgres(), servers.valkey()
    with Proxy("127.0.0.1", postgres.port) as network:
        site = Site(postgres, valkey, tmp_path / "web.log", DATABASE_URL=network.instead_of(postgres.url))
        site.process.start()
        try:
            wait_until(site.is_answering, 60, "the web process answers")
            assert site.call("POST", "/whatsapp/sessions", {"name": "alpha"}).status == 201
            network.lose_answer(b"COMMIT")
            lost = site.call("POST", MESSAGES, HELLO, Idempotency_Key="k")
            assert (lost.status, lost["code"]) == (503, "database_unavailable")
            assert int(lost.headers["Retry-After"]) > 0
            with psycopg.connect(postgres.url, autocommit=True) as looking:
                kept = looking.execute("SELECT id::text FROM wa_message").fetchall()
            assert network.broken == len(kept) == 1
            found = site.call("POST", MESSAGES, HELLO, Idempotency_Key="k")
            assert found.status == 202 and found.headers["Idempotency-Replayed"] == "true"
            assert found["id"] == kept[0][0]
        finally:
            site.process.kill()


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
