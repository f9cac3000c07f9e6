"""Every error of the API has one shape, whoever made it; the admin keeps Django's own plain pages.

The shape itself is checked by `tests.api_client` in every answer of every test.
"""

import json
from typing import Any

import pytest
from django.db import connection
from django.test import Client, override_settings

from sessions_app.models import Message, Session
from tests.api_client import ApiClient
from tests.factories import make_session

pytestmark = pytest.mark.django_db

SESSIONS = "/whatsapp/sessions"


def message_path(session: str = "alpha") -> str:
    return f"/whatsapp/sessions/{session}/messages"


# What Django answers by itself.


@pytest.mark.parametrize(
    "path",
    [
        "/whatsapp", "/whatsapp/", "/whatsapp/nothing", "/whatsapp/nothing/", "/whatsapp/sessions/",
        "/whatsapp/sessions//start", "/whatsapp/queues/",
        "/whatsapp/docs/", "/whatsapp/openapi.json/", "/livez/", "/readyz/", "/livez/x",
        "/whatsapp/sessions/a%2Fb", "/whatsapp/sessions/alpha/fly",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_address_that_is_none_is_404_and_is_never_redirected(method: str, path: str) -> None:
    answer = ApiClient().call(method, path)
    assert answer.status == 404 and answer["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/whatsapp/sessions", "GET, HEAD, POST"),
        ("OPTIONS", "/whatsapp/queues", "GET, HEAD"),
        ("GET", "/whatsapp/sessions/alpha/start", "POST"),
        ("POST", "/livez", "GET, HEAD"),
        ("BREW", "/whatsapp/messages", "GET, HEAD"),
    ],
)
def test_another_method_is_405_and_says_which_there_are(method: str, path: str, allowed: str) -> None:
    answer = ApiClient().call(method, path)
    assert answer.status == 405 and answer["code"] == "method_not_allowed"
    assert answer.headers["Allow"] == allowed


def test_a_host_that_is_not_ours_is_400() -> None:
    answer = ApiClient().get("/whatsapp/queues", Host="evil.example")
    assert answer.status == 400 and answer["code"] == "unknown_host"


def test_more_parameters_than_django_reads_are_400() -> None:
    answer = ApiClient().get("/whatsapp/messages?" + "&".join(["to=1"] * 1001))
    assert answer.status == 400 and answer["code"] == "bad_request"


def test_a_body_over_the_limit_is_413_and_one_at_the_limit_is_read() -> None:
    make_session("alpha")
    client = ApiClient()
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=1000):
        body = json.dumps({"to": "+51930246633", "text": "x"})
        assert client.post(message_path(), body.ljust(1000)).status == 202
        answer = client.post(message_path(), body.ljust(1001))
    assert answer.status == 413 and answer["code"] == "body_too_large"
    assert Message.objects.count() == 1


def test_a_mistake_of_ours_is_500_without_a_trace_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    client = ApiClient()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE wa_session RENAME COLUMN phone TO telephone")
    answer = client.get(SESSIONS)
    assert answer.status == 500 and answer["code"] == "internal_error"
    assert "phone" not in answer["detail"]
    assert [record.exc_info[0].__name__ for record in caplog.records if record.name == "django.request"] == [  # type: ignore[index, union-attr]
        "ProgrammingError"
    ]


@pytest.mark.parametrize(
    ("path", "status"),
    [(SESSIONS, 500), ("/whatsapp/nothing", 404), ("/whatsapp/messages?" + "&".join(["to=1"] * 1001), 400)],
)
def test_debug_shows_no_more(path: str, status: int) -> None:
    client = ApiClient()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE wa_session RENAME COLUMN phone TO telephone")
    with override_settings(DEBUG=True):
        assert client.get(path).status == status


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/admin/nothing/", 302), ("/whatsappx", 404)])
def test_what_is_not_the_apis_keeps_djangos_pages(path: str, status: int) -> None:
    response = Client().get(path)
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith("text/html")


def test_the_admins_error_pages_are_plain() -> None:
    client = Client(raise_request_exception=False)
    for response, status in (
        (client.get("/admin/login/", headers={"Host": "evil.example"}), 400),
        (client.get("/admin-nothing"), 404),
        (client.post("/admin/login/", {"x": "y"}), 200),
    ):
        assert response.status_code == status
        assert response.headers["Content-Type"].startswith("text/html")
        assert "Traceback" not in response.content.decode()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE auth_user RENAME COLUMN username TO person")
    response = client.post("/admin/login/", {"username": "a", "password": "b"})
    assert response.status_code == 500 and "ProgrammingError" not in response.content.decode()
    assert response.headers["Content-Type"].startswith("text/html")


