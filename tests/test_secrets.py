"""Secrets at rest: encrypted in PostgreSQL, in the open only for their transport, never shown to anybody."""

import asyncio
import base64
import logging
import sys
from typing import Any

import pytest
import redis
import structlog
from django.db import connection

from sessions_app.exceptions import InvalidInput, SecretUnreadable, SessionExists
from sessions_app.models import Event, Hold, Outcome, Session, Status, new_id
from sessions_app.queues.dispatch import ClaimedSession
from sessions_app.services import sessions
from sessions_app.transports import registry
from sessions_app.transports.base import Outgoing
from sessions_app.transports.loopback import LoopbackTransport
from sessions_app.transports.sealing import keyring
from sessions_app.transports.waha import WahaTransport
from sessions_app.worker import clock, probes
from sessions_app.worker.fence import Verdict, Waiting
from sessions_app.worker.outcomes import Flight, Settlement
from sessions_app.worker.sender import Sender
from tests.admin_lab import boss, list_url, page_url
from tests.api_client import ApiClient
from tests.factories import ACTOR, submit
from tests.secrets_lab import CONFIG, HOOK, KEY, make_waha, new_key, opened

pytestmark = pytest.mark.django_db

SESSIONS = "/whatsapp/sessions"
# In the row


def test_the_row_holds_ciphertext_and_the_rest_can_be_read() -> None:
    session = make_waha()
    session.refresh_from_db()
    assert session.config["base_url"] == "http://127.0.0.1:1"
    assert session.config["remote_name"] == ""
    assert set(session.config["api_key"]) == set(session.config["webhook_secret"]) == {"encrypted"}
    assert opened(session) == CONFIG | {"remote_name": ""}
    assert make_waha("other").config["api_key"] != session.config["api_key"]


def test_an_empty_secret_stays_empty() -> None:
    assert make_waha(api_key="", webhook_secret="").config["api_key"] == ""


@pytest.mark.django_db(transaction=True)
def test_nothing_that_leaves_or_stays_holds_a_secret(
    redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client, admin = ApiClient(), boss()
    body = {"name": "school", "transport": "waha", "config": CONFIG}
    answers = [
        client.post(SESSIONS, body, **{"Idempotency-Key": "once"}),
        client.post(SESSIONS, body, **{"Idempotency-Key": "once"}),
        client.post(SESSIONS, body),
        client.post(SESSIONS, body | {"config": CONFIG | {"api_key": f"{KEY}-2"}}),
        client.post(SESSIONS, body | {"name": "bad", "config": CONFIG | {"base_url": KEY, "remote_name": 1}}),
        client.post(SESSIONS, body | {"name": "bad", "config": CONFIG | {"api_key": f"{KEY} {HOOK}"}}),
        client.patch(f"{SESSIONS}/school", {"config": {"api_key": KEY}}),
        client.patch(f"{SESSIONS}/school", {"config": {"api_key": KEY + "\n"}}),
        client.get(f"{SESSIONS}/school"),
        client.get(SESSIONS),
        client.get("/whatsapp/queues"),
        client.get("/whatsapp/openapi.json"),
    ]
    assert [answer.status for answer in answers] == [201, 201, 200, 409, 422, 422, 200, 422, 200, 200, 200, 200]
    session = sessions.get("school")
    submit(session, "hello")
    seen = [str(answer.body) for answer in answers]
    pages = [page_url("session", session.pk), f"/admin/sessions_app/session/{session.pk}/settings/", "/admin/"]
    pages += [list_url(model) for model in ("session", "event", "auditentry", "queue")]
    seen += [admin.get(url).content.decode() for url in pages]
    mirrored = [redis_client.dump(key) for key in redis_client.scan_iter()]
    assert mirrored
    seen += [str(value) for value in mirrored]
    seen.append(caplog.text)
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT coalesce(string_agg(t::text, ' '), '') FROM \"{table}\" t")
            seen.append(cursor.fetchone()[0])
    assert len(seen) > 40
    for text in seen:
        assert "sesame" not in text
    # Nor does the ciphertext help anybody.
    token = session.config["api_key"]["encrypted"]
    assert not any(token in text for text in seen[: len(answers) + len(pages)])
    assert opened()["api_key"] == KEY


