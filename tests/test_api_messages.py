"""Messages over the API: submitted, and shown with their story."""

import uuid
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis
from django.utils import timezone

from sessions_app.models import (
    Attempt,
    Event,
    Message,
    Outcome,
    Session,
    Status,
    Worker,
)
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from tests.api_client import Answer, ApiClient
from tests.factories import ACTOR, become, is_due, job_ids, line, make_session, submit

pytestmark = pytest.mark.django_db

ALPHA = "/whatsapp/sessions/alpha"
TO = "+51930246633"
URL = "https://files.example.org/report.pdf"
SHAPE = {"id", "session", "to", "status", "position", "estimated_send_at", "created_at"}


def send(client: ApiClient, **fields: Any) -> Answer:
    return client.post(f"{ALPHA}/messages", {"to": TO} | fields)


def only_message() -> Message:
    return Message.objects.get()


def in_seconds(seconds: float) -> str:
    return (timezone.now() + timedelta(seconds=seconds)).isoformat()


# Submitting them.


@pytest.mark.django_db(transaction=True)
def test_the_incidents_own_call_is_202_and_the_message_stands_in_both_stores(redis_client: redis.Redis) -> None:
    client = ApiClient()
    client.post("/whatsapp/sessions", {"name": "test-session"})
    before = timezone.now() - timedelta(milliseconds=1)
    answer = client.post(
        "/whatsapp/sessions/test-session/send-assistance-report", {"phone": "1234567890", "message": "test"}
    )
    assert answer.status == 202 and answer.body.keys() == SHAPE
    assert uuid.UUID(answer["id"]).version == 7
    assert (answer["session"], answer["to"], answer["status"]) == ("test-session", "1234567890", "queued")
    assert answer["position"] == 1
    for name in ("created_at", "estimated_send_at"):
        assert answer[name].endswith("Z") and before <= datetime.fromisoformat(answer[name]) <= timezone.now()
    message = only_message()
    assert (str(message.pk), message.type, message.text) == (answer["id"], "text", "test")
    assert job_ids(redis_client, "test-session") == [answer["id"]]
    assert is_due(redis_client, "test-session")


def test_a_report_with_a_document_is_a_document_with_the_text_as_its_caption() -> None:
    make_session("alpha")
    answer = ApiClient().post(
        f"{ALPHA}/send-assistance-report", {"phone": TO, "message": "see this", "document_url": URL}
    )
    assert answer.status == 202
    message = only_message()
    assert message.content() == {"to": TO, "type": "document", "media_url": URL, "caption": "see this"}


@pytest.mark.parametrize("path", ["send-assistance-report", "messages"])
@pytest.mark.parametrize("name", ["nope", "no pe", "gone"])
def test_nothing_is_queued_for_a_session_that_does_not_exist(path: str, name: str) -> None:
    sessions.delete(make_session("gone"), actor=ACTOR)
    body = {"to": TO, "text": "x"} if path == "messages" else {"phone": TO, "message": "x"}
    answer = ApiClient().post(f"/whatsapp/sessions/{name.replace(' ', '%20')}/{path}", body)
    assert answer.status == 404 and answer["code"] == "session_not_found" and name in answer["detail"]
    assert not Message.objects.exists() and not Session.objects.alive().exists()


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_a_session_that_does_not_send_takes_messages_and_promises_no_time(state: str) -> None:
    make_session("alpha", desired_state=state)
    answer = send(ApiClient(), text="x")
    assert (answer.status, answer["status"], answer["position"], answer["estimated_send_at"]) == (
        202,
        "queued",
        1,
        None,
    )


CONTENTS = [
    {"text": "x" * 65_536},
    {"type": "text", "text": "¡Hola! 👋\nsecond line"},
    {"type": "image", "media_url": "http://a.example/b.png"},
    {"type": "image", "media_url": URL, "caption": "c", "filename": "f.png"},
    {"type": "document", "media_url": URL, "filename": "f.pdf", "caption": "c"},
    {"type": "template", "template": {"name": "order_update", "language": "es"}},
    {
        "type": "template",
        "template": {"name": "a", "language": "es_MX", "components": [{"type": "body", "parameters": [{"text": "x"}]}]},
    },
]


