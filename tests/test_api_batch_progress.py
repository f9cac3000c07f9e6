"""Batches over the API: how far each is, and its rest cancelled."""

from datetime import datetime, timedelta

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions_app.models import Message, Orphan, Status
from sessions_app.services import orphans, sessions
from tests.api_client import ApiClient
from tests.batch_lab import BATCHES, entry, hand_in, of, send
from tests.factories import ACTOR, become, job_ids, line, make_session, submit

pytestmark = pytest.mark.django_db

# Asking how far it is.


def test_a_batch_is_shown_field_by_field() -> None:
    session = make_session("alpha")
    batch = hand_in(session, *"abcd", rejected=1)
    a, b, *_ = of(batch)
    become(a, Status.SENT)
    become(b, Status.FAILED)
    shown = ApiClient().get(f"{BATCHES}/{batch.pk}").body
    for name in ("created_at", "estimated_done_at"):
        assert abs(datetime.fromisoformat(shown.pop(name)) - batch.created_at) < timedelta(seconds=5)
    assert shown == {
        "id": str(batch.pk), "session": "alpha", "created_by": ACTOR.label, "accepted": 4, "rejected": 1,
        "status": "sending", "cancelled_at": None,
        "counts": {
            "scheduled": 0, "queued": 2, "sending": 0, "sent": 1, "delivered": 0, "read": 0, "failed": 1,
            "uncertain": 0, "cancelled": 0, "expired": 0, "orphaned": 0,
        },
    }  # fmt: skip


def test_every_status_of_a_message_is_counted() -> None:
    batch = hand_in(make_session("alpha"), *Status.values)
    for message, status in zip(of(batch), Status, strict=True):
        become(message, status)
    assert ApiClient().get(f"{BATCHES}/{batch.pk}")["counts"] == dict.fromkeys(Status.values, 1)


def test_the_messages_of_a_batch_are_listed_by_it_and_say_it() -> None:
    session = make_session("alpha")
    submit(session, "single")
    batch = hand_in(session, *"ab")
    client = ApiClient()
    items = client.get(f"/whatsapp/messages?batch={batch.pk}")["items"]
    assert [item["text"] for item in items] == ["b", "a"]
    assert {item["batch_id"] for item in items} == {str(batch.pk)}


def test_batches_are_listed_newest_first_in_pages_and_by_session() -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    made = [hand_in(session, "x", "y") for session in (alpha, beta, alpha, beta, alpha)]
    client = ApiClient()
    for limit in (1, 2, 5, 100):
        shown = [item["id"] for page in client.pages(BATCHES, limit) for item in page]
        assert shown == [str(batch.pk) for batch in reversed(made)]
    sessions.delete(beta, actor=ACTOR, unsent="cancel")
    items = client.get(f"{BATCHES}?session=beta")["items"]
    assert [(item["session"], item["counts"]["cancelled"], item["status"]) for item in items] == [
        ("beta", 2, "done")
    ] * 2
    assert items[0]["estimated_done_at"] is None
    assert client.get(f"{BATCHES}?session=gamma").status == 404
    assert client.get(f"{BATCHES}?cursor=x").fields == ["cursor"]
    assert client.get(f"{BATCHES}?batch=x").fields == ["batch"]


def test_a_list_costs_the_same_number_of_queries_however_long_it_is() -> None:
    session = make_session("alpha")
    client = ApiClient()

    def cost(count: int) -> int:
        for _ in range(count):
            hand_in(session, *"ab")
        with CaptureQueriesContext(connection) as queries:
            assert client.get(BATCHES).status == 200
        return len(queries)

    cost(1)
    assert cost(1) == cost(20) <= 6


# Cancelling its rest.


@pytest.mark.django_db(transaction=True)
def test_a_cancel_says_how_many_it_cancelled_and_how_many_not(redis_client: redis.Redis) -> None:
    session = make_session("alpha")
    submit(session, "other")
    client = ApiClient("send")
    batch = send(client, *(entry(number) for number in range(1200)))["batch_id"]
    sent = Message.objects.filter(text__in=["0", "1"]).exclude(batch_id=None)
    sent.update(status=Status.SENT)
    answer = client.post(f"{BATCHES}/{batch}/cancel")
    assert (answer.status, answer["cancelled"], answer["not_cancelled"]) == (200, 1198, 2)
    assert (answer["status"], answer["estimated_done_at"]) == ("cancelled", None)
    assert (answer["counts"]["cancelled"], answer["counts"]["sent"]) == (1198, 2)
    assert datetime.fromisoformat(answer["cancelled_at"]) <= timezone.now()
    assert set(job_ids(redis_client, "alpha")) == {*line(session), *map(str, sent.values_list("pk", flat=True))}
    again = client.post(f"{BATCHES}/{batch}/cancel")
    assert (again.status, again["cancelled"], again["not_cancelled"]) == (200, 0, 2)
    assert again["counts"] == answer["counts"] and again["cancelled_at"] == answer["cancelled_at"]


@pytest.mark.django_db(transaction=True)
def test_a_limited_key_does_not_reach_through_a_batch_into_another_session() -> None:
    alpha = make_session("alpha")
    limited = ApiClient(sessions=("alpha",))
    batch = hand_in(alpha, *"abc")
    sessions.delete(alpha, actor=ACTOR, unsent="orphan")
    orphans.restore(Orphan.objects.get(), make_session("beta"), actor=ACTOR)
    answer = limited.post(f"{BATCHES}/{batch.pk}/cancel")
    assert (answer.status, answer["cancelled"], answer["not_cancelled"]) == (200, 0, 3)
    assert ApiClient().post(f"{BATCHES}/{batch.pk}/cancel")["cancelled"] == 3
