"""Sessions in the admin: added, changed and deleted through the services, errors beside their own fields."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from sessions_app.models import Message, ObservedState, OnUncertain, Session, Status, Worker
from sessions_app.transports import registry
from sessions_app.transports.base import ConfigField, Observation, Outgoing, Transport
from tests.admin_lab import audited, boss, list_url, page_url, person, text_of
from tests.factories import fly, hold, make_session, submit

pytestmark = pytest.mark.django_db

ADD = "/admin/sessions_app/session/add/"
LOOPBACK = f"{ADD}?transport=loopback"
FORM = {
    "name": "ventas",
    "min_interval_ms": "0",
    "max_interval_ms": "0",
    "per_recipient_ms": "0",
    "hourly_cap": "0",
    "daily_cap": "0",
    "quiet_start": "",
    "quiet_end": "",
    "quiet_tz": "",
    "on_uncertain": "hold",
    "config_delay_ms": "0",
    "config_fail_rate": "0",
    "config_fail_as": "rejected",
}


class SecretiveTransport(Transport):
    """An engine that needs a secret."""

    name: ClassVar[str] = "secretive"
    title: ClassVar[str] = "Secretive engine"
    fields: ClassVar[tuple[ConfigField, ...]] = (
        ConfigField("base_url", "the address of the engine <b>bold</b>", required=True),
        ConfigField("api_key", "its key", required=True, secret=True),
    )
    default_pacing: ClassVar[dict[str, int]] = {"min_interval_ms": 3000, "max_interval_ms": 9000}

    async def send(self, outgoing: Outgoing) -> str:
        """Never called here."""
        raise NotImplementedError

    async def probe(self, session_name: str, config: dict[str, Any]) -> Observation:
        """Never called here."""
        return Observation(ObservedState.WORKING)


@pytest.fixture
def secretive() -> Iterator[type[Transport]]:
    """Have a second transport."""
    registry.register(SecretiveTransport)
    yield SecretiveTransport
    registry._TRANSPORTS.pop(SecretiveTransport.name)


def settings_url(session: Session) -> str:
    return reverse("admin:sessions_app_session_settings", args=[session.pk])


def delete_url(session: Session) -> str:
    return reverse("admin:sessions_app_session_delete", args=[session.pk])


def errors(response: Any) -> dict[str, list[str]]:
    return dict(response.context["form"].errors)


def test_a_session_is_added_through_the_service() -> None:
    client = boss()
    form = FORM | {
        "min_interval_ms": "2000",
        "max_interval_ms": "5000",
        "config_delay_ms": "250",
        "quiet_tz": "America/Lima",
    }
    response = client.post(LOOPBACK, form | {"quiet_start": "21:00", "quiet_end": "07:00"}, follow=True)
    session = Session.objects.get(name="ventas")
    assert response.redirect_chain[0][0] == page_url("session", session.pk)
    assert "The session ventas was added." in text_of(response)
    assert (session.min_interval_ms, session.max_interval_ms, session.quiet_tz) == (2000, 5000, "America/Lima")
    assert session.config == {"delay_ms": 250, "fail_rate": 0.0, "fail_as": "rejected"}
    assert [entry[1:] for entry in audited()] == [("create session", "ventas")]


def test_a_session_may_begin_paused() -> None:
    boss().post(LOOPBACK, FORM | {"start_paused": "on"})
    assert Session.objects.get(name="ventas").desired_state == "paused"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "con espacio"}, "name"),
        ({"name": ""}, "name"),
        ({"min_interval_ms": "999999999", "max_interval_ms": "999999999"}, "min_interval_ms"),
        ({"min_interval_ms": "2000", "max_interval_ms": "1000"}, "max_interval_ms"),
        ({"hourly_cap": "99999999"}, "hourly_cap"),
        ({"quiet_start": "21:00"}, "quiet_end"),
        ({"quiet_start": "21:00", "quiet_end": "21:00"}, "quiet_end"),
        ({"quiet_tz": "Mars/Olympus"}, "quiet_tz"),
        ({"config_delay_ms": "-1"}, "config_delay_ms"),
        ({"config_fail_rate": "2"}, "config_fail_rate"),
        ({"config_fail_as": "nonsense"}, "config_fail_as"),
        ({"on_uncertain": "nonsense"}, "on_uncertain"),
    ],
)
def test_what_does_not_fit_is_told_beside_its_field(change: dict[str, str], field: str) -> None:
    response = boss().post(LOOPBACK, FORM | change)
    assert response.status_code == 200
    assert list(errors(response)) == [field] or field in errors(response)
    assert not Session.objects.exists()
    assert not audited()


def test_what_only_the_service_refuses_is_told_beside_its_field(monkeypatch: Any) -> None:
    from sessions_app.admin import sessions as page
    from sessions_app.exceptions import InvalidInput

    def refuse(**kwargs: Any) -> None:
        raise InvalidInput(
            [
                {"field": "config.delay_ms", "message": "is too much for this engine"},
                {"field": "pacing.hourly_cap", "message": "0 (no cap) to 1000000 messages"},
                {"field": "max_in_flight", "message": "1 to 1"},
            ]
        )

    monkeypatch.setattr(page.service, "create", refuse)
    found = errors(boss().post(LOOPBACK, FORM))
    assert found["config_delay_ms"] == ["is too much for this engine"]
    assert found["hourly_cap"] == ["A million at most."]
    assert found["__all__"] == ["max_in_flight: 1 to 1"]


def test_a_name_that_is_taken_is_told_beside_the_name() -> None:
    make_session("ventas", config={"delay_ms": 7})
    response = boss().post(LOOPBACK, FORM)
    assert "There is a session of that name already." in str(errors(response)["name"])


def test_with_several_transports_one_is_chosen_first_and_brings_its_own_fields(secretive: type[Transport]) -> None:
    client = boss()
    first = client.get(ADD, {"name": "ventas"})
    assert "Secretive engine" in text_of(first)
    assert b"config_" not in first.content
    assert b'href="?transport=secretive&amp;name=ventas"' in first.content
    second = client.get(ADD, {"transport": "secretive"})
    assert b'name="config_api_key"' in second.content
    assert b"config_delay_ms" not in second.content
    assert b"<b>bold</b>" not in second.content
    assert second.context["form"]["min_interval_ms"].value() == 3000


def test_a_secret_goes_in_and_never_comes_out_again(secretive: type[Transport]) -> None:
    client, secret = boss(), "s3cret-of-the-engine"
    form = {name: value for name, value in FORM.items() if not name.startswith("config_")}
    form |= {"config_base_url": "https://engine.example", "config_api_key": secret}
    client.post(f"{ADD}?transport=secretive", form)
    session = Session.objects.get(name="ventas")
    assert SecretiveTransport.open_config(session.config)["api_key"] == secret
    for url in (page_url("session", session.pk), settings_url(session), list_url("session")):
        assert secret not in client.get(url).content.decode()
    client.post(settings_url(session), form | {"config_api_key": "", "config_base_url": "https://other.example"})
    session.refresh_from_db()
    kept = SecretiveTransport.open_config(session.config)
    assert kept == {"base_url": "https://other.example", "api_key": secret}
    assert all(secret not in str(entry) for entry in audited())


def test_settings_are_changed_and_name_and_transport_stay() -> None:
    session = make_session("alpha")
    client = boss()
    assert b'name="name"' not in client.get(settings_url(session)).content
    form = FORM | {"name": "beta", "transport": "other", "hourly_cap": "20", "on_uncertain": "hold_session"}
    response = client.post(settings_url(session), form, follow=True)
    assert "The settings of alpha were saved." in text_of(response)
    session.refresh_from_db()
    assert (session.name, session.transport, session.hourly_cap) == ("alpha", "loopback", 20)
    assert session.on_uncertain == OnUncertain.HOLD_SESSION
    assert [entry[1:] for entry in audited()] == [("change session", "alpha")]


def test_settings_that_do_not_fit_change_nothing() -> None:
    session = make_session("alpha")
    response = boss().post(settings_url(session), FORM | {"min_interval_ms": "9", "max_interval_ms": "1"})
    assert "max_interval_ms" in errors(response)
    session.refresh_from_db()
    assert session.min_interval_ms == 0


def test_a_session_is_deleted_after_its_unsent_messages_are_counted() -> None:
    session = make_session("alpha")
    submit(session, "one", "two")
    client = boss()
    assert "2 messages are not sent yet." in text_of(client.get(delete_url(session)))
    refused = client.post(delete_url(session), {"unsent": "refuse", "expected": "2"})
    assert "It was not deleted" in text_of(refused)
    assert Session.objects.alive().exists()
    gone = client.post(delete_url(session), {"unsent": "cancel", "expected": "2"}, follow=True)
    assert "Messages cancelled with it: 2." in text_of(gone)
    assert not Session.objects.alive().exists()
    assert set(Message.objects.values_list("status", flat=True)) == {Status.CANCELLED}
    assert [entry[1:] for entry in audited()] == [("delete session", "alpha")]


def test_deleting_counts_again_before_it_cancels() -> None:
    session = make_session("alpha")
    submit(session, "one")
    client = boss()
    client.get(delete_url(session))
    submit(session, "two")
    response = client.post(delete_url(session), {"unsent": "cancel", "expected": "1"})
    assert "The number of unsent messages has changed" in text_of(response)
    assert "2 messages are not sent yet." in text_of(response)
    assert Session.objects.alive().exists()


def test_a_session_with_a_message_on_its_way_is_not_deleted() -> None:
    session = make_session("alpha")
    fly(submit(session, "one")[0])
    client = boss()
    assert "on its way just now" in text_of(client.get(delete_url(session)))
    client.post(delete_url(session), {"unsent": "cancel", "expected": "1"})
    assert Session.objects.alive().exists()


def test_a_deleted_session_is_history_that_nobody_changes() -> None:
    from sessions_app.services import sessions
    from tests.factories import ACTOR

    session = make_session("alpha")
    sessions.delete(session, actor=ACTOR)
    client = boss()
    seen = client.get(page_url("session", session.pk))
    assert "It was deleted. Its history is kept." in text_of(seen)
    assert "wa-buttons" not in seen.content.decode()
    assert client.get(settings_url(session)).status_code == 403
    assert client.post(delete_url(session), {"unsent": "cancel", "expected": "0"}).status_code == 403


@pytest.mark.parametrize(
    ("permission", "url"), [("add_session", "add"), ("change_session", "settings"), ("delete_session", "delete")]
)
def test_adding_changing_and_deleting_need_their_own_permission(permission: str, url: str) -> None:
    session = make_session("alpha")
    all_of_them = {"view_session", "operate_session", "add_session", "change_session", "delete_session"}
    without, address = person(*(all_of_them - {permission})), f"/admin/sessions_app/session/{session.pk}/{url}/"
    if url == "add":
        address = ADD
    assert without.get(address).status_code == 403
    assert without.post(address, FORM).status_code == 403
    assert address not in without.get(page_url("session", session.pk)).content.decode()
    assert address not in without.get(list_url("session")).content.decode()
    assert person("view_session", permission).get(address).status_code == 200


def test_a_post_to_the_page_of_a_session_does_nothing() -> None:
    session = make_session("alpha")
    assert boss().post(page_url("session", session.pk), FORM).status_code == 405


def test_whoever_may_not_see_sessions_sees_none() -> None:
    session = make_session("alpha")
    client = person("view_message")
    for url in (list_url("session"), page_url("session", session.pk)):
        assert client.get(url).status_code == 403
    assert Client().get(page_url("session", session.pk)).status_code == 302


@pytest.mark.parametrize("key", ["0", "999999", "nonsense"])
def test_a_session_that_is_not_there_is_not_found(key: str) -> None:
    assert boss().get(f"/admin/sessions_app/session/{key}/change/").status_code == 404


def _alive_worker() -> None:
    now = timezone.now()
    Worker.objects.create(
        name="w", hostname="h", pid=1, concurrency=1, started_at=now, heartbeat_at=now, steady_since=now
    )


def test_the_page_says_why_a_session_does_not_send() -> None:
    session = make_session("alpha")
    submit(session, "one")
    client = boss()
    url = page_url("session", session.pk)
    assert "No worker is running" in text_of(client.get(url))
    _alive_worker()
    assert "Why it does not send" not in text_of(client.get(url))
    Message.objects.update(next_attempt_at=timezone.now() + timezone.timedelta(minutes=5))
    assert "Its first message waits for another attempt" in text_of(client.get(url))
    session.dispatch.next_send_at = timezone.now() + timezone.timedelta(minutes=5)
    session.dispatch.save()
    assert "It keeps its pace." in text_of(client.get(url))
    now = timezone.now()
    session.dispatch.quiet_from, session.dispatch.quiet_until = now, now + timezone.timedelta(hours=1)
    session.dispatch.save()
    assert "These are its quiet hours." in text_of(client.get(url))
    for why, said in (
        ("not_connected", "It is not connected to WhatsApp."),
        ("doubt", "Two messages in a row ended uncertain"),
        ("uncertain", "Say what became of that message."),
        ("refused", "Its engine refuses it"),
    ):
        hold(session, why, hold_reason="the cable is cut")
        seen = text_of(client.get(url))
        assert said in seen
        assert "The engine said: the cable is cut" in seen
    for state, said in (("paused", "Somebody paused it."), ("stopped", "Somebody stopped it.")):
        Session.objects.update(desired_state=state)
        assert said in text_of(client.get(url))


def test_the_page_says_what_its_engine_says() -> None:
    session = make_session("alpha")
    Session.objects.update(observed_state="needs_pairing", observed_reason="scan the code")
    assert "Its engine says: needs pairing (scan the code)." in text_of(boss().get(page_url("session", session.pk)))


def test_the_page_shows_the_last_messages_and_events_only_to_whom_they_are_shown() -> None:
    session = make_session("alpha")
    message = submit(session, "a private matter")[0]
    seen = boss().get(page_url("session", session.pk))
    assert page_url("message", message.pk) in seen.content.decode()
    assert "a private matter" in text_of(seen)
    assert "Session created" in text_of(seen)
    masked = text_of(person("view_session", "view_message").get(page_url("session", session.pk)))
    assert "a private matter" not in masked
    assert "Last events" not in masked
    assert "Last messages" not in text_of(person("view_session").get(page_url("session", session.pk)))
