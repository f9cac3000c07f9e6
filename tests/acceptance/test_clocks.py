"""Hosts whose clocks differ by five minutes: order and pace hold, and nothing waits for the difference."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
import redis
from django.conf import settings
from django.db import connection
from django.utils import timezone

from sessions_app.models import Deployment, DesiredState, Event, Reconciliation, SessionDispatch, Status
from sessions_app.queues.connection import web_client
from sessions_app.services.database_clock import database_now
from sessions_app.services.pacing import Pacing
from tests.acceptance.stack import LATE, PHONE, Stack
from tests.acceptance.web import call
from tests.api_client import ApiClient
from tests.processes import PROJECT, Process, find_free_port, wait_until
from tests.shifted_database import SEARCH_PATH, clocks_off_by

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True), pytest.mark.fault(25)]

OFF_S = 300
PACE_MS = 600


def run(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    # Whoever connects from now on finds it so.
    connection.close()
    connection.close_pool()


@pytest.fixture(params=[OFF_S, -OFF_S], ids=["database ahead", "database behind"])
def off_s(request: pytest.FixtureRequest, stack: Stack) -> Iterator[int]:
    """Have a PostgreSQL whose clock differs from that of Redis, and of this process, by so much."""
    seconds = int(request.param)
    database = connection.settings_dict["NAME"]
    run(*clocks_off_by(seconds), f'ALTER DATABASE "{database}" SET search_path = {SEARCH_PATH}')
    yield seconds
    run(f'ALTER DATABASE "{database}" RESET search_path', "DROP SCHEMA skewed CASCADE")


def clock_off_by(seconds: int) -> dict[str, str]:
    """The environment of a process on a host whose clock is off."""
    return {"PYTHONPATH": str(PROJECT / "tests" / "skewed_clock"), "WAQUEUE_TEST_CLOCK_SECONDS": str(seconds)}


def off_by(stack: Stack, seconds: int) -> Process:
    """A worker on a host whose clock is off."""
    return stack.ready_worker(**clock_off_by(seconds))


def said_at(worker: Process) -> datetime:
    """When the worker says, by its own clock, that it began to serve."""
    found = re.search(r"^(\S+) .* serves all sessions", worker.output, re.MULTILINE)
    assert found is not None
    return datetime.fromisoformat(found[1]).astimezone(UTC)


def test_order_and_pace_hold_and_nothing_waits_for_the_difference(stack: Stack, off_s: int) -> None:
    plain = [stack.session(f"plain-{number}", delay_ms=20) for number in range(5)]
    paced = stack.session("paced", pacing=Pacing(min_interval_ms=PACE_MS, max_interval_ms=PACE_MS))
    for session in plain:
        stack.submit(session, range(100))
    stack.submit(paced, range(20))
    off, right = off_by(stack, -off_s), stack.ready_worker()
    wait_until(lambda: "serves" in off.output and "serves" in right.output, 20, "both serve")
    # They really differ: the database from here one way, the worker the other.
    assert abs((database_now() - timezone.now()).total_seconds() - off_s) < 60
    assert abs((said_at(off) - said_at(right)).total_seconds() + off_s) < 60

    wait_until(lambda: len(stack.ledger(paced)) > 5, 60, "they send")
    redis.Redis.from_url(stack.redis.url).flushall()
    for session in plain:
        stack.submit(session, range(100, 120))
    stack.wait_for(620, Status.SENT, within_s=120)
    for session in plain:
        stack.assert_in_order_and_once(session, 120)
        stack.assert_never_two_at_once(session, 20)
    stack.assert_in_order_and_once(paced, 20)
    gaps = stack.gaps(paced)
    assert min(gaps) >= PACE_MS / 1000
    assert sum(gaps) < 60
    assert not Event.objects.filter(kind="worker.gone").exists()


def test_a_message_that_nobody_was_told_of_is_found_as_soon_as_elsewhere(
    stack: Stack, off_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = stack.session("s")
    worker = off_by(stack, off_s)
    wait_until(lambda: Deployment.current().redis_generation, 60, "the worker knows this Redis")
    wait_until(Reconciliation.objects.finished().exists, 60, "the run of its start is over, which would find them")
    with monkeypatch.context() as patch:
        patch.setattr(settings, "REDIS_URL", f"redis://127.0.0.1:{find_free_port()}/0")
        web_client.cache_clear()
        stack.submit(session, range(3))
    web_client.cache_clear()
    stack.wait_for(3, Status.SENT, within_s=60)
    assert "nobody was looking at" in worker.output


def test_quiet_hours_end_by_the_databases_clock_and_nobody_is_busy_with_their_end(stack: Stack, off_s: int) -> None:
    off_by(stack, -off_s)
    client = redis.Redis.from_url(stack.redis.url)
    session = stack.session("quiet", desired_state=DesiredState.PAUSED)
    stack.submit(session, range(3))
    scripts, began = scripts_run(client), database_now()
    ends = stack.hush(session, 4)
    waits = SessionDispatch.objects.filter(session=session, quiet_from__lte=began, quiet_until=ends)
    assert waits.exists() and stack.count(Status.QUEUED) == 3
    try:
        stack.wait_for(3, Status.SENT, within_s=60)
    finally:
        looks_per_s = (scripts_run(client) - scripts) / (database_now() - began).total_seconds()
    stack.assert_in_order_and_once(session, 3)
    # By the clock of its engine, which is that of the database.
    assert ends <= min(stack.handed_over_at(session)) < ends + LATE
    assert looks_per_s < 50


def test_a_web_server_whose_clock_is_off_sends_nothing_early_or_late_and_loses_nothing(
    stack: Stack, off_s: int, web: Callable[..., int]
) -> None:
    session = stack.session("s")
    resting = stack.session("resting", desired_state=DesiredState.PAUSED)
    stack.ready_worker()
    # The other way than the database: ten minutes lie between them.
    port, key = web(**clock_off_by(-off_s)), ApiClient().plain

    def submit(name: str, number: int, **times: datetime) -> int:
        body = {"to": PHONE, "text": str(number)} | {field: at.isoformat() for field, at in times.items()}
        return call(port, "POST", f"/whatsapp/sessions/{name}/messages", json.dumps(body).encode(), key)[0]

    due_at = database_now() + timedelta(seconds=4)
    ends_at = due_at + timedelta(seconds=30)
    assert submit("s", 2, scheduled_at=due_at) == 202
    assert submit("s", 0, expires_at=ends_at) == 202
    assert submit("s", 1) == 202
    soon = database_now() + timedelta(seconds=4)
    assert submit("resting", 0, expires_at=soon) == 202
    assert submit("resting", 1, expires_at=database_now() - timedelta(seconds=1)) == 422
    # What is written by default has PostgreSQL's own time: the skewed one is that at which it is seen.
    stack.wait_for(1, Status.EXPIRED, within_s=60)
    assert soon <= database_now() < soon + LATE
    stack.wait_for(3, Status.SENT, within_s=60)
    stack.assert_in_order_and_once(session, 3)
    *before, last = stack.handed_over_at(session)
    assert max(before) < due_at <= last < due_at + LATE
    assert stack.ledger(resting) == []


def scripts_run(client: redis.Redis) -> int:
    """How many of its scripts Redis has run so far."""
    return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])