@pytest.mark.parametrize("content", CONTENTS)
def test_each_type_is_kept_as_it_was_given(content: dict[str, Any]) -> None:
    make_session("alpha")
    client = ApiClient()
    answer = send(client, **content)
    assert answer.status == 202, answer.body
    shown = client.get(f"/whatsapp/messages/{answer['id']}").body
    expected = {"type": "text", "text": None, "media_url": None, "filename": None, "caption": None, "template": None}
    assert {name: shown[name] for name in expected} == expected | content


def test_all_that_goes_with_a_message_is_kept() -> None:
    make_session("alpha")
    client = ApiClient()
    at = (timezone.now() + timedelta(days=30)).replace(microsecond=250_000)
    metadata = {"order": 7, "tags": ["a", {"b": None}], "ñ": 1.5}
    answer = send(
        client, text="x", client_ref="order-7", metadata=metadata, priority="high",
        scheduled_at=at.astimezone(ZoneInfo("America/Lima")).isoformat(),
        expires_at=(at + timedelta(days=1)).astimezone(ZoneInfo("Asia/Tokyo")).isoformat(),
    )  # fmt: skip
    assert answer.status == 202
    shown = client.get(f"/whatsapp/messages/{answer['id']}").body
    assert shown["client_ref"] == "order-7" and shown["metadata"] == metadata and shown["priority"] == "high"
    # Whatever zone they came in, they are shown in UTC.
    assert shown["scheduled_at"] == at.strftime("%Y-%m-%dT%H:%M:%S.250Z")
    assert shown["expires_at"] == (at + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S.250Z")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "text"),
        ({"text": None}, "text"),
        ({"text": ""}, "text"),
        ({"text": " \n\t"}, "text"),
        ({"text": 5}, "text"),
        ({"text": "x" * 65_537}, "text"),
        ({"type": "video", "text": "x"}, "type"),
        ({"type": "image"}, "media_url"),
        ({"type": "document", "caption": "c"}, "media_url"),
        ({"type": "template"}, "template"),
        # What does not belong to the type would silently not be sent.
        ({"text": "x", "media_url": URL}, "media_url"),
        ({"text": "x", "template": {"name": "a", "language": "es"}}, "template"),
        ({"type": "image", "media_url": URL, "text": "x"}, "text"),
        ({"type": "template", "template": {"name": "a", "language": "es"}, "caption": "c"}, "caption"),
        ({"type": "image", "media_url": "ftp://a.example/b"}, "media_url"),
        ({"type": "image", "media_url": "a.example/b"}, "media_url"),
        ({"type": "image", "media_url": "http://"}, "media_url"),
        ({"type": "image", "media_url": "http://[::1"}, "media_url"),
        ({"type": "image", "media_url": "http://a.example:99999/"}, "media_url"),
        ({"type": "image", "media_url": "http://a.example/b c"}, "media_url"),
        ({"type": "image", "media_url": "http://a.example/b\r\nX: y"}, "media_url"),
        ({"type": "image", "media_url": "http://a.example/" + "b" * 2000}, "media_url"),
        ({"type": "image", "media_url": URL, "filename": "f" * 256}, "filename"),
        ({"type": "template", "template": "a"}, "template"),
        ({"type": "template", "template": {"name": "a", "language": ""}}, "template.language"),
        ({"type": "template", "template": {"language": "es"}}, "template.name"),
        ({"type": "template", "template": {"name": "a", "language": "es", "components": {}}}, "template.components"),
        (
            {"type": "template", "template": {"name": "a", "language": "es", "components": ["x"]}},
            "template.components.0",
        ),
        (
            {"type": "template", "template": {"name": "a", "language": "es", "components": [{"x": "y" * 70_000}]}},
            "template",
        ),
        ({"text": "x", "priority": "urgent"}, "priority"),
        ({"text": "x", "priority": 0}, "priority"),
        ({"text": "x", "client_ref": "r" * 201}, "client_ref"),
        ({"text": "x", "metadata": []}, "metadata"),
        ({"text": "x", "metadata": {"a": "é" * 4096}}, "metadata"),
        ({"text": "x", "metadata": {"a": "x" * 8185}}, "metadata"),
        ({"text": "x", "scheduled_at": "2027-01-31T09:30:00"}, "scheduled_at"),
        ({"text": "x", "scheduled_at": "2027-01-31"}, "scheduled_at"),
        ({"text": "x", "scheduled_at": "tomorrow"}, "scheduled_at"),
        ({"text": "x", "scheduled_at": 1_800_000_000}, "scheduled_at"),
        ({"text": "x", "scheduled_at": "2027-02-30T09:30:00Z"}, "scheduled_at"),
        ({"text": "x", "scheduled_at": "0001-01-01T00:00:00+14:00"}, "scheduled_at"),
        ({"text": "x", "scheduled_at": "2027-01-01T00:00:00+99:99"}, "scheduled_at"),
        ({"text": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"to": "12", "text": "x"}, "to"),
        ({"to": "1234567890123456", "text": "x"}, "to"),
        ({"to": 1234567890, "text": "x"}, "to"),
        ({"to": "call me", "text": "x"}, "to"),
        ({"to": None, "text": "x"}, "to"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_name(given: dict[str, Any], field: str) -> None:
    make_session("alpha")
    assert send(ApiClient(), **given).fields == [field]
    assert not Message.objects.exists() and not Event.objects.exclude(message=None).exists()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"message": "x"}, "phone"),
        ({"phone": "x", "message": "x"}, "phone"),
        ({"phone": TO}, "message"),
        ({"phone": TO, "message": " "}, "message"),
        ({"phone": TO, "message": "x" * 65_537}, "message"),
        ({"phone": TO, "message": "x", "document_url": "file:///etc/passwd"}, "document_url"),
        ({"phone": TO, "message": "x", "scheduled_at": "soon"}, "scheduled_at"),
    ],
)
def test_what_does_not_fit_in_a_report_is_refused_by_its_name(given: dict[str, Any], field: str) -> None:
    make_session("alpha")
    assert ApiClient().post(f"{ALPHA}/send-assistance-report", given).fields == [field]
    assert not Message.objects.exists()


