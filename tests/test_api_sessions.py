"""Sessions over the API: made, shown, changed, paused and deleted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from sessions_app.models import AuditEntry, Event, Hold, Message, Session, SessionDispatch, Status
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from sessions_app.transports import registry
from sessions_app.transports.base import ConfigField
from sessions_app.transports.loopback import LoopbackTransport
from tests.api_client import ApiClient
from tests.factories import ACTOR, at_once, fly, hold, make_session, submit

pytestmark = pytest.mark.django_db

SESSIONS = "/whatsapp/sessions"
NO_PACING = {
    "min_interval_ms": 0, "max_interval_ms": 0, "per_recipient_ms": 0, "hourly_cap": 0, "daily_cap": 0,
    "quiet_hours": None,
}  # fmt: skip
NIGHT = {"start": "21:00", "end": "07:00", "tz": "America/Lima"}


class SecretiveTransport(LoopbackTransport):
    """A transport with a secret and with a pacing of its own."""

    name = "secretive"
    fields = (
        ConfigField("base_url", "where the engine is", required=True),
        ConfigField("api_key", "its key", secret=True),
    )
    default_pacing = {"min_interval_ms": 1000, "max_interval_ms": 3000}  # noqa: RUF012


@pytest.fixture
def secretive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one more transport, for this test alone."""
    monkeypatch.setattr(registry, "_TRANSPORTS", dict(registry._TRANSPORTS))
    registry.register(SecretiveTransport)


# Making them.


def test_the_incidents_own_call_makes_a_session() -> None:
    before = timezone.now() - timedelta(milliseconds=1)
    answer = ApiClient().post(SESSIONS, {"name": "test-session"})
    assert answer.status == 201
    made = answer.body
    for name in ("created_at", "updated_at"):
        assert made[name].endswith("Z") and before <= datetime.fromisoformat(made.pop(name)) <= timezone.now()
    assert made == {
        "name": "test-session", "transport": "loopback",
        "config": {"delay_ms": 0, "fail_rate": 0.0, "fail_as": "rejected"},
        "desired_state": "active", "observed_state": "working", "observed_reason": None, "phone": None,
        "pacing": NO_PACING, "on_uncertain": "hold", "max_in_flight": 1, "depth": 0, "in_flight": 0,
        "oldest_queued_at": None, "next_due_at": None, "last_sent_at": None,
    }  # fmt: skip


def test_everything_that_is_given_is_kept() -> None:
    given = {
        "name": "a.B_9-z", "transport": "loopback", "config": {"delay_ms": 20, "fail_rate": 0.5},
        "on_uncertain": "resend", "max_in_flight": 1, "desired_state": "paused",
        "pacing": {
            "min_interval_ms": 10, "max_interval_ms": 20, "per_recipient_ms": 30, "hourly_cap": 40, "daily_cap": 50,
            "quiet_hours": NIGHT,
        },
    }  # fmt: skip
    client = ApiClient()
    made = client.post(SESSIONS, given)
    assert made.status == 201
    shown = client.get(f"{SESSIONS}/a.B_9-z").body
    assert shown == made.body
    assert shown["config"] == given["config"] | {"fail_as": "rejected"}  # type: ignore[operator]
    assert {name: shown[name] for name in given if name != "config"} == {
        name: value for name, value in given.items() if name != "config"
    }


def test_the_same_again_is_200_and_makes_nothing() -> None:
    client = ApiClient()
    first = client.post(SESSIONS, {"name": "alpha", "pacing": {"quiet_hours": {"start": "21:00", "end": "07:00"}}})
    again = client.post(SESSIONS, {"name": "alpha", "pacing": {"quiet_hours": {"start": "21:00:00", "end": "07:00"}}})
    assert (first.status, again.status) == (201, 200)
    assert again.body == first.body
    assert Session.objects.count() == 1 and AuditEntry.objects.filter(action="create session").count() == 1