def test_a_traceback_in_the_log_shows_no_local_variables() -> None:
    formatter = next(
        handler.formatter
        for handler in logging.getLogger().handlers
        if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter)
    )

    def fail(api_key: str) -> None:
        raise RuntimeError("it failed")

    try:
        fail(KEY)
    except RuntimeError:
        record = logging.LogRecord("sessions_app", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())
    shown = formatter.format(record)
    assert "RuntimeError: it failed" in shown and "sesame" not in shown


def test_a_client_cannot_hand_in_what_looks_sealed() -> None:
    for value in ({"encrypted": "gAAAA"}, {"encrypted": keyring().seal("x")["encrypted"]}, 7, None, ["x"]):
        with pytest.raises(InvalidInput) as caught:
            make_waha(api_key=value)
        assert [error["field"] for error in caught.value.errors] == ["config.api_key"]
    # Text that looks like a token is text.
    assert opened(make_waha(api_key="gAAAAAB"))["api_key"] == "gAAAAAB"


# Changes


def test_the_same_session_again_is_the_same_and_another_secret_is_not() -> None:
    make_waha()
    options: dict[str, Any] = {"name": "school", "transport": "waha", "actor": ACTOR}
    session, made = sessions.create(config=CONFIG, **options)
    assert made is None and opened(session)["api_key"] == KEY
    for config in (CONFIG | {"api_key": "other"}, {"base_url": CONFIG["base_url"]}):
        with pytest.raises(SessionExists) as caught:
            sessions.create(config=config, **options)
        assert caught.value.extra["differing"] == ["config"]


def test_a_secret_that_is_not_given_is_kept_and_one_that_is_given_is_changed() -> None:
    session = make_waha()
    changed = sessions.update(session, actor=ACTOR, config={"remote_name": "default"})
    assert opened(changed) == CONFIG | {"remote_name": "default"}
    changed = sessions.update(session, actor=ACTOR, config={"api_key": "another"})
    assert opened(changed) == CONFIG | {"api_key": "another", "remote_name": "default"}
    assert opened(sessions.update(session, actor=ACTOR, config={"api_key": ""}))["api_key"] == ""


def test_where_a_secret_is_sent_changes_only_for_those_who_know_it() -> None:
    session = make_waha()
    elsewhere = {"base_url": "http://127.0.0.1:2"}
    with pytest.raises(InvalidInput) as caught:
        sessions.update(session, actor=ACTOR, config=elsewhere)
    assert caught.value.errors == [
        {"field": "config.api_key", "message": "has to be given again: config.base_url changes"}
    ]
    assert opened(sessions.get("school"))["base_url"] == CONFIG["base_url"]
    assert opened(sessions.update(session, actor=ACTOR, config=elsewhere | {"api_key": KEY}))["api_key"] == KEY
    # Without a secret there is none to give again; and to send another one, or none, is everybody's right.
    without = sessions.update(session, actor=ACTOR, config={"base_url": CONFIG["base_url"], "api_key": ""})
    assert opened(sessions.update(without, actor=ACTOR, config=elsewhere))["base_url"] == elsewhere["base_url"]


def test_the_same_secret_given_again_changes_nothing() -> None:
    session = make_waha()
    before, events = session.config, Event.objects.count()
    assert sessions.update(session, actor=ACTOR, config={"api_key": KEY}).config == before
    assert Event.objects.count() == events
    changed = sessions.update(session, actor=ACTOR, config={"api_key": KEY, "remote_name": "default"})
    assert changed.config == before | {"remote_name": "default"}


# In the admin


def test_in_the_admin_secrets_are_only_written_and_left_empty_they_stay() -> None:
    client = boss()
    pace = {
        "min_interval_ms": "0",
        "max_interval_ms": "0",
        "per_recipient_ms": "0",
        "hourly_cap": "0",
        "daily_cap": "0",
    }
    form = pace | {"quiet_tz": "", "on_uncertain": "hold", "config_base_url": "http://127.0.0.1:1"}
    secrets = {"config_api_key": KEY, "config_webhook_secret": HOOK}
    response = client.post("/admin/sessions_app/session/add/?transport=waha", form | secrets | {"name": "school"})
    assert response.status_code == 302
    session = sessions.get("school")
    assert opened(session) == CONFIG | {"remote_name": ""}
    url = f"/admin/sessions_app/session/{session.pk}/settings/"
    page = client.get(url).content.decode()
    for name in secrets:
        field = page.partition(f'name="{name}"')
        tag = field[0].rpartition("<")[2] + field[1] + field[2].partition(">")[0]
        assert 'type="password"' in tag and "value=" not in tag and "required" not in tag
    assert "Leave it empty to keep the present one." in page
    refused = client.post(url, form | {"config_api_key": "two words"})
    assert "without spaces" in refused.content.decode() and "two words" not in refused.content.decode()
    assert client.post(url, form | {"config_remote_name": "default", "config_api_key": ""}).status_code == 302
    assert opened(session) == CONFIG | {"remote_name": "default"}
    client.post(url, form | {"config_api_key": "new-one"})
    assert opened(session) == CONFIG | {"remote_name": "", "api_key": "new-one"}


