"""WAHA over real HTTP: what is sent, each answer that is documented and what it means, and what is said of it."""

import logging
from typing import Any

import pytest

from sessions_app.exceptions import (
    NotConnected,
    OutcomeUnknown,
    PermanentError,
    RetryableError,
    SendError,
    SessionRefused,
)
from sessions_app.models import new_id
from sessions_app.transports.base import Outgoing
from sessions_app.transports.waha import WahaTransport, replies
from tests import waha_stub
from tests.waha_lab import HOOK, KEY, PAGE, PHONE, TEXT, failure, outgoing, send
from tests.waha_stub import WahaStub, answering, failing

# Accepted


def test_a_text_arrives_as_waha_takes_it_and_its_bare_id_comes_back(stub: WahaStub) -> None:
    message = outgoing(stub)
    assert send(message) == ["3EB000000001"]
    (sent,) = stub.accepted
    assert sent.body.pop("id") == WahaTransport.client_id(message.message_id)
    assert sent.body == {"session": "school", "chatId": "5511987654321@c.us", "text": TEXT, "linkPreview": False}
    assert sent.api_key == KEY
    assert sent.headers["User-Agent"] == "waqueue"
    assert "Cookie" not in sent.headers


@pytest.mark.parametrize(
    ("to", "chat"), [("+51930246633", "51930246633@c.us"), ("1234567890", "1234567890@c.us"), ("12345", "12345@c.us")]
)
def test_the_chat_is_made_of_the_phone(stub: WahaStub, to: str, chat: str) -> None:
    send(outgoing(stub, to=to))
    assert stub.accepted[0].body["chatId"] == chat


def test_signs_of_every_kind_arrive_as_they_are(stub: WahaStub) -> None:
    text = '¿Vino Ñandú? 🦤\n\t"sí" \\ <b> \u202e x' * 50
    send(outgoing(stub, text=text))
    assert stub.accepted[0].text == text


def test_the_sessions_name_there_may_be_another(stub: WahaStub) -> None:
    stub.sessions = {"default": waha_stub.WORKING}
    assert send(outgoing(stub, config={"remote_name": "default"})) == ["3EB000000001"]
    assert stub.accepted[0].body["session"] == "default"


def test_without_a_key_none_is_sent(stub: WahaStub) -> None:
    stub.api_key = ""
    send(outgoing(stub, config={"api_key": ""}))
    assert stub.accepted[0].api_key is None


@pytest.mark.parametrize(
    ("document", "bare"),
    [
        ({"id": "true_5511987654321@c.us_3EB0AA"}, "3EB0AA"),
        ({"id": "3EB0AA"}, "3EB0AA"),
        ({"id": "true_120363000000000000@g.us_3EB0AA_5511987654321@c.us"}, "3EB0AA"),
        ({"id": "true_120363000000000000@g.us_3EB0AA_5511987654321"}, "3EB0AA"),
        ({"id": "true_99887766554433@lid_3EB0AA"}, "3EB0AA"),
        ({"id": {"_serialized": "true_5511987654321@c.us_3EB0AA", "id": "no"}}, "3EB0AA"),
        ({"id": None, "_data": {"key": {"id": "3EB0AA"}}}, "3EB0AA"),
        ({"_data": {"key": {"id": "3EB0AA"}}, "key": {"id": "no"}}, "3EB0AA"),
        ({"key": {"id": "3EB0AA"}}, "3EB0AA"),
        ({"id": "true_5511987654321@c.us", "key": {"id": "3EB0AA"}}, "3EB0AA"),
        ({"id": ""}, ""),
        ({"id": 7}, ""),
        ({"id": {"_serialized": 7}, "_data": [], "key": "x"}, ""),
        ({}, ""),
        ([{"id": "3EB0AA"}], ""),
        ("3EB0AA", ""),
        (None, ""),
    ],
)
def test_the_bare_id_is_found_in_every_shape(document: Any, bare: str) -> None:
    assert replies.message_id(document) == bare


# Refused before anything is sent


@pytest.mark.parametrize("kind", ["image", "document", "template"])
def test_what_is_not_a_text_fails_with_clear_words(stub: WahaStub, kind: str) -> None:
    error = failure(outgoing(stub, type=kind))
    assert type(error) is PermanentError
    assert kind in error.detail and "texts only" in error.detail
    assert not stub.arrived


