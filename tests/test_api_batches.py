"""Batches over the API: a bad entry sinks no good one, an answer is kept, and nothing is lost on the way to Redis."""

import json
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions_app.models import Batch, Event, IdempotencyKey, Message
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from tests.api_client import ApiClient
from tests.batch_lab import ALPHA, BATCH, BATCHES, entry, hand_in, send
from tests.factories import ACTOR, PHONE, at_once, in_an_hour, job_ids, line, make_session

pytestmark = pytest.mark.django_db

URL = "https://files.example.org/report.pdf"


def rows() -> list[Message]:
    return list(Message.objects.order_by("seq"))


# Sending one.


@pytest.mark.django_db(transaction=True)
def test_a_batch_is_202_and_stands_in_both_stores_in_its_order(redis_client: redis.Redis) -> None:
    session = make_session("alpha")
    client = ApiClient("send")
    before = timezone.now() - timedelta(milliseconds=1)
    answer = send(client, *(entry(number, client_ref=f"r{number}") for number in range(700)))
    assert answer.status == 202
    assert answer.body.keys() == {"batch_id", "accepted", "rejected", "estimated_done_at"}
    assert (answer["accepted"], answer["rejected"]) == (700, [])
    assert uuid.UUID(answer["batch_id"]).version == 7
    assert before <= datetime.fromisoformat(answer["estimated_done_at"]) <= timezone.now()
    assert [(message.text, message.client_ref) for message in rows()] == [(str(n), f"r{n}") for n in range(700)]
    assert {str(message.batch_id) for message in rows()} == {answer["batch_id"]}
    assert job_ids(redis_client, "alpha") == line(session) and len(line(session)) == 700
    batch = Batch.objects.get()
    assert (str(batch.pk), batch.created_by) == (answer["batch_id"], f"key {client.key}")


@pytest.mark.django_db(transaction=True)
def test_of_ten_thousand_the_bad_ones_are_told_by_place_and_field_and_the_others_kept(
    redis_client: redis.Redis,
) -> None:
    session = make_session("alpha")
    entries: list[Any] = [entry(number) for number in range(10_000)]
    bad: dict[int, tuple[Any, list[str]]] = {
        0: ({"text": "x"}, ["to"]),
        1: (entry(to="12"), ["to"]),
        17: (entry(txt="x", priority="urgent"), ["priority", "txt"]),
        5000: (entry(scheduled_at="tomorrow"), ["scheduled_at"]),
        5001: (None, ["entry"]),
        5002: ("hello", ["entry"]),
        5003: ([entry()], ["entry"]),
        7000: ({"to": PHONE, "type": "template", "template": {"language": "es"}}, ["template.name"]),
        9998: (entry(media_url=URL), ["media_url"]),
        9999: (entry(expires_at="2020-01-01T00:00:00Z"), ["expires_at"]),
    }
    for at, (wrong, _) in bad.items():
        entries[at] = wrong
    answer = send(ApiClient(), *entries)
    assert (answer.status, answer["accepted"]) == (202, 9990)
    told = {item["index"]: sorted(error["field"] for error in item["errors"]) for item in answer["rejected"]}
    assert told == {at: fields for at, (_, fields) in bad.items()}
    assert [item["index"] for item in answer["rejected"]] == sorted(bad)
    assert all(error["message"] for item in answer["rejected"] for error in item["errors"])
    assert [message.text for message in rows()] == [str(number) for number in range(10_000) if number not in bad]
    assert job_ids(redis_client, "alpha") == line(session)
    batch = Batch.objects.get()
    assert (batch.accepted, batch.rejected) == (9990, 10)


