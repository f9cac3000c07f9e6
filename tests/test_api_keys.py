"""API keys: how they are made, what they open, and what is written down about it."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions_app.exceptions import InvalidInput
from sessions_app.models import ApiKey, AuditEntry, Message
from sessions_app.models.api_key import digest
from sessions_app.services import api_keys, sessions
from tests.api_client import ALL, ApiClient
from tests.factories import ACTOR, make_session, submit

pytestmark = pytest.mark.django_db

HELLO = {"to": "+51930246633", "text": "hello"}


def make(name: str = "shop", **given: object) -> tuple[ApiKey, str]:
    options = {"scopes": ["read"], "session_names": [], "expires_at": None, "actor": ACTOR} | given
    return api_keys.create(name=name, **options)  # type: ignore[arg-type]


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("create_api_key", *arguments, stdout=out)
    return out.getvalue()


# Making them.


def test_the_command_prints_the_key_alone_and_it_opens_the_api() -> None:
    make_session("alpha")
    printed = command("local", "--scope", "read", "--scope", "send")
    plain = printed.removesuffix("\n")
    assert plain and "\n" not in plain and " " not in plain
    client = ApiClient(plain=plain)
    assert client.get("/whatsapp/sessions").status == 200
    assert client.post("/whatsapp/sessions/alpha/messages", HELLO).status == 202
    assert client.post("/whatsapp/sessions", {"name": "beta"}).status == 403


def test_the_command_limits_a_key_to_sessions_and_to_days() -> None:
    make_session("alpha")
    make_session("beta")
    before = timezone.now()
    command("local", "--scope", "read", "--session", "alpha", "--expires-days", "30")
    key = ApiKey.objects.get(name="local")
    assert key.is_limited and [session.name for session in key.sessions.all()] == ["alpha"]
    assert key.expires_at is not None
    assert timedelta(days=30) <= key.expires_at - before < timedelta(days=30, minutes=1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["local"], "--scope: at least one is needed"),
        (["local", "--scope", "admin"], "--scope: 'admin' is none; the scopes are: read, send, manage"),
        (["local", "--scope", "read", "--session", "nope"], "--session: there is no session named 'nope'"),
        (["local", "--scope", "read", "--session", "no\0pe"], "--session: there is no session named"),
        (["taken", "--scope", "read"], "NAME: there is a valid key named 'taken'"),
        ([" ", "--scope", "read"], "NAME: has to be 1 to 100 printable characters"),
        (["a\0b", "--scope", "read"], "NAME: has to be 1 to 100 printable characters"),
        (["local", "--scope", "read", "--expires-days", "0"], "'0' is no number of days"),
        (["local", "--scope", "read", "--expires-days", "99999999999"], "is no number of days"),
    ],
)
def test_the_command_says_what_does_not_fit_and_makes_nothing(arguments: list[str], says: str) -> None:
    make("taken")
    with pytest.raises(CommandError, match=says.replace("(", r"\(")):
        command(*arguments)
    assert ApiKey.objects.count() == 1


def test_all_that_does_not_fit_is_said_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        make("", scopes=["x"], session_names=["y"], expires_at=timezone.now() - timedelta(seconds=1))
    assert {error["field"] for error in caught.value.errors} == {"name", "scopes", "sessions", "expires_at"}


def test_a_deleted_session_cannot_be_named() -> None:
    sessions.delete(make_session("alpha"), actor=ACTOR)
    with pytest.raises(InvalidInput):
        make(session_names=["alpha"])


def test_the_name_of_a_revoked_key_is_free_again() -> None:
    api_keys.revoke(make("shop")[0], actor=ACTOR)
    make("shop")
    assert ApiKey.objects.filter(name="shop").count() == 2


def test_only_the_digest_of_a_key_is_kept() -> None:
    make_session("alpha")
    key, plain = make(scopes=list(ALL), session_names=["alpha"])
    assert key.secret_digest == digest(plain)
    secret = plain.split("_")[2]
    with connection.cursor() as cursor:
        for table in ("wa_api_key", "wa_audit_entry"):
            cursor.execute(f"SELECT count(*) FROM {table} t WHERE t::text LIKE %s", [f"%{secret}%"])
            assert cursor.fetchone() == (0,)


def test_making_and_revoking_is_audited_once_each() -> None:
    make_session("alpha")
    key, _ = make("shop", scopes=["send", "read", "read"], session_names=["alpha"])
    made = AuditEntry.objects.get(action="create API key")
    assert made.actor == ACTOR.label and made.target == str(key)
    assert made.data["scopes"] == ["read", "send"] and made.data["sessions"] == ["alpha"]
    first = api_keys.revoke(key, actor=ACTOR)
    again = api_keys.revoke(key, actor=ACTOR)
    assert first.revoked_at is not None and again.revoked_at == first.revoked_at
    assert AuditEntry.objects.filter(action="revoke API key", target=str(key)).count() == 1


# Coming in.


def test_a_key_opens_by_either_header() -> None:
    plain = ApiClient().plain
    without = ApiClient(plain="")
    assert without.get("/whatsapp/sessions", Authorization=f"Bearer {plain}").status == 200
    assert without.get("/whatsapp/sessions", Authorization=f"bearer  {plain}").status == 200
    assert without.get("/whatsapp/sessions", X_Api_Key=plain).status == 200
    # A proxy's own login does not hide the key.
    assert without.get("/whatsapp/sessions", Authorization="Basic Zm9vOmJhcg==", X_Api_Key=plain).status == 200


@pytest.mark.parametrize(
    "plain", ["", "x", "waq_", "waq_a_b_c", "é" * 40, "waq_" + "0" * 8 + "_" + "0" * 64 + "_00000000"]
)
def test_what_is_no_key_is_401_and_says_how_to_bring_one(plain: str) -> None:
    with CaptureQueriesContext(connection) as queries:
        answer = ApiClient(plain="").get("/whatsapp/sessions", X_Api_Key=plain)
    assert answer.status == 401 and answer["code"] == "unauthorized"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert len(queries) == 0


def test_a_key_with_a_wrong_letter_is_401_without_a_look_into_the_database() -> None:
    plain = ApiClient().plain
    wrong = plain[:20] + ("0" if plain[20] != "0" else "1") + plain[21:]
    with CaptureQueriesContext(connection) as queries:
        assert ApiClient(plain=wrong).get("/whatsapp/sessions").status == 401
    assert len(queries) == 0


def test_a_well_formed_key_that_was_never_made_is_401() -> None:
    _, plain = ApiKey.build("never saved", ["read"])
    assert ApiClient(plain=plain).get("/whatsapp/sessions").status == 401


def test_a_revoked_and_an_expired_key_are_401_from_the_next_request_on() -> None:
    for change in ({"revoked_at": timezone.now()}, {"expires_at": timezone.now()}):
        client = ApiClient()
        assert client.get("/whatsapp/sessions").status == 200
        ApiKey.objects.filter(pk=client.key.pk).update(**change)
        answer = client.get("/whatsapp/sessions")
        assert answer.status == 401 and 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


CALLS = [
    ("read", "GET", "/whatsapp/sessions", None),
    ("read", "GET", "/whatsapp/sessions/alpha", None),
    ("read", "GET", "/whatsapp/messages", None),
    ("read", "GET", "/whatsapp/messages/{id}", None),
    ("read", "GET", "/whatsapp/queues", None),
    ("send", "POST", "/whatsapp/sessions/alpha/messages", HELLO),
    ("send", "POST", "/whatsapp/sessions/alpha/send-assistance-report", {"phone": "1234567890", "message": "test"}),
    ("send", "POST", "/whatsapp/messages/{id}/cancel", None),
    ("send", "POST", "/whatsapp/messages/{id}/retry", None),
    ("send", "POST", "/whatsapp/messages/{id}/resolve", {"as": "sent"}),
    ("manage", "POST", "/whatsapp/sessions", {"name": "beta"}),
    ("manage", "PATCH", "/whatsapp/sessions/alpha", {}),
    ("manage", "DELETE", "/whatsapp/sessions/alpha", None),
    *(
        ("manage", "POST", f"/whatsapp/sessions/alpha/{act}", None)
        for act in ("start", "stop", "pause", "resume", "restart")
    ),
]


@pytest.mark.parametrize(("scope", "method", "path", "body"), CALLS)
def test_each_call_needs_its_own_scope_and_no_other(scope: str, method: str, path: str, body: object) -> None:
    (message,) = submit(make_session("alpha"), "hello")
    path = path.format(id=message.pk)
    others = [other for other in ALL if other != scope]
    refused = ApiClient(*others).call(method, path, body)
    assert refused.status == 403 and refused["code"] == "missing_scope" and refused["scope"] == scope
    assert repr(scope) in refused["detail"]
    assert ApiClient(scope).call(method, path, body).status in (200, 201, 202, 409)
    without = ApiClient(plain="").call(method, path, body)
    assert without.status == 401


def test_its_use_is_written_at_most_once_a_minute() -> None:
    client = ApiClient()
    assert client.key is not None and client.key.last_used_at is None
    client.get("/whatsapp/sessions")
    first = ApiKey.objects.get(pk=client.key.pk).last_used_at
    client.get("/whatsapp/sessions")
    assert ApiKey.objects.get(pk=client.key.pk).last_used_at == first
    ApiKey.objects.filter(pk=client.key.pk).update(last_used_at=timezone.now() - timedelta(seconds=61))
    client.get("/whatsapp/sessions")
    later = ApiKey.objects.get(pk=client.key.pk).last_used_at
    assert first is not None and later is not None and later > first


# Keys that are limited to sessions.


@pytest.mark.parametrize(
    ("scope", "method", "path", "body"), [call for call in CALLS if "alpha" in call[2] or "{id}" in call[2]]
)
def test_another_session_is_for_a_limited_key_as_one_that_does_not_exist(
    scope: str, method: str, path: str, body: object
) -> None:
    (message,) = submit(make_session("alpha"), "hello")
    make_session("mine")
    client = ApiClient(sessions=("mine",))
    hidden = client.call(method, path.format(id=message.pk), body)
    absent = client.call(
        method, path.replace("alpha", "absent").format(id="00000000-0000-7000-8000-000000000000"), body
    )
    assert hidden.status == absent.status == 404
    assert hidden["code"] == absent["code"]
    assert Message.objects.count() == 1


def test_a_limited_key_lists_only_what_is_its_own(redis_client) -> None:  # type: ignore[no-untyped-def]
    submit(make_session("alpha"), "hello")
    (mine,) = submit(make_session("mine"), "hello")
    redis_client.sadd("rq:queues", "rq:queue:wa:ghost")
    redis_client.rpush("rq:queue:wa:ghost", "1")
    client = ApiClient(sessions=("mine",))
    assert [item["name"] for item in client.get("/whatsapp/sessions")["items"]] == ["mine"]
    assert [item["id"] for item in client.get("/whatsapp/messages")["items"]] == [str(mine.pk)]
    assert client.get("/whatsapp/messages?session=alpha").status == 404
    queues = client.get("/whatsapp/queues")
    assert [item["queue"] for item in queues["items"]] == ["wa:mine"]
    assert queues["totals"] == {"queued": 1, "in_flight": 0, "orphan_queues": 0, "orphan_messages": 0}


def test_a_limited_key_creates_no_sessions_and_learns_nothing_by_trying() -> None:
    make_session("alpha")
    make_session("mine")
    client = ApiClient(sessions=("mine",))
    answers = [client.post("/whatsapp/sessions", {"name": name}) for name in ("alpha", "mine", "new")]
    assert {(answer.status, answer["code"]) for answer in answers} == {(403, "key_is_limited")}


def test_a_limited_key_does_not_see_a_new_session_of_an_old_name() -> None:
    session = make_session("mine")
    submit(session, "old")
    client = ApiClient(sessions=("mine",))
    sessions.delete(session, actor=ACTOR, unsent="cancel")
    submit(make_session("mine"), "new")
    assert client.get("/whatsapp/sessions/mine").status == 404
    assert [item["text"] for item in client.get("/whatsapp/messages?session=mine")["items"]] == ["old"]
