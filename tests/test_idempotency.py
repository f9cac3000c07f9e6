"""Idempotency-Key: the same request again makes nothing new and gets the first answer again."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from sessions_app.models import AuditEntry, Event, IdempotencyKey, Message, Session
from sessions_app.services import sessions
from tests.api_client import Answer, ApiClient
from tests.factories import ACTOR, at_once, job_ids, make_session, observer, wait_until_blocked

pytestmark = pytest.mark.django_db

PATH = "/whatsapp/sessions/alpha/messages"
REPORT = "/whatsapp/sessions/alpha/send-assistance-report"
BODY = {"to": "+51930246633", "text": "once"}


def send(client: ApiClient, key: str, body: Any = None, path: str = PATH) -> Answer:
    return client.post(path, body or BODY, Idempotency_Key=key)


def was_replayed(answer: Answer) -> bool:
    return answer.headers.get("Idempotency-Replayed") == "true"


# One after the other.


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (PATH, BODY, 202),
        (REPORT, {"phone": "1234567890", "message": "test"}, 202),
        ("/whatsapp/sessions", {"name": "new"}, 201),
        ("/whatsapp/sessions", {"name": "alpha"}, 200),
    ],
)
def test_a_repeat_gets_the_first_answer_and_makes_nothing(path: str, body: Any, status: int) -> None:
    make_session("alpha")
    client = ApiClient()
    first = send(client, "k", body, path)
    made = (Message.objects.count(), Session.objects.count(), Event.objects.count(), AuditEntry.objects.count())
    again = send(client, "k", body, path)
    assert (first.status, again.status) == (status, status)
    assert again.body == first.body
    assert not was_replayed(first) and was_replayed(again)
    assert made == (
        Message.objects.count(), Session.objects.count(), Event.objects.count(), AuditEntry.objects.count(),
    )  # fmt: skip


def test_without_a_key_each_request_makes_its_own() -> None:
    make_session("alpha")
    client = ApiClient()
    ids = {client.post(PATH, BODY)["id"] for _ in range(3)}
    assert len(ids) == 3 and not IdempotencyKey.objects.exists()


def test_the_first_answer_stays_whatever_has_become_of_the_message_since() -> None:
    session = make_session("alpha")
    client = ApiClient()
    first = send(client, "k")
    client.post(f"/whatsapp/messages/{first['id']}/cancel")
    sessions.delete(session, actor=ACTOR)
    again = send(client, "k")
    assert (again.status, again.body, again["status"]) == (202, first.body, "queued")


def test_the_same_body_laid_out_otherwise_is_the_same() -> None:
    make_session("alpha")
    client = ApiClient()
    first = send(client, "k", '{"to": "+51930246633", "text": "¡Hola!", "metadata": {"a": 1, "b": 2}}')
    again = send(client, "k", '{ "metadata":{"b":2,"a":1},"text":"\\u00a1Hola!",\n"to":"+51930246633"}')
    assert was_replayed(again) and again.body == first.body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, BODY | {"text": "twice"}),
        (PATH, BODY | {"metadata": {}}),
        (REPORT, {"phone": "+51930246633", "message": "once"}),
        ("/whatsapp/sessions/beta/messages", BODY),
        ("/whatsapp/sessions", {"name": "gamma"}),
    ],
)
def test_the_same_key_for_another_request_is_refused(path: str, body: Any) -> None:
    make_session("alpha")
    make_session("beta")
    client = ApiClient()
    send(client, "k")
    answer = send(client, "k", body, path)
    assert answer.status == 422 and answer["code"] == "idempotency_key_reused" and answer.fields == ["Idempotency-Key"]
    assert Message.objects.count() == 1 and Session.objects.count() == 2


def test_a_key_belongs_to_the_api_key_that_sent_it() -> None:
    make_session("alpha")
    one, other = send(ApiClient(), "k"), send(ApiClient(), "k", BODY | {"text": "another"})
    assert one.status == other.status == 202 and one["id"] != other["id"]


def test_what_fails_is_not_kept_and_the_key_is_free_again() -> None:
    client = ApiClient()
    assert send(client, "k").status == 404
    make_session("alpha")
    assert send(client, "k", {"to": "12", "text": "x"}).status == 422
    assert send(client, "k", BODY | {"expires_at": "2020-01-01T00:00:00Z"}).status == 422
    assert send(client, "k").status == 202
    make_session("taken")
    assert send(client, "s", {"name": "taken", "on_uncertain": "resend"}, "/whatsapp/sessions").status == 409
    assert list(IdempotencyKey.objects.values_list("key", "status")) == [("k", 202)]


@pytest.mark.parametrize("key", ["k", "a key with blanks", "~" * 200, '"8e03978e-40d5-43e8-bc93-6894a57f9324"'])
def test_keys_of_printable_ascii_are_taken(key: str) -> None:
    make_session("alpha")
    client = ApiClient()
    assert send(client, key).status == 202
    assert was_replayed(send(client, key))


@pytest.mark.parametrize("key", ["", "k" * 201, "ñ", "a\tb", "a\x7fb", "a\0b"])
def test_keys_that_are_none_are_refused_and_nothing_is_made(key: str) -> None:
    make_session("alpha")
    answer = send(ApiClient(), key)
    assert answer.fields == ["Idempotency-Key"] and answer["code"] == "invalid_input"
    assert not Message.objects.exists()


def test_a_key_is_free_again_after_24_hours() -> None:
    make_session("alpha")
    client = ApiClient()
    first = send(client, "k")
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=23, minutes=59))
    assert was_replayed(send(client, "k"))
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    second = send(client, "k", BODY | {"text": "another"})
    assert second.status == 202 and second["id"] != first["id"]
    again = send(client, "k", BODY | {"text": "another"})
    assert was_replayed(again) and again["id"] == second["id"]
    assert IdempotencyKey.objects.count() == 1


def test_expired_answers_go_by_themselves() -> None:
    make_session("alpha")
    client = ApiClient()
    for at in range(4):
        send(client, f"old-{at}")
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=25))
    send(client, "new")
    assert list(IdempotencyKey.objects.values_list("key", flat=True)) == ["new"]


# At once.


@pytest.mark.fault(28)
@pytest.mark.django_db(transaction=True)
def test_fifty_at_once_make_one_message(redis_client: Any) -> None:
    make_session("alpha")
    clients = [ApiClient() for _ in range(2)]
    key = uuid.uuid4().hex
    answers: list[Answer] = at_once(*(lambda: send(clients[0], key) for _ in range(50)))
    kinds = Counter((answer.status, was_replayed(answer)) for answer in answers)
    assert kinds[(202, False)] == 1, kinds
    assert set(kinds) <= {(202, False), (202, True), (409, False)}, kinds
    assert {answer["code"] for answer in answers if answer.status == 409} <= {"idempotency_key_in_use"}
    (message,) = Message.objects.all()
    assert {answer["id"] for answer in answers if answer.status == 202} == {str(message.pk)}
    assert job_ids(redis_client, "alpha") == [str(message.pk)]
    assert send(clients[0], key)["id"] == str(message.pk)


def _hold_the_line(holder: "psycopg.Connection[Any]") -> None:
    """Have the next message of alpha wait, as behind another submit that has not committed."""
    holder.execute("BEGIN")
    holder.execute("UPDATE wa_session_counter SET next_seq = next_seq + 1")


@pytest.fixture
def first_still_runs() -> Any:
    """Run a function while the first request with the key `k` has begun and cannot end; return the first's answer."""

    def run(client: ApiClient, meanwhile: Callable[[], None]) -> Answer:
        answers: list[Answer] = []

        def first() -> None:
            answers.append(send(client, "k"))
            connection.close()

        with observer() as holder:
            _hold_the_line(holder)
            thread = threading.Thread(target=first)
            thread.start()
            try:
                wait_until_blocked()
                meanwhile()
            finally:
                holder.execute("ROLLBACK")
                thread.join(30)
        return answers[0]

    return run