def test_another_of_the_same_name_is_409_and_says_in_what_it_differs() -> None:
    client = ApiClient()
    client.post(SESSIONS, {"name": "alpha"})
    answer = client.post(SESSIONS, {"name": "alpha", "on_uncertain": "resend"})
    assert answer.status == 409 and answer["code"] == "session_exists" and answer["differing"] == ["on_uncertain"]


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "ñ", "a\n", "a" * 65, " a"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    assert ApiClient().post(SESSIONS, {"name": name}).fields == ["name"]


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-d", "a" * 64])
def test_a_name_that_is_one_is_taken(name: str) -> None:
    assert ApiClient().post(SESSIONS, {"name": name})["name"] == name


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"transport": "pigeon"}, "transport"),
        ({"config": {"delay_ms": "soon"}}, "config.delay_ms"),
        ({"config": {"delay_ms": 1e18}}, "config.delay_ms"),
        ({"config": {"fail_rate": 2}}, "config.fail_rate"),
        ({"config": []}, "config"),
        ({"config": None}, "config"),
        ({"config": {"fail_as": "x" * 20_000}}, "config"),
        ({"on_uncertain": "guess"}, "on_uncertain"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"max_in_flight": 2}, "max_in_flight"),
        ({"max_in_flight": 10**20}, "max_in_flight"),
        ({"max_in_flight": True}, "max_in_flight"),
        ({"desired_state": "asleep"}, "desired_state"),
        ({"pacing": []}, "pacing"),
        ({"pacing": {"min_interval_ms": -1}}, "pacing.min_interval_ms"),
        ({"pacing": {"min_interval_ms": "10"}}, "pacing.min_interval_ms"),
        ({"pacing": {"min_interval_ms": 20, "max_interval_ms": 10}}, "pacing.max_interval_ms"),
        ({"pacing": {"per_recipient_ms": 10**12}}, "pacing.per_recipient_ms"),
        ({"pacing": {"hourly_cap": 10**20}}, "pacing.hourly_cap"),
        ({"pacing": {"daily_cap": 1.5}}, "pacing.daily_cap"),
        ({"pacing": {"daily_cap": None}}, "pacing.daily_cap"),
        ({"pacing": {"quiet_hours": {"start": "21:00"}}}, "pacing.quiet_hours.end"),
        ({"pacing": {"quiet_hours": {"start": "24:00", "end": "07:00"}}}, "pacing.quiet_hours.start"),
        ({"pacing": {"quiet_hours": {"start": 21, "end": "07:00"}}}, "pacing.quiet_hours.start"),
        ({"pacing": {"quiet_hours": {"start": "21:00", "end": "21:00"}}}, "pacing.quiet_hours"),
        ({"pacing": {"quiet_hours": NIGHT | {"tz": "Mars/Olympus"}}}, "pacing.quiet_hours.tz"),
        ({"pacing": {"quiet_hours": NIGHT | {"tz": "../../etc/passwd"}}}, "pacing.quiet_hours.tz"),
        ({"pacing": {"quiet_hours": NIGHT | {"tz": ""}}}, "pacing.quiet_hours.tz"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(given: dict[str, Any], field: str) -> None:
    client = ApiClient()
    assert client.post(SESSIONS, {"name": "alpha"} | given).fields == [field]
    assert not Session.objects.exists()
    make_session("alpha")
    if "transport" not in given:
        assert client.patch(f"{SESSIONS}/alpha", given).fields == [field]


def test_what_is_secret_goes_in_and_never_comes_out(secretive: None) -> None:
    client = ApiClient()
    config = {"base_url": "https://engine.example", "api_key": "sesame-open"}
    made = client.post(SESSIONS, {"name": "alpha", "transport": "secretive", "config": config})
    assert made.status == 201 and made["config"] == {"base_url": "https://engine.example"}
    changed = client.patch(f"{SESSIONS}/alpha", {"config": {"base_url": "https://other.example"}})
    assert changed["config"] == {"base_url": "https://other.example"}
    kept = SecretiveTransport.open_config(Session.objects.get().config)
    assert kept == {"base_url": "https://other.example", "api_key": "sesame-open"}
    everything = [client.get(path).body for path in (SESSIONS, f"{SESSIONS}/alpha", "/whatsapp/queues")]
    everything += [
        list(Event.objects.values_list("data", flat=True)),
        list(AuditEntry.objects.values_list("data", flat=True)),
    ]
    assert "sesame" not in str(everything)
    clash = client.post(
        SESSIONS, {"name": "alpha", "transport": "secretive", "config": config | {"api_key": "sesame-shut"}}
    )
    assert clash.status == 409 and "sesame" not in str(clash.body)
    assert client.post(SESSIONS, {"name": "beta", "transport": "secretive"}).fields == ["config.base_url"]


def test_what_is_not_given_of_the_pacing_is_as_the_transport_recommends(secretive: None) -> None:
    client = ApiClient()
    base = {"transport": "secretive", "config": {"base_url": "x"}}
    assert client.post(SESSIONS, {"name": "a", **base})["pacing"] == NO_PACING | SecretiveTransport.default_pacing
    made = client.post(SESSIONS, {"name": "b", **base, "pacing": {"max_interval_ms": 9000}})
    assert made["pacing"] == NO_PACING | {"min_interval_ms": 1000, "max_interval_ms": 9000}


# Showing them.


def test_a_session_shows_what_its_queue_does() -> None:
    session = make_session("alpha")
    first, _, last = submit(session, "one", "two", "three")
    fly(first)
    Message.objects.filter(pk=last.pk).update(status=Status.SENT)
    sent_at = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    SessionDispatch.objects.filter(session=session).update(last_sent_at=sent_at)
    shown = ApiClient().get(f"{SESSIONS}/alpha")
    assert (shown["depth"], shown["in_flight"]) == (2, 1)
    assert shown["last_sent_at"] == "2026-01-02T03:04:05.678Z"
    assert abs(datetime.fromisoformat(shown["oldest_queued_at"]) - first.created_at) < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("observed", "why", "reason"),
    [
        ("", "the token is wrong", "held (refused): the token is wrong"),
        ("the token is wrong", "the token is wrong", "the token is wrong; held (refused)"),
        ("scan the code", "", "scan the code; held (refused)"),
    ],
)
def test_the_reason_says_why_it_is_held_too(observed: str, why: str, reason: str) -> None:
    session = make_session("alpha")
    Session.objects.filter(pk=session.pk).update(observed_reason=observed)
    hold(session, Hold.REFUSED, hold_reason=why)
    assert ApiClient().get(f"{SESSIONS}/alpha")["observed_reason"] == reason