def test_nothing_that_the_api_says_is_kept_on_the_way() -> None:
    client = ApiClient()
    assert client.get(SESSIONS).headers["Cache-Control"] == "no-store"
    assert client.get("/whatsapp/nothing").headers["Cache-Control"] == "no-store"


def test_head_is_answered_like_get_without_the_body() -> None:
    client = Client()
    for path in ("/livez", "/whatsapp/nothing"):
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["Content-Length"] == str(len(get.content))
        assert head.headers["Content-Type"] == get.headers["Content-Type"]


# Bodies.


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", ""],
)
def test_a_body_that_is_not_json_by_its_type_is_415(content_type: str) -> None:
    answer = ApiClient().call("POST", SESSIONS, '{"name": "alpha"}', content_type)
    assert answer.status == 415 and answer["code"] == "unsupported_media_type"
    assert not Session.objects.exists()


def test_json_may_say_its_charset_and_may_begin_with_a_byte_order_mark() -> None:
    client = ApiClient()
    assert client.call("POST", SESSIONS, '{"name": "a"}', "application/json; charset=utf-8").status == 201
    assert client.post(SESSIONS, b'\xef\xbb\xbf{"name": "b"}').status == 201


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"name":', "line 1 column 9"),
        (b"{name: 1}", "line 1 column 2"),
        (b'{"name": "\xe9"}', "byte 10 is not UTF-8"),
        (b'{"name": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"name": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"name": NaN}', "NaN is not a number of JSON"),
        (b'{"name": -Infinity}', "-Infinity is not a number"),
        (b'{"name": 1e999}', "out of range"),
        (b'{"name": ' + b"9" * 5000 + b"}", "limit"),
        (b"[" * 100_000, "too deeply"),
        (b"{} {}", "line 1 column 4"),
    ],
)
def test_a_body_that_is_broken_is_400_and_says_where(body: bytes, says: str) -> None:
    answer = ApiClient().post(SESSIONS, body)
    assert answer.status == 400 and answer["code"] == "invalid_json"
    assert says in answer["detail"]


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"text"', b"3"])
def test_a_body_that_is_no_object_is_422_naming_the_body(body: bytes) -> None:
    assert ApiClient().post(SESSIONS, body).fields == ["body"]


def test_a_field_that_is_not_known_is_refused_by_its_name() -> None:
    make_session("alpha")
    client = ApiClient()
    assert client.post(SESSIONS, {"name": "beta", "nam": 1}).fields == ["nam"]
    assert client.post(SESSIONS, {"name": "beta", "pacing": {"min": 1}}).fields == ["pacing.min"]
    assert client.post(SESSIONS, {"name": "beta", "config": {"delay": 1}}).fields == ["config.delay"]
    assert client.patch(f"{SESSIONS}/alpha", {"transport": "loopback"}).fields == ["transport"]
    assert client.post(message_path(), {"to": "123456", "text": "x", "txt": "y"}).fields == ["txt"]
    assert client.post(
        f"{SESSIONS}/alpha/send-assistance-report", {"phone": "123456", "message": "x", "to": "1"}
    ).fields == ["to"]
    assert not Message.objects.exists() and Session.objects.count() == 1


@pytest.mark.parametrize(
    "path", ["/whatsapp/messages", "/whatsapp/sessions", "/whatsapp/queues", "/whatsapp/sessions/alpha"]
)
def test_a_parameter_that_is_not_known_is_refused_by_its_name(path: str) -> None:
    make_session("alpha")
    method = "DELETE" if path.endswith("alpha") else "GET"
    assert ApiClient().call(method, f"{path}?sesion=alpha").fields == ["sesion"]
    assert Session.objects.alive().exists()


REPORT = f"{SESSIONS}/alpha/send-assistance-report"
TO = {"to": "123456"}
IMAGE = TO | {"type": "image", "media_url": "http://a/b"}
NIGHT = {"start": "21:00", "end": "07:00"}
BAD_TEXTS = ["a\0b", "a\ud800b", "\udfff"]


def template(**members: Any) -> dict[str, Any]:
    return TO | {"type": "template", "template": {"name": "a", "language": "es"} | members}