@pytest.mark.parametrize("to", ["", "nobody", "+12", "123@g.us", "1234567890123456"])
def test_a_recipient_that_is_no_phone_fails(stub: WahaStub, to: str) -> None:
    error = failure(outgoing(stub, to=to))
    assert type(error) is PermanentError
    assert not to or to not in error.detail
    assert not stub.arrived


def test_a_session_without_an_address_is_held() -> None:
    error = failure(Outgoing(new_id(), 1, "school", {}, {"to": PHONE, "text": TEXT}))
    assert type(error) is SessionRefused and "base_url" in error.detail


# Answers

NEST_400 = {
    "statusCode": 400,
    "message": ["chatId must be a string", "text should not be empty"],
    "error": "Bad Request",
}
PLUS = {
    "statusCode": 422,
    "message": "Sending that is available only in Plus version.",
    "error": "Unprocessable Entity",
}
CORE = {
    "statusCode": 422,
    "message": "WAHA Core support only 'default' session. Get PLUS",
    "error": "Unprocessable Entity",
}

ANSWERS: list[tuple[str, waha_stub.Behaviour, type[SendError], str, str]] = [
    ("bad key", answering(401, {"message": "Unauthorized", "statusCode": 401}), SessionRefused, "401", "api_key"),
    ("forbidden", answering(403, {"message": "Forbidden", "statusCode": 403}), SessionRefused, "403", "Forbidden"),
    ("unknown", answering(404, waha_stub.unknown_session("school")), NotConnected, "404", "does not know the session"),
    ("no waha", answering(404, raw=b"<h1>Not here</h1>"), NotConnected, "404", "no WAHA at base_url"),
    ("stopped", answering(422, waha_stub.wrong_state("school", "STOPPED")), NotConnected, "STOPPED", "STOPPED"),
    ("pairing", answering(422, waha_stub.wrong_state("s", "SCAN_QR_CODE")), NotConnected, "SCAN_QR_CODE", "SCAN_QR"),
    ("core", answering(422, CORE), SessionRefused, "422", "remote_name"),
    ("plus", answering(422, PLUS), PermanentError, "422", "only in Plus"),
    ("validation", answering(400, NEST_400), PermanentError, "400", "text should not be empty"),
    ("too large", answering(413, raw=b"<title>413</title>"), PermanentError, "413", "too large"),
    ("no waha either", answering(405, raw=b"<title>405</title>"), SessionRefused, "405", "base_url"),
    ("a gateway's 400", answering(400, raw=b"plain HTTP to an HTTPS port"), SessionRefused, "400", "base_url"),
    ("moved", answering(308, Location="https://other.example/api/sendText"), SessionRefused, "308", "another one"),
    ("login page", answering(302, Location="/login"), SessionRefused, "302", "another one"),
    ("too many", answering(429, {"message": "slow down"}), RetryableError, "429", "no more just now"),
    ("proxy timeout", answering(408), RetryableError, "408", "no more just now"),
    ("closed", answering(503, raw=PAGE, Retry_After="30"), RetryableError, "503", "closed for now"),
    ("timelock", failing("2 UNKNOWN: server returned error 463"), SessionRefused, "463", "no new chats"),
    ("stuck", failing("2 UNKNOWN: server returned error 400"), SessionRefused, "400", "restart the session"),
    ("server said", failing("2 UNKNOWN: server returned error 479"), RetryableError, "479", "refused the message"),
    ("link lost", failing("Connection Closed"), OutcomeUnknown, "500", "Connection Closed"),
    ("lock", failing("async-lock timed out in queue x"), OutcomeUnknown, "500", "async-lock timed out"),
    ("unheard of", failing("Cannot read properties of undefined"), OutcomeUnknown, "500", "Cannot read properties"),
    ("bare 500", answering(500, raw=b""), OutcomeUnknown, "500", "what became of the message"),
    ("502", answering(502, raw=PAGE), OutcomeUnknown, "502", "what became of the message"),
    ("bare 502", answering(502, raw=b""), OutcomeUnknown, "502", "what became of the message"),
    ("503", answering(503, raw=PAGE), OutcomeUnknown, "503", "what became of the message"),
    ("504 of a gateway with JSON", answering(504, {"message": "upstream"}), OutcomeUnknown, "504", "upstream"),
    ("no id", answering(201, {"ack": 0}), OutcomeUnknown, "201", "without an id"),
    ("empty", answering(201), OutcomeUnknown, "201", "without an id"),
    ("no JSON", answering(200, raw=b"<h1>It works!</h1>"), OutcomeUnknown, "200", "without an id"),
    ("no content", answering(204), OutcomeUnknown, "204", "without an id"),
]