# Changing them.


def test_a_change_touches_what_is_given_and_nothing_else() -> None:
    client = ApiClient()
    pacing = {"min_interval_ms": 10, "max_interval_ms": 20, "quiet_hours": NIGHT}
    before = client.post(SESSIONS, {"name": "alpha", "pacing": pacing, "config": {"delay_ms": 5}}).body
    path = f"{SESSIONS}/alpha"
    expected = dict(before)

    def change(given: dict[str, Any], **different: Any) -> None:
        answer = client.patch(path, given)
        assert answer.status == 200
        expected.update(different, updated_at=answer["updated_at"])
        assert answer.body == expected == client.get(path).body

    change({})
    change({"pacing": {"hourly_cap": 7}}, pacing=before["pacing"] | {"hourly_cap": 7})
    change({"pacing": {"quiet_hours": None}}, pacing=before["pacing"] | {"hourly_cap": 7, "quiet_hours": None})
    change({"config": {"fail_rate": 0.5}}, config=before["config"] | {"fail_rate": 0.5})
    change({"on_uncertain": "hold_session"}, on_uncertain="hold_session")
    change({"desired_state": "paused"}, desired_state="paused")
    change({"max_in_flight": 1})


@pytest.mark.parametrize("field", ["config", "pacing", "on_uncertain", "max_in_flight", "desired_state"])
def test_null_is_no_change_and_is_refused(field: str) -> None:
    make_session("alpha")
    assert ApiClient().patch(f"{SESSIONS}/alpha", {field: None}).fields == [field]