@pytest.mark.parametrize("bad", BAD_TEXTS)
@pytest.mark.parametrize(
    ("method", "path", "field", "body"),
    [
        ("POST", SESSIONS, "name", {"name": ...}),
        ("POST", SESSIONS, "transport", {"name": "beta", "transport": ...}),
        ("POST", SESSIONS, "config", {"name": "beta", "config": {"fail_as": ...}}),
        ("POST", SESSIONS, "pacing.quiet_hours.tz", {"name": "b", "pacing": {"quiet_hours": NIGHT | {"tz": ...}}}),
        ("PATCH", f"{SESSIONS}/alpha", "config", {"config": {"fail_as": [{"x": ...}]}}),
        ("POST", message_path(), "to", {"to": ..., "text": "x"}),
        ("POST", message_path(), "text", TO | {"text": ...}),
        ("POST", message_path(), "media_url", IMAGE | {"media_url": ...}),
        ("POST", message_path(), "filename", IMAGE | {"filename": ...}),
        ("POST", message_path(), "caption", IMAGE | {"caption": ...}),
        ("POST", message_path(), "client_ref", TO | {"text": "x", "client_ref": ...}),
        ("POST", message_path(), "metadata", TO | {"text": "x", "metadata": {"a": [{"b": ...}]}}),
        ("POST", message_path(), "template.name", template(name=...)),
        ("POST", message_path(), "template.language", template(language=...)),
        ("POST", message_path(), "template.components.0", template(components=[{"text": ...}])),
        ("POST", REPORT, "phone", {"phone": ..., "message": "x"}),
        ("POST", REPORT, "message", {"phone": "123456", "message": ...}),
        ("POST", REPORT, "document_url", {"phone": "123456", "message": "x", "document_url": ...}),
    ],
)
def test_text_that_cannot_be_kept_is_refused_by_the_name_of_its_field(
    method: str, path: str, field: str, body: dict[str, Any], bad: str
) -> None:
    make_session("alpha")
    assert ApiClient().call(method, path, _filled(body, bad)).fields == [field]
    assert not Message.objects.exists() and Session.objects.count() == 1


def _filled(value: Any, text: str) -> Any:
    if value is ...:
        return text
    if isinstance(value, dict):
        return {name: _filled(inner, text) for name, inner in value.items()}
    return [_filled(inner, text) for inner in value] if isinstance(value, list) else value


def test_a_key_of_an_object_that_cannot_be_kept_is_refused_too() -> None:
    make_session("alpha")
    for bad in BAD_TEXTS:
        body = {"to": "123456", "text": "x", "metadata": {bad: 1}}
        assert ApiClient().post(message_path(), body).fields in (["metadata"], ["body"])
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    "path",
    [
        "/whatsapp/messages?session=a%00", "/whatsapp/messages?to=1%00", "/whatsapp/messages?client_ref=%00",
        "/whatsapp/messages?cursor=%00", "/whatsapp/messages?batch=%00", "/whatsapp/messages?status=%00",
        "/whatsapp/messages?created_after=%00", "/whatsapp/messages?limit=%00", "/whatsapp/sessions?cursor=%00",
    ],
)  # fmt: skip
def test_a_parameter_that_cannot_be_kept_is_refused_by_its_name(path: str) -> None:
    assert ApiClient().get(path).fields == [path.partition("?")[2].partition("=")[0]]


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/whatsapp/sessions/no%00pe", "session_not_found"),
        ("GET", "/whatsapp/sessions/" + "n" * 300, "session_not_found"),
        ("GET", "/whatsapp/sessions/%ff%fe", "session_not_found"),
        ("DELETE", "/whatsapp/sessions/nope", "session_not_found"),
        ("GET", "/whatsapp/messages/nope", "message_not_found"),
        ("GET", "/whatsapp/messages/%00", "message_not_found"),
        ("POST", "/whatsapp/messages/01900000-0000-7000-8000-000000000000/cancel", "message_not_found"),
    ],
)
def test_what_is_not_there_is_404_with_its_own_code(method: str, path: str, code: str) -> None:
    answer = ApiClient().call(method, path)
    assert answer.status == 404 and answer["code"] == code


def test_all_fields_that_do_not_fit_are_named_at_once_as_the_client_wrote_them() -> None:
    body = {
        "name": "-", "max_in_flight": "2", "on_uncertain": "guess",
        "pacing": {"min_interval_ms": 1.5, "quiet_hours": {"start": "9pm", "zone": "UTC"}},
    }  # fmt: skip
    assert set(ApiClient().post(SESSIONS, body).fields) == {
        "name", "max_in_flight", "on_uncertain", "pacing.min_interval_ms", "pacing.quiet_hours.start",
        "pacing.quiet_hours.end", "pacing.quiet_hours.zone",
    }  # fmt: skip


def test_what_a_client_reads_is_english_whatever_its_browser_speaks() -> None:
    answer = ApiClient().post(SESSIONS, {"name": "alpha", "desired_state": "ruhend"}, Accept_Language="es")
    assert answer["errors"][0]["message"] == "has to be 'active', 'paused' or 'stopped'"