SINGLE: list[dict[str, Any]] = [
    entry(), entry(to="0051 930-246-633"), entry("x" * 65_536),
    entry(priority="high", client_ref="r", metadata={"a": [1]}),
    {"to": PHONE, "type": "image", "media_url": URL, "caption": "c", "filename": "f.png"},
    {"to": PHONE, "type": "document", "media_url": URL},
    {"to": PHONE, "type": "template", "template": {"name": "a", "language": "es", "components": [{"type": "body"}]}},
    entry(scheduled_at="2020-01-01T00:00:00Z"), entry(scheduled_at=in_an_hour().isoformat()),
    entry(expires_at=in_an_hour().isoformat()),
    # These do not fit.
    {}, {"to": PHONE}, entry(""), entry(" "), entry(text=5), entry("x" * 65_537), entry(to=5), entry(to=None),
    entry(type="video"), entry(unknown=1), entry(metadata=[]), entry(metadata={"a": "x" * 9000}),
    entry(client_ref="r" * 201), entry(scheduled_at="2999-01-01T00:00:00Z"), entry("a\0b"), entry("\ud800"),
    {"to": PHONE, "type": "image"}, {"to": PHONE, "type": "document", "media_url": "ftp://x/y", "text": "x"},
    entry(scheduled_at=in_an_hour().isoformat(), expires_at=timezone.now().isoformat()),
]  # fmt: skip


@pytest.mark.parametrize("given", SINGLE, ids=range(len(SINGLE)))
def test_an_entry_is_read_as_a_single_message_is(given: dict[str, Any]) -> None:
    make_session("alpha")
    client = ApiClient()
    single, batch = client.post(ALPHA, given), send(client, given)
    assert batch.status == 202
    if single.status == 422:
        assert batch["rejected"] == [{"index": 0, "errors": single["errors"]}]
        assert not Message.objects.exists()
        return
    assert single.status == 202 and batch["rejected"] == []
    kept = list(Message.objects.order_by("seq").values())
    for row in kept:
        for name in ("id", "seq", "batch_id", "created_at", "queued_at"):
            row.pop(name)
    assert kept[0] == kept[1]
    events = Event.objects.exclude(message=None).order_by("id").values_list("kind", "data")
    assert events[0] == events[1]


def test_a_reference_may_stand_twice_in_a_batch_as_in_two_single_ones() -> None:
    make_session("alpha")
    assert send(ApiClient(), entry("a", client_ref="r"), entry("b", client_ref="r"))["accepted"] == 2


def test_a_batch_in_which_nothing_fits_is_told_as_any_other_and_makes_no_message() -> None:
    make_session("alpha")
    client = ApiClient()
    answer = send(client, {"to": "x"}, None)
    assert (answer.status, answer["accepted"], answer["estimated_done_at"]) == (202, 0, None)
    assert [item["index"] for item in answer["rejected"]] == [0, 1]
    shown = client.get(f"{BATCHES}/{answer['batch_id']}")
    assert (shown["accepted"], shown["rejected"], shown["status"]) == (0, 2, "done")
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"messages": []}, "messages", "at least 1 long"),
        ({"messages": [entry()] * 10_001}, "messages", "at most 10000 long; it is 10001"),
        ({"messages": None}, "messages", "JSON array"),
        ({"messages": {"0": entry()}}, "messages", "JSON array"),
        ({}, "messages", "is needed"),
        (None, "messages", "is needed"),
        ([entry()], "body", "JSON object"),
        ("null", "body", "JSON object"),
        ({"messages": [entry()], "session": "alpha"}, "session", "is not a field of this request"),
    ],
)
def test_what_is_no_batch_at_all_is_422_by_its_name(body: Any, field: str, says: str) -> None:
    make_session("alpha")
    answer = ApiClient().post(BATCH, body)
    assert answer.fields == [field]
    assert says in answer["errors"][0]["message"]
    assert not Batch.objects.exists() and not Message.objects.exists()


