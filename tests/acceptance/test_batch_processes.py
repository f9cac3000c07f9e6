"""Batches among real processes, some of which die: nothing is lost, and the mirror follows without being mended."""

import http.client
import json
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from django.db.models import F

from sessions_app.models import Batch, Message, Status
from sessions_app.queues import keys
from sessions_app.services import batches
from tests.acceptance.stack import Stack
from tests.acceptance.web import call
from tests.api_client import ApiClient
from tests.factories import PHONE, is_due, job_ids, line, make_session, submit
from tests.processes import wait_until
from tests.reconciliation_lab import run_when_alone

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

BATCH = "/whatsapp/sessions/alpha/messages/batch"
BATCHES = "/whatsapp/batches"


def entries(count: int) -> list[dict[str, str]]:
    return [{"to": PHONE, "text": str(number)} for number in range(count)]


def a_body(count: int) -> bytes:
    return json.dumps({"messages": entries(count)}).encode()


@pytest.mark.fault(11)
@pytest.mark.usefixtures("without_pause")
def test_while_redis_is_down_a_batch_is_kept_and_reconciliation_puts_it_in_order(stack: Stack) -> None:
    session = make_session("alpha")
    submit(session, "before")
    stack.redis.kill()
    mixed = [entry | {"priority": ("normal", "high")[at % 2]} for at, entry in enumerate(entries(1500))]
    answer = ApiClient().post(BATCH, {"messages": mixed})
    assert (answer.status, answer["accepted"]) == (202, 1500)
    assert Message.objects.filter(batch_id=answer["batch_id"], status=Status.QUEUED).count() == 1500
    stack.redis.start()
    submit(session, "after")
    run_when_alone()
    with redis.Redis.from_url(stack.redis.url) as client:
        assert job_ids(client, "alpha") == line(session)
    assert len(line(session)) == 1502


@pytest.mark.fault(1)
@pytest.mark.usefixtures("known_redis", "without_pause")
def test_what_a_web_server_killed_between_the_commit_and_the_put_had_taken_is_signalled_and_goes_in_its_place(
    stack: Stack, web: Callable[..., int]
) -> None:
    session = make_session("alpha")
    api = ApiClient()
    port = web(WAQUEUE_TEST_CRASH_AT="submit: rows committed", WEB_CONCURRENCY="1")
    submit(session, "-1")
    with pytest.raises((http.client.HTTPException, OSError)):
        call(port, "POST", BATCH, a_body(1000), api.plain)
    submit(session, "1000")
    # Nobody would look at this one.
    make_session("beta")
    with pytest.raises((http.client.HTTPException, OSError)):
        call(port, "POST", BATCH.replace("alpha", "beta"), a_body(5), api.plain)
    assert Message.objects.filter(status=Status.QUEUED).count() == 1007
    # What was taken a moment ago may be on its way to Redis yet.
    Message.objects.update(queued_at=F("queued_at") - timedelta(seconds=10))
    with redis.Redis.from_url(stack.redis.url) as client:
        assert client.llen(keys.queue_key("alpha")) == 2
        assert not is_due(client, "beta")
        run_when_alone()
        assert job_ids(client, "alpha") == line(session)
        assert is_due(client, "beta")
    batch = Batch.objects.get(session=session)
    assert api.get(f"{BATCHES}/{batch.pk}")["counts"]["queued"] == 1000
    stack.worker()
    stack.wait_for(1007, Status.SENT, within_s=60)
    assert stack.ledger(session) == list(range(-1, 1001))
    stack.assert_in_order_and_once("beta", 5)


@pytest.mark.usefixtures("without_pause")
def test_a_cancel_that_is_killed_half_way_is_finished_by_asking_again(stack: Stack, web: Callable[..., int]) -> None:
    session = make_session("alpha", desired_state="paused")
    api = ApiClient()
    batch = api.post(BATCH, {"messages": entries(1200)})["batch_id"]
    port = web(WAQUEUE_TEST_CRASH_AT="cancel batch: part committed", WEB_CONCURRENCY="1")
    with pytest.raises((http.client.HTTPException, OSError)):
        call(port, "POST", f"{BATCHES}/{batch}/cancel", b"", api.plain)
    left = Message.objects.filter(status=Status.QUEUED).count()
    assert left == 1200 - batches.CHUNK
    with redis.Redis.from_url(stack.redis.url) as client:
        # The jobs of what was cancelled are still there; reconciliation takes them out.
        run_when_alone()
        assert job_ids(client, "alpha") == line(session)
        assert api.post(f"{BATCHES}/{batch}/cancel")["cancelled"] == left
        assert job_ids(client, "alpha") == []


@pytest.mark.fault(33)
def test_a_batch_that_is_cancelled_while_a_worker_sends_it_was_sent_up_to_a_point_and_no_further(stack: Stack) -> None:
    session = stack.session("alpha", delay_ms=3)
    stack.ready_worker()
    client = ApiClient()
    batch = client.post(BATCH, {"messages": entries(3000)})["batch_id"]
    stack.wait_for(30, Status.SENT, within_s=30)
    answer = client.post(f"{BATCHES}/{batch}/cancel")
    assert answer["cancelled"] + answer["not_cancelled"] == 3000
    assert answer["cancelled"] > 0
    wait_until(lambda: client.get(f"{BATCHES}/{batch}")["status"] == "cancelled", 30, "nothing is on its way")
    last = submit(session, "3000")
    wait_until(lambda: Message.objects.get(pk=last[0].pk).status == Status.SENT, 30, "what came after it is sent")
    assert stack.ledger(session) == [*range(answer["not_cancelled"]), 3000]
    with redis.Redis.from_url(stack.redis.url) as plug:
        wait_until(lambda: job_ids(plug, "alpha") == [], 30, "the mirror is empty")


def test_a_batch_that_is_sent_while_it_is_put_leaves_nothing_in_the_mirror(stack: Stack) -> None:
    session = stack.session("alpha")
    stack.ready_worker(WAQUEUE_RECONCILE_SECONDS="3600")
    submit(session, *["-1"] * 30)
    mixed = [entry | {"priority": ("normal", "high")[at < 700]} for at, entry in enumerate(entries(1000))]
    assert ApiClient().post(BATCH, {"messages": mixed})["accepted"] == 1000
    stack.wait_for(1030, Status.SENT, within_s=60)
    assert [number for number in stack.ledger(session) if number >= 0] == list(range(1000))
    with redis.Redis.from_url(stack.redis.url) as client:
        wait_until(lambda: not client.keys("rq:job:*"), 10, "no job is left")
        assert job_ids(client, "alpha") == []


def test_whoever_sends_far_too_much_is_told_so_and_not_cut_off(web: Callable[..., int]) -> None:
    make_session("alpha")
    port = web(WAQUEUE_MAX_BATCH_BYTES="1000000")
    status, problem = call(port, "POST", BATCH, a_body(10).ljust(12_000_000), ApiClient().plain)
    assert (status, problem["code"]) == (413, "body_too_large")
    assert "1000000" in problem["detail"]