def test_the_borders_of_time_are_where_they_are_said_to_be() -> None:
    make_session("alpha")
    client = ApiClient()
    year = 365 * 24 * 3600
    assert send(client, text="x", scheduled_at=in_seconds(year + 60)).fields == ["scheduled_at"]
    assert send(client, text="x", scheduled_at=in_seconds(year - 60)).status == 202
    assert send(client, text="x", scheduled_at=in_seconds(60), expires_at=in_seconds(59)).fields == ["expires_at"]
    assert send(client, text="x", scheduled_at=in_seconds(60), expires_at=in_seconds(61)).status == 202
    assert send(client, text="x", expires_at=in_seconds(-1)).fields == ["expires_at"]
    assert send(client, text="x", metadata={"a": "x" * 8184}).status == 202


def test_a_scheduled_message_stands_in_no_line_until_its_time() -> None:
    make_session("alpha")
    client = ApiClient()
    at = (timezone.now() + timedelta(hours=2)).replace(microsecond=0)
    answer = send(client, text="x", scheduled_at=at.isoformat())
    assert (answer["status"], answer["position"]) == ("scheduled", None)
    assert datetime.fromisoformat(answer["estimated_send_at"]) == at
    shown = client.get(f"/whatsapp/messages/{answer['id']}")
    assert (shown["status"], shown["position"], shown["queued_at"]) == ("scheduled", None, None)
    client.post(f"{ALPHA}/pause")
    assert client.get(f"/whatsapp/messages/{answer['id']}")["estimated_send_at"] is None


def test_a_schedule_in_the_past_is_at_once() -> None:
    make_session("alpha")
    assert send(ApiClient(), text="x", scheduled_at="2020-01-01T00:00:00Z")["status"] == "queued"


def test_positions_count_those_before_and_high_goes_first() -> None:
    make_session("alpha", pacing=Pacing(min_interval_ms=60_000, max_interval_ms=60_000))
    client = ApiClient()
    first, second = send(client, text="1"), send(client, text="2")
    urgent = send(client, text="3", priority="high")
    assert [answer["position"] for answer in (first, second, urgent)] == [1, 2, 1]
    assert client.get(f"/whatsapp/messages/{second['id']}")["position"] == 3
    assert line(Session.objects.get()) == [urgent["id"], first["id"], second["id"]]
    wait = datetime.fromisoformat(second["estimated_send_at"]) - datetime.fromisoformat(first["estimated_send_at"])
    assert timedelta(seconds=59) < wait < timedelta(seconds=65)