@pytest.mark.parametrize("name", ["nope", "no pe", "gone"])
def test_nothing_is_queued_for_a_session_that_does_not_exist(name: str) -> None:
    sessions.delete(make_session("gone"), actor=ACTOR)
    answer = ApiClient().post(f"/whatsapp/sessions/{name.replace(' ', '%20')}/messages/batch", {"messages": [entry()]})
    assert answer.status == 404 and answer["code"] == "session_not_found" and name in answer["detail"]
    assert not Batch.objects.exists() and not Message.objects.exists()


def test_a_batch_may_be_larger_than_other_bodies_and_above_its_own_limit_is_413_that_says_it() -> None:
    make_session("alpha")
    client = ApiClient()
    body = json.dumps({"messages": [entry()]})
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=1000, WAQUEUE_MAX_BATCH_BYTES=2000):
        assert client.post(BATCH, body.ljust(2000)).status == 202
        assert client.post(ALPHA, json.dumps(entry()).ljust(1001)).status == 413
        answer = client.post(BATCH, body.ljust(2001))
    assert (answer.status, answer["code"]) == (413, "body_too_large")
    assert "2001 bytes" in answer["detail"] and "2000" in answer["detail"]
    assert "WAQUEUE_MAX_BATCH_BYTES" in answer["detail"]
    assert Batch.objects.count() == 1


