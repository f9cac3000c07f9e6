"""A Redis that is full, in memory or on its disk: accepted all the same, in the queues when there is room again."""

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from sessions_app.models import DesiredState, Session, Status
from sessions_app.queues.durability import Weakness, weaknesses
from tests.acceptance.stack import Stack
from tests.api_client import ApiClient
from tests.factories import job_ids, line
from tests.processes import wait_until
from tests.servers import Servers
from waqueue.embedded import EmbeddedValkey
from waqueue.embedded.programs import valkey_program

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True), pytest.mark.fault(36)]


@pytest.fixture
def own_redis(servers: Servers, tmp_path: Path) -> EmbeddedValkey:
    """Have a Redis that bears a full disk: by default, the system ends a program whose file may not grow."""
    program = tmp_path / "redis-server"
    real = os.environ.get("WAQUEUE_TEST_REDIS_SERVER") or valkey_program()
    program.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec '{real}' \"$@\"\n")
    program.chmod(0o755)
    return servers.start(EmbeddedValkey(servers.folder / "full", program=program))


def fill_memory(stack: Stack) -> Callable[[], None]:
    """Have no memory left; return what makes room."""
    client = redis.Redis.from_url(stack.redis.url)
    client.config_set("maxmemory", "1kb")
    return lambda: client.config_set("maxmemory", "0")


def fill_disk(stack: Stack) -> Callable[[], None]:
    """Let the log of Redis grow no more; return what makes room."""
    assert stack.redis.pid is not None
    pid, limits = stack.redis.pid, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    return lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def texts(session: Session, count: int) -> None:
    """Have a client submit so many messages over the API."""
    client = ApiClient()
    for number in range(count):
        body = {"to": "+51930246633", "text": str(number)}
        assert client.post(f"/whatsapp/sessions/{session.name}/messages", body).status == 202


@pytest.mark.parametrize("fill", [fill_memory, fill_disk])
def test_what_comes_while_redis_is_full_is_accepted_sent_and_in_its_queue_when_there_is_room(
    fill: Callable[[Stack], Callable[[], None]], stack: Stack
) -> None:
    busy, idle = stack.session("busy", delay_ms=50), stack.session("idle")
    resting = stack.session("resting", desired_state=DesiredState.PAUSED)
    stack.submit(busy, range(100))
    worker = stack.ready_worker(WAQUEUE_RECONCILE_SECONDS="2")
    wait_until(lambda: len(stack.ledger(busy)) > 10, 60, "it sends")

    make_room = fill(stack)
    wait_until(lambda: Weakness.FULL in weaknesses(), 30, "Redis says that it is full")
    answer = ApiClient(plain="").get("/readyz")
    assert (answer["status"], answer["reasons"]) == ("degraded", ["Redis is full: messages are kept and wait"])
    for session in (idle, resting):
        texts(session, 10)
    with redis.Redis.from_url(stack.redis.url) as client:
        assert job_ids(client, "resting") == [] and len(line(resting)) == 10
        if fill is fill_memory:
            # What signals, claims and gives back may have the little that it needs.
            stack.wait_for(110, Status.SENT, within_s=90)
        else:
            wait_until(lambda: "tries again" in worker.output, 30, "it notices")
        make_room()
        stack.wait_for(110, Status.SENT, within_s=90)
        wait_until(lambda: job_ids(client, "resting") == line(resting), 60, "who rests has its queue")
    stack.assert_in_order_and_once(busy, 100)
    stack.assert_in_order_and_once(idle, 10)
    assert stack.count(Status.UNCERTAIN) == 0
    assert worker.is_running()