def test_the_estimate_of_a_retry_is_not_before_its_next_attempt() -> None:
    (message,) = submit(make_session("alpha"), "x")
    at = (timezone.now() + timedelta(hours=1)).replace(microsecond=0)
    become(message, Status.QUEUED, next_attempt_at=at, attempts=1)
    shown = ApiClient().get(f"/whatsapp/messages/{message.pk}")
    assert datetime.fromisoformat(shown["estimated_send_at"]) == datetime.fromisoformat(shown["next_attempt_at"]) == at


@pytest.mark.parametrize(("typed", "kept"), [("+51 930-246-633", TO), ("0051930246633", TO), ("(01) 23.45", "012345")])
def test_phones_are_taken_as_people_type_them(typed: str, kept: str) -> None:
    make_session("alpha")
    client = ApiClient()
    assert send(client, to=typed, text="x")["to"] == kept
    assert [item["to"] for item in client.get("/whatsapp/messages?to=" + typed.replace("+", "%2B"))["items"]] == [kept]


# Showing them.


def test_a_message_is_shown_field_by_field() -> None:
    (message,) = submit(make_session("alpha"), "hello")
    shown = ApiClient().get(f"/whatsapp/messages/{message.pk}").body
    for name in ("created_at", "queued_at", "estimated_send_at"):
        assert abs(datetime.fromisoformat(shown.pop(name)) - message.created_at) < timedelta(seconds=5)
    history = shown.pop("history")
    assert [(item["what"], item["by"], item["detail"]) for item in history] == [("message.queued", None, None)]
    assert shown == {
        "id": str(message.pk), "session": "alpha", "to": TO, "type": "text", "text": "hello", "media_url": None,
        "filename": None, "caption": None, "template": None, "priority": "normal", "seq": message.seq,
        "status": "queued", "position": 1, "attempts": 0, "max_attempts": 5, "next_attempt_at": None,
        "scheduled_at": None, "expires_at": None,
        "provider_id": None, "error": None, "client_ref": None, "metadata": {}, "batch_id": None, "orphan_id": None,
        "sent_at": None, "delivered_at": None, "read_at": None, "failed_at": None,
    }  # fmt: skip


def test_an_error_is_shown_with_its_class_and_in_words() -> None:
    (message,) = submit(make_session("alpha"), "hello")
    become(message, Status.FAILED, error_class="permanent", error_code="131026", error_detail="not on WhatsApp")
    expected = {"class": "permanent", "code": "131026", "title": "refused for good", "detail": "not on WhatsApp"}
    client = ApiClient()
    assert client.get(f"/whatsapp/messages/{message.pk}")["error"] == expected
    assert client.get("/whatsapp/messages")["items"][0]["error"] == expected


def test_the_history_tells_attempts_and_acts_in_the_order_of_time() -> None:
    (message,) = submit(make_session("alpha"), "hello")
    client = ApiClient()
    began = timezone.now() + timedelta(seconds=10)
    worker = Worker.objects.create(
        name="w1", hostname="h", pid=1, concurrency=1, started_at=began, heartbeat_at=began, steady_since=began
    )
    Attempt.objects.create(
        token=1, message=message, session=message.session, number=1, worker_id=worker.pk, fenced_at=began,
        finished_at=began + timedelta(seconds=1), outcome=Outcome.RETRY, error_code="busy", error_detail="try later",
    )  # fmt: skip
    Attempt.objects.create(
        token=2, message=message, session=message.session, number=2, worker_id=uuid.UUID(int=7),
        fenced_at=began + timedelta(seconds=2), finished_at=None,
    )  # fmt: skip
    Attempt.objects.filter(token=1).update(late_outcome="sent")
    client.post(f"/whatsapp/messages/{message.pk}/cancel")
    Event.objects.filter(kind="message.cancelled").update(created_at=began + timedelta(seconds=3))
    told = client.get(f"/whatsapp/messages/{message.pk}")["history"]
    assert [(item["what"], item["by"], item["detail"]) for item in told] == [
        ("message.queued", None, None),
        ("attempt.began", "worker w1", "attempt 1"),
        ("attempt.retry", "worker w1", "attempt 1: busy, try later"),
        ("attempt.heard_too_late", "worker w1", "attempt 1: sent"),
        ("attempt.began", f"worker {uuid.UUID(int=7)}", "attempt 2"),
        ("message.cancelled", f"key {client.key}", None),
    ]
    assert [item["at"] for item in told] == sorted(item["at"] for item in told)