def test_ten_thousand_of_whatsapps_longest_texts_fit(settings: Any) -> None:
    assert 10_000 * (4096 + len(json.dumps(entry("", client_ref="r" * 40)))) < settings.WAQUEUE_MAX_BATCH_BYTES


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        ("{", "application/json", 400, "invalid_json"),
        ('{"messages": [NaN]}', "application/json", 400, "invalid_json"),
        (b"\xff", "application/json", 400, "invalid_json"),
        ('{"messages": ' + "[" * 100_000, "application/json", 400, "invalid_json"),
        ("to=1", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_as_elsewhere(
    body: Any, content_type: str, status: int, code: str
) -> None:
    make_session("alpha")
    answer = ApiClient().call("POST", BATCH, body, content_type)
    assert (answer.status, answer["code"]) == (status, code)


@pytest.mark.parametrize("depth", [33, *range(890, 1010, 7), 20_000])
def test_what_stands_too_deep_within_one_another_is_never_a_mistake_of_ours(depth: int) -> None:
    make_session("alpha")
    nested = '{"a":' * depth + "1" + "}" * depth
    body = f'{{"messages": [{{"to": "{PHONE}", "text": "x", "metadata": {nested}}}, {json.dumps(entry("good"))}]}}'
    answer = ApiClient().post(BATCH, body, Idempotency_Key="k")
    assert answer.status in (202, 400)
    if answer.status == 202:
        assert [error["field"] for error in answer["rejected"][0]["errors"]] == ["metadata"]
        assert [message.text for message in rows()] == ["good"]


def test_it_costs_the_same_number_of_queries_however_many_they_are() -> None:
    make_session("alpha")
    client = ApiClient()

    def cost(count: int) -> int:
        entries = [entry(number, priority=("normal", "high")[number % 2]) for number in range(count)]
        with CaptureQueriesContext(connection) as queries:
            assert send(client, *entries)["accepted"] == count
        return len(queries)

    cost(2)
    # Behind a long line fewer: its places are not counted one by one.
    assert cost(3000) <= cost(2) <= 20


def test_the_estimate_is_that_of_the_last_message() -> None:
    make_session("alpha", pacing=Pacing(min_interval_ms=2000, max_interval_ms=2000))
    at = datetime.fromisoformat(send(ApiClient(), *[entry()] * 31)["estimated_done_at"])
    assert timedelta(seconds=58) < at - timezone.now() < timedelta(seconds=61)


# Who may.


def test_it_needs_the_scope_and_the_session() -> None:
    make_session("alpha")
    beta = make_session("beta")
    batch = hand_in(beta, "x")
    assert send(ApiClient("read", "manage"), entry()).status == 403
    assert ApiClient("send", "manage").get(BATCHES).status == 403
    assert ApiClient("read").post(f"{BATCHES}/{batch.pk}/cancel").status == 403
    limited = ApiClient(sessions=("alpha",))
    assert send(limited, entry()).status == 202
    for answer in (
        limited.post("/whatsapp/sessions/beta/messages/batch", {"messages": [entry()]}),
        limited.get(f"{BATCHES}/{batch.pk}"),
        limited.post(f"{BATCHES}/{batch.pk}/cancel"),
        limited.get(f"{BATCHES}?session=beta"),
    ):
        assert answer.status == 404
    assert [item["session"] for item in limited.get(BATCHES)["items"]] == ["alpha"]
    assert ApiClient().get(f"{BATCHES}/{batch.pk}")["counts"]["queued"] == 1


@pytest.mark.parametrize("name", ["nothing", str(uuid.UUID(int=7)), "%00"])
def test_a_batch_that_there_is_not_is_404(name: str) -> None:
    client = ApiClient()
    for answer in (client.get(f"{BATCHES}/{name}"), client.post(f"{BATCHES}/{name}/cancel")):
        assert (answer.status, answer["code"]) == (404, "batch_not_found")


# Sending it again.


def test_a_repeat_gets_the_first_answer_and_makes_nothing() -> None:
    session = make_session("alpha")
    client = ApiClient()
    entries = [entry(number) for number in range(300)] + [None]
    first = send(client, *entries, Idempotency_Key="k")
    sessions.delete(session, actor=ACTOR, unsent="cancel")
    again = send(client, *entries, Idempotency_Key="k")
    assert (first.status, again.status, again.body) == (202, 202, first.body)
    assert again.headers["Idempotency-Replayed"] == "true" and "Idempotency-Replayed" not in first.headers
    assert Message.objects.count() == 300 and Batch.objects.count() == IdempotencyKey.objects.count() == 1


def test_the_same_batch_laid_out_otherwise_is_the_same_and_another_is_refused() -> None:
    make_session("alpha")
    client = ApiClient()
    a, b = entry("a"), entry("b")
    first = send(client, a, b, Idempotency_Key="k")
    laid_out = json.dumps({"messages": [dict(reversed(a.items())), b]}, indent=2)
    assert client.post(BATCH, laid_out, Idempotency_Key="k").body == first.body
    for other in ([b, a], [a], [a, b, b], [a | {"text": "c"}, b], [[a, b]]):
        answer = send(client, *other, Idempotency_Key="k")
        assert (answer.status, answer["code"]) == (422, "idempotency_key_reused")
    assert Message.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_the_same_batch_sent_at_once_is_made_once() -> None:
    make_session("alpha")
    client = ApiClient()
    entries = [entry(number) for number in range(500)]
    answers = at_once(*[lambda: send(client, *entries, Idempotency_Key="k")] * 4)
    assert Message.objects.count() == 500
    assert {answer.status for answer in answers} <= {202, 409}
    assert len({answer["batch_id"] for answer in answers if answer.status == 202}) == 1


# The document.


def test_the_document_shows_a_body_that_is_accepted() -> None:
    make_session("alpha")
    client = ApiClient()
    document = client.get("/whatsapp/openapi.json").body
    operation = document["paths"]["/whatsapp/sessions/{name}/messages/batch"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert (schema["properties"]["messages"]["minItems"], schema["properties"]["messages"]["maxItems"]) == (1, 10_000)
    (example,) = schema["examples"]
    answer = client.post(BATCH, example)
    assert (answer.status, answer["accepted"]) == (202, len(example["messages"]))
    answers = document["components"]["schemas"]
    assert answer.body.keys() == answers["BatchAccepted"]["properties"].keys()
    shown = client.get(f"{BATCHES}/{answer['batch_id']}")
    assert shown.body.keys() == answers["BatchOut"]["properties"].keys()
    cancelled = client.post(f"{BATCHES}/{answer['batch_id']}/cancel")
    assert cancelled.body.keys() == answers["BatchCancelled"]["properties"].keys()
