"""The hook: what is signed is believed and answered with 200, everything else is refused, and nothing needs a key."""

import json
from typing import Any

import pytest
import redis

from sessions_app.models import Receipt, Session, Status
from sessions_app.services import sessions
from sessions_app.transports.waha import hooks
from tests.api_client import ApiClient
from tests.factories import ACTOR, is_due, make_session
from tests.hook_lab import ack, bare, event, post, signature, tell, waha_message, waha_session
from tests.waha_lab import HOOK

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_signature_of_wahas_own_documentation_is_right() -> None:
    body = b'{"event":"message","session":"default","engine":"WEBJS"}'
    given = (
        "208f8a55dde9e05519e898b10b89bf0d0b3b0fdf11fdbf09b6b90476301b98d8"
        "097c462b2b17a6ce93b6b47a136cf2e78a33a63f6752c2c1631777076153fa89"
    )
    hooks.verify("my-secret-key", {"X-Webhook-Hmac": given}, body)


@pytest.mark.parametrize(
    "forged",
    [
        "0" * 128,
        "zz",
        "\u00f1",
        signature(b"another body"),
    ],
)
def test_a_forged_signature_is_refused_and_changes_nothing(forged: str) -> None:
    message = waha_message()
    answer = post(ack(message, "read"), signed=forged)
    assert (answer.status, answer["code"]) == (403, "hook_refused")
    assert not Receipt.objects.exists()


def test_what_another_session_signed_is_refused() -> None:
    message = waha_message()
    waha_session("other", webhook_secret="an0ther-s3cret")
    body = ack(message, "read")
    assert post(body, signed=signature(body, "an0ther-s3cret")).status == 403
    assert not Receipt.objects.exists()


def test_a_body_that_was_changed_on_the_way_is_refused() -> None:
    message = waha_message()
    body = ack(message, "sent")
    assert post(body.replace(b'"ack": 1', b'"ack": 3'), signed=signature(body)).status == 403
    assert not Receipt.objects.exists()


def test_what_is_not_signed_is_refused() -> None:
    answer = post(ack(waha_message(), "read"), signed="")
    assert (answer.status, answer["code"]) == (401, "hook_unsigned")


def test_a_key_of_the_api_is_no_signature() -> None:
    message = waha_message()
    answer = ApiClient().call("POST", "/whatsapp/hooks/school", ack(message, "read"))
    assert answer.status == 401
    assert not Receipt.objects.exists()


@pytest.mark.parametrize("secret", [HOOK, ""])
def test_where_nothing_is_expected_there_is_nothing(secret: str) -> None:
    waha_session(webhook_secret="")
    make_session("loop")
    gone = waha_session("gone")
    sessions.delete(gone, unsent="refuse", actor=ACTOR)
    for name in ("school", "loop", "gone", "unheard-of", "a%2Fb"):
        body = ack("3EB0", "read")
        assert post(body, session=name, signed=signature(body, secret)).status == 404, name


@pytest.mark.fault(30)
def test_a_replay_after_a_day_is_refused_and_one_before_changes_nothing() -> None:
    message = waha_message()
    old, recent = ack(message, "read", age_s=90_000), ack(message, "delivered", age_s=80_000)
    answer = post(old)
    assert (answer.status, answer["code"]) == (403, "hook_refused") and "older than a day" in answer["detail"]
    assert [post(recent)["receipts"] for _ in range(3)] == [1, 0, 0]
    assert Receipt.objects.count() == 1


def test_a_webhook_of_another_of_wahas_sessions_is_answered_and_kept_by_nobody() -> None:
    message = waha_message()
    assert tell(message, "read", session="not-school") == [0]
    assert not Receipt.objects.exists()


@pytest.mark.parametrize(
    "body",
    ids=range(15),
    argvalues=[
        b"",
        b"no json",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        event("message", {"body": "hello"}),
        event("message.ack", None),
        event("message.ack", {"id": 7, "ack": 1, "fromMe": True}),
        event("message.ack", {"id": "true_x@c.us_" + "A" * 300, "ack": 1}),
        event("message.ack", {"id": "true_x@c.us_A\x00", "ack": 1}),
        event("message.ack", {"id": "false_x@c.us_A", "ack": 1, "fromMe": False}),
        event("message.ack", {"id": "true_x@c.us_A", "ack": 17}),
        event("message.ack", {"id": "true_x@c.us_A", "ack": True}),
        event("message.ack", {"id": "true_x@c.us_A", "ack": "3"}),
    ],
)
def test_what_is_signed_and_tells_nothing_is_answered_with_200(body: bytes) -> None:
    waha_session()
    answer = post(body)
    assert (answer.status, answer.body) == (200, {"receipts": 0})
    assert not Receipt.objects.exists()


@pytest.mark.parametrize("fields", [{"id": None}, {"id": "x" * 500}, {"timestamp": None}, {"timestamp": 10**30}])
def test_a_receipt_without_an_id_or_a_time_of_its_own_is_kept_once_all_the_same(fields: dict[str, Any]) -> None:
    message = waha_message()
    body = ack(message, "delivered", **fields)
    assert [post(body)["receipts"] for _ in range(2)] == [1, 0]


def test_a_receipt_for_an_id_that_nobody_knows_is_answered_and_kept() -> None:
    waha_session()
    assert tell("3EB0AAAAAAAAAAAAAAAAAA", "delivered") == [1]
    receipt = Receipt.objects.get()
    assert receipt.message is None and receipt.next_look_at is not None


def test_an_id_is_looked_for_in_its_own_session_only() -> None:
    message = waha_message()
    other = waha_session("other")
    body = ack(message, "delivered", session="other")
    assert post(body, session="other").status == 200
    receipt = Receipt.objects.get()
    assert (receipt.session, receipt.message) == (other, None)
    message.refresh_from_db()
    assert message.status == Status.QUEUED


def test_a_body_of_more_than_a_megabyte_is_refused() -> None:
    waha_session()
    answer = post(b"{" + b" " * 2**20 + b"}")
    assert (answer.status, answer["code"]) == (413, "body_too_large")


def test_other_methods_are_refused() -> None:
    waha_session()
    answer = ApiClient(plain="").get("/whatsapp/hooks/school")
    assert answer.status == 405


def test_the_name_that_the_session_has_in_waha_is_the_one_that_counts() -> None:
    message = waha_message()
    session = message.session
    Session.objects.filter(pk=session.pk).update(config=session.config | {"remote_name": "default"})
    assert tell(message, "delivered") == [0]
    assert tell(message, "delivered", session="default") == [1]


def test_news_of_the_session_has_it_looked_at_and_is_not_believed(redis_client: redis.Redis) -> None:
    session = waha_session()
    sessions.act(session, "resume", actor=ACTOR)
    redis_client.flushdb()
    before = session.observed_state
    payload = {"name": "school", "status": "FAILED", "statuses": [], "data": None}
    assert post(event("session.status", payload)).body == {"receipts": 0}
    assert is_due(redis_client, "school")
    session.refresh_from_db()
    assert session.observed_state == before


def test_the_secret_comes_out_nowhere() -> None:
    message = waha_message()
    tell(message, "delivered")
    shown = json.dumps(ApiClient().get("/whatsapp/sessions/school").body)
    assert HOOK not in shown and "webhook_secret" not in shown
    assert HOOK not in json.dumps(list(Receipt.objects.values()), default=str)
    assert bare(message) in json.dumps(ApiClient().get(f"/whatsapp/messages/{message.pk}").body)