@pytest.mark.django_db(transaction=True)
def test_while_the_first_still_runs_the_second_is_409_at_once_and_other_keys_are_free(first_still_runs: Any) -> None:
    make_session("alpha")
    client = ApiClient()

    def meanwhile() -> None:
        answer = send(client, "k")
        assert (answer.status, answer["code"]) == (409, "idempotency_key_in_use")
        # Another body does not change that: whether it was reused is known once the first has ended.
        assert send(client, "k", BODY | {"text": "other"}).status == 409
        assert send(client, "other", {"name": "beta"}, "/whatsapp/sessions").status == 201
        assert send(ApiClient(), "k", {"name": "gamma"}, "/whatsapp/sessions").status == 201

    first = first_still_runs(client, meanwhile)
    assert first.status == 202
    assert send(client, "k").body == first.body and Message.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_first_request_that_dies_frees_its_key(first_still_runs: Any) -> None:
    make_session("alpha")
    client = ApiClient()

    def meanwhile() -> None:
        with observer() as killer:
            killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )

    died = first_still_runs(client, meanwhile)
    assert (died.status, died["code"]) == (503, "database_unavailable") and died.headers["Retry-After"].isdigit()
    assert not Message.objects.exists() and not IdempotencyKey.objects.exists()
    again = send(client, "k")
    assert again.status == 202 and not was_replayed(again)