def test_a_change_is_refused_against_what_is_there_already() -> None:
    make_session("alpha", pacing=Pacing(min_interval_ms=100, max_interval_ms=200))
    answer = ApiClient().patch(f"{SESSIONS}/alpha", {"pacing": {"max_interval_ms": 50}})
    assert answer.fields == ["pacing.max_interval_ms"]


@pytest.mark.django_db(transaction=True)
def test_two_changes_of_different_members_at_once_both_hold() -> None:
    make_session("alpha")
    clients = [ApiClient() for _ in range(5)]
    members = ["per_recipient_ms", "hourly_cap", "daily_cap", "max_interval_ms", "quiet_hours"]
    values = [1, 2, 3, 4, NIGHT]
    answers = at_once(
        *(
            lambda client=client, member=member, value=value: client.patch(
                f"{SESSIONS}/alpha", {"pacing": {member: value}}
            )
            for client, member, value in zip(clients, members, values, strict=True)
        )
    )
    assert [answer.status for answer in answers] == [200] * 5
    assert clients[0].get(f"{SESSIONS}/alpha")["pacing"] == NO_PACING | dict(zip(members, values, strict=True))


@pytest.mark.parametrize(
    ("act", "state", "observed"),
    [
        ("start", "active", "working"), ("stop", "stopped", "stopped"), ("pause", "paused", "working"),
        ("resume", "active", "working"), ("restart", "active", "working"),
    ],
)  # fmt: skip
def test_each_act_is_202_with_the_session_as_it_is_then(act: str, state: str, observed: str) -> None:
    hold(make_session("alpha"), Hold.REFUSED)
    client = ApiClient()
    answer = client.post(f"{SESSIONS}/alpha/{act}")
    assert answer.status == 202
    assert (answer["desired_state"], answer["observed_state"]) == (state, observed)
    assert (answer["observed_reason"] is None) == (state == "active")
    assert AuditEntry.objects.get(action=f"{act} session").actor == f"key {client.key}"


# Deleting them.


def test_an_empty_session_is_deleted_and_its_name_is_free() -> None:
    make_session("alpha")
    client = ApiClient()
    answer = client.delete(f"{SESSIONS}/alpha")
    assert (answer.status, answer.body) == (200, {"session": "alpha", "cancelled": 0, "uncertain": 0, "orphaned": 0})
    assert client.get(f"{SESSIONS}/alpha").status == 404
    assert client.get(SESSIONS)["items"] == []
    assert client.post(SESSIONS, {"name": "alpha"}).status == 201


@pytest.mark.parametrize("query", ["", "?unsent=refuse"])
def test_a_session_with_unsent_messages_is_not_deleted_unless_asked_so(query: str) -> None:
    submit(make_session("alpha"), "one", "two")
    client = ApiClient()
    refused = client.delete(f"{SESSIONS}/alpha{query}")
    assert refused.status == 409 and refused["code"] == "session_has_unsent_messages" and refused["unsent"] == 2
    assert client.delete(f"{SESSIONS}/alpha?unsent=orphans").fields == ["unsent"]
    assert client.get(f"{SESSIONS}/alpha").status == 200
    done = client.delete(f"{SESSIONS}/alpha?unsent=cancel")
    assert (done.status, done.body) == (200, {"session": "alpha", "cancelled": 2, "uncertain": 0, "orphaned": 0})
    assert {item["status"] for item in client.get("/whatsapp/messages?session=alpha")["items"]} == {"cancelled"}


def test_an_act_on_a_session_that_was_deleted_is_404() -> None:
    sessions.delete(make_session("alpha"), actor=ACTOR)
    client = ApiClient()
    for path in ("start", "stop", "pause", "resume", "restart"):
        assert client.post(f"{SESSIONS}/alpha/{path}")["code"] == "session_not_found"
    assert client.delete(f"{SESSIONS}/alpha")["code"] == "session_not_found"
    assert client.patch(f"{SESSIONS}/alpha", {})["code"] == "session_not_found"
