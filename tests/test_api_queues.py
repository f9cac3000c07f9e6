"""`GET /whatsapp/queues`: what waits, by PostgreSQL, beside what Redis alone knows."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import redis
from django.test import override_settings
from django.utils import timezone

from sessions_app.models import Hold
from sessions_app.queues import connection as redis_connection
from sessions_app.services.pacing import Pacing
from tests.api_client import ApiClient
from tests.factories import fly, hold, make_session, submit
from tests.processes import find_free_port

pytestmark = pytest.mark.django_db

QUEUES = "/whatsapp/queues"


@pytest.fixture
def no_redis() -> Iterator[None]:
    """Have no Redis for this test."""
    with override_settings(REDIS_URL=f"redis://127.0.0.1:{find_free_port()}/0"):
        redis_connection.web_client.cache_clear()
        yield
    redis_connection.web_client.cache_clear()


def test_a_queue_is_shown_field_by_field() -> None:
    session = make_session("alpha", pacing=Pacing(min_interval_ms=60_000, max_interval_ms=60_000))
    first, *_ = submit(session, "one", "two", "three")
    fly(first)
    answer = ApiClient().get(QUEUES)
    assert answer.body.keys() == {"items", "next", "totals", "degraded"}
    assert answer["totals"] == {"queued": 3, "in_flight": 1, "orphan_queues": 0, "orphan_messages": 0}
    assert answer["degraded"] is False and answer["next"] is None
    (item,) = answer["items"]
    done = datetime.fromisoformat(item.pop("estimated_done_at"))
    assert timedelta(seconds=115) < done - timezone.now() < timedelta(seconds=125)
    oldest = datetime.fromisoformat(item.pop("oldest_queued_at"))
    assert abs(oldest - first.created_at) < timedelta(milliseconds=1)
    assert item == {
        "queue": "wa:alpha", "session": "alpha", "state": "serving", "source": "rq", "depth": 3, "in_flight": 1,
        "next_due_at": None,
    }  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_a_queue_that_is_due_says_when() -> None:
    submit(make_session("alpha"), "one")
    make_session("empty")
    due = {item["session"]: item["next_due_at"] for item in ApiClient().get(QUEUES)["items"]}
    assert due["empty"] is None
    assert abs(datetime.fromisoformat(due["alpha"]) - timezone.now()) < timedelta(seconds=5)


def test_the_state_says_what_keeps_a_queue_from_moving() -> None:
    make_session("serving")
    make_session("paused", desired_state="paused")
    make_session("stopped", desired_state="stopped")
    hold(make_session("held"), Hold.REFUSED)
    states = {item["session"]: item["state"] for item in ApiClient().get(QUEUES)["items"]}
    assert states == {"serving": "serving", "paused": "paused", "stopped": "paused", "held": "held"}


def test_the_totals_are_of_all_queues_and_not_of_one_page(redis_client: redis.Redis) -> None:
    for name in ("a", "b", "c"):
        submit(make_session(name), "one", "two")
    for name, depth in (("ghost", 3), ("b@d", 1)):
        redis_client.sadd("rq:queues", f"rq:queue:wa:{name}")
        redis_client.rpush(f"rq:queue:wa:{name}", *range(depth))
    answer = ApiClient().get(f"{QUEUES}?limit=1")
    assert len(answer["items"]) == 1
    assert answer["totals"] == {"queued": 6, "in_flight": 0, "orphan_queues": 2, "orphan_messages": 4}


def test_a_queue_without_a_session_is_an_orphan(redis_client: redis.Redis) -> None:
    make_session("alpha")
    for name in ("wa:alpha", "wa:ghost", "default"):
        redis_client.sadd("rq:queues", f"rq:queue:{name}")
        redis_client.rpush(f"rq:queue:{name}", "1", "2")
    redis_client.sadd("rq:queues", "rq:queue:wa:empty")
    items = ApiClient().get(QUEUES)["items"]
    assert [(item["queue"], item["state"], item["depth"]) for item in items] == [
        ("wa:alpha", "serving", 0),
        ("wa:ghost", "orphan", 2),
    ]


def test_what_others_left_in_redis_breaks_nothing(redis_client: redis.Redis) -> None:
    submit(make_session("alpha"), "one")
    redis_client.sadd("rq:queues", "rq:queue:wa:foreign", b"rq:queue:wa:\xff\xfe", "rq:queue:wa:n\0l", "nonsense", "")
    redis_client.set("rq:queue:wa:foreign", "not a list")
    redis_client.rpush("rq:queue:wa:n\0l", "1")
    answer = ApiClient().get(QUEUES)
    assert answer["degraded"] is False
    assert [item["session"] for item in answer["items"]] == ["alpha", "n\0l"]


def test_without_redis_it_is_answered_from_postgresql_and_says_so(no_redis: None) -> None:
    submit(make_session("alpha"), "one", "two")
    make_session("beta")
    client = ApiClient()
    answer = client.get(QUEUES)
    assert answer.status == 200 and answer["degraded"] is True
    assert [(item["session"], item["depth"], item["next_due_at"]) for item in answer["items"]] == [
        ("alpha", 2, None),
        ("beta", 0, None),
    ]
    assert answer["totals"] == {"queued": 2, "in_flight": 0, "orphan_queues": None, "orphan_messages": None}
    assert [len(page) for page in client.pages(QUEUES, 1)] == [1, 1]
    limited = ApiClient(sessions=("beta",)).get(QUEUES)
    assert limited["degraded"] is True and [item["session"] for item in limited["items"]] == ["beta"]


@pytest.mark.django_db(transaction=True)
def test_without_redis_sessions_and_messages_are_as_ever(no_redis: None) -> None:
    client = ApiClient()
    assert client.post("/whatsapp/sessions", {"name": "alpha"}).status == 201
    sent = client.post("/whatsapp/sessions/alpha/messages", {"to": "+51930246633", "text": "hello"})
    assert (sent.status, sent["position"]) == (202, 1)
    assert client.get("/whatsapp/sessions/alpha")["depth"] == 1
    for act in ("pause", "resume", "stop", "start", "restart"):
        assert client.post(f"/whatsapp/sessions/alpha/{act}").status == 202
    assert client.post(f"/whatsapp/messages/{sent['id']}/cancel")["status"] == "cancelled"
    assert client.delete("/whatsapp/sessions/alpha").status == 200