@pytest.mark.fault(20)
@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("behaviour", "error", "code", "words"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS]
)
def test_each_answer_means_what_the_table_says(
    stub: WahaStub, behaviour: waha_stub.Behaviour, error: type[SendError], code: str, words: str
) -> None:
    stub.on_send = behaviour
    found = failure(outgoing(stub))
    assert type(found) is error
    assert (found.provider_code, words in found.detail) == (code, True), found.detail
    assert len(stub.arrived) == 1


def test_a_redirect_is_not_followed(stub: WahaStub) -> None:
    with WahaStub(sessions={"school": waha_stub.WORKING}) as other:
        stub.on_send = answering(307, Location=f"{other.url}/api/sendText")
        assert type(failure(outgoing(stub))) is SessionRefused
        assert not other.paths


@pytest.mark.parametrize(
    ("asked", "at_least", "at_most"),
    [
        ("7", 7_000, 7_000),
        ("0", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("99999999999999", 999_999_999_000, 999_999_999_000),
        ("Wed, 01 Jan 2200 00:00:00 GMT", 3_600_000_000, 10_000_000_000_000),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0, 0),
    ],
)  # fmt: skip
def test_a_wait_that_is_asked_for_is_told(stub: WahaStub, asked: str, at_least: int, at_most: int) -> None:
    stub.on_send = answering(429, {"message": "slow"}, Retry_After=asked)
    error = failure(outgoing(stub))
    assert isinstance(error, RetryableError)
    assert at_least <= error.after_ms <= at_most


# What is said and written


@pytest.mark.parametrize(
    "behaviour",
    [
        failing("Connection Closed"),
        failing(f"no chat {PHONE[1:]}@c.us for {TEXT}"),
        failing(f"the key {KEY} and {HOOK} of {PHONE}"),
        answering(400, {"statusCode": 400, "message": [f"text {TEXT} is bad", f"not {PHONE[1:]}@c.us"], "error": KEY}),
        answering(422, {"message": f"{TEXT[:14]}…", "body": {"text": TEXT}}),
        answering(422, {"status": KEY, "expected": [TEXT]}),
        answering(422, {"error": "Session status is not as expected", "status": KEY, "expected": [TEXT]}),
        answering(403, {"message": {"message": TEXT}}),
        answering(502, raw=f"<title>{TEXT} {PHONE}</title>{KEY}".encode()),
        answering(200, raw=f"{TEXT} {KEY} {PHONE}".encode()),
        answering(201, {"message": TEXT, "error": f"{KEY} {PHONE}"}),
    ],
)
def test_neither_text_nor_key_nor_phone_reaches_log_or_row(
    stub: WahaStub, behaviour: waha_stub.Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    stub.on_send = behaviour
    caplog.set_level(logging.DEBUG)
    message = outgoing(stub)
    error = failure(message)
    assert str(message.message_id) in caplog.text and "school" in caplog.text
    for where in (caplog.text, error.detail, error.provider_code, repr(message)):
        for private in (TEXT, TEXT[:14], KEY, HOOK, PHONE, PHONE[1:]):
            assert private not in where


def test_the_log_tells_what_waha_said(stub: WahaStub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sessions_app")
    stub.on_send = failing("Evaluation failed: no frame")
    failure(outgoing(stub))
    assert "WAHA answered 500" in caplog.text and "message=Evaluation failed: no frame name=Error" in caplog.text
    stub.on_send = answering(502, raw=PAGE)
    failure(outgoing(stub))
    assert f"text/html of {len(PAGE)} bytes '502 Bad Gateway'" in caplog.text.replace("; charset=utf-8", "")