# Towards the engine


class Recorder(WahaTransport):
    """Keeps what it is given to send and to probe with."""

    name = "recorder"
    seen: list[dict[str, Any]]

    async def send(self, outgoing: Outgoing) -> str:
        """Keep the settings."""
        type(self).seen.append(outgoing.config)
        return "id"

    async def probe(self, session_name: str, config: dict[str, Any]) -> Any:
        """Keep the settings."""
        type(self).seen.append(config)
        return await super().probe(session_name, config)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """Have a transport that keeps what it is given."""
    monkeypatch.setattr(registry, "_TRANSPORTS", dict(registry._TRANSPORTS))
    registry.register(Recorder)
    Recorder.seen = []
    return Recorder


def hand_over(config: dict[str, Any]) -> Settlement:
    """Send one message as the worker does."""

    async def act() -> Settlement:
        sender, now = Sender(), clock.now()
        flight = Flight(
            token=1, message_id=new_id(), session_id=1, session_name="school", transport="recorder",
            on_uncertain="hold", attempts=1, max_attempts=5, has_more=False, fenced_at=now, deadline=now + 5,
            config=config, content={"to": "+5511987654321", "text": "x"},
        )  # fmt: skip
        settlement = await sender.send(flight)
        await sender.close()
        assert flight.config is config
        return settlement

    return asyncio.run(act())


def test_only_the_transport_gets_secrets_in_the_open(recorder: type[Recorder]) -> None:
    config = make_waha().config
    assert hand_over(config).status == Status.SENT
    waiting = Waiting(ClaimedSession("school", "g", 1), Verdict.HELD, config=config)

    async def ask() -> None:
        transport = Recorder()
        await transport.open()
        await probes.probe(transport, waiting)
        await transport.close()

    asyncio.run(ask())
    assert recorder.seen == [CONFIG | {"remote_name": ""}] * 2
    assert "sesame" not in str(config)


def test_with_a_wrong_key_the_session_is_held_and_told_why(recorder: type[Recorder], settings: Any) -> None:
    settings.WAQUEUE_ENCRYPTION_KEYS = [new_key()]
    config = make_waha().config
    settings.WAQUEUE_ENCRYPTION_KEYS = [new_key()]
    settlement = hand_over(config)
    assert (settlement.outcome, settlement.status, settlement.hold) == (Outcome.REFUSED, Status.QUEUED, Hold.REFUSED)
    assert settlement.refund == 1
    assert "cannot be read with the keys that are set: api_key, webhook_secret" in settlement.error_detail
    assert "WAQUEUE_ENCRYPTION_KEYS" in settlement.error_detail
    assert not recorder.seen
    waiting = Waiting(ClaimedSession("school", "g", 1), Verdict.HELD, config=config)
    observed = asyncio.run(probes.probe(Recorder(), waiting))
    assert observed.state == "failed" and "cannot be read" in observed.reason
    for text in (str(settlement), observed.reason):
        assert config["api_key"]["encrypted"] not in text.replace(str(config), "")


@pytest.mark.parametrize(
    "token", ["", "gAAAA", "ñ", "not a token at all", base64.urlsafe_b64encode(b"\x80" * 80).decode()]
)
def test_a_damaged_secret_is_unreadable_and_no_crash(token: str) -> None:
    session = make_waha()
    Session.objects.filter(pk=session.pk).update(config=session.config | {"api_key": {"encrypted": token}})
    with pytest.raises(SecretUnreadable, match="are set: api_key"):
        opened(session)


def test_a_transport_without_secrets_is_handed_its_row_as_it_is() -> None:
    config = {"delay_ms": 0}
    assert LoopbackTransport.open_config(config) is config


def test_a_secret_is_decrypted_once_however_many_messages_need_it() -> None:
    config = make_waha().config
    before = keyring()._opened.cache_info()
    for _ in range(100):
        WahaTransport.open_config(config)
    after = keyring()._opened.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (2, 198)
