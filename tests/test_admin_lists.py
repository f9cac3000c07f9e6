"""The lists of the admin: fast however much there is, masked where they must be, helpful where nothing is."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions_app.admin.lists import first_key_of
from sessions_app.models import ApiKey, AuditEntry, Event, LoopbackEntry, Message, Session, Status, Worker, new_id
from tests.admin_lab import boss, list_url, person, text_of
from tests.batch_lab import hand_in
from tests.factories import ACTOR, PHONE, become, hold, make_session, submit

pytestmark = pytest.mark.django_db


def _session(at: int) -> None:
    submit(make_session(f"list-{at}"), "hello")


def _message(at: int) -> None:
    submit(Session.objects.first() or make_session(), f"message {at}", to=f"+5193024{at:04}")


def _batch(at: int) -> None:
    hand_in(Session.objects.first() or make_session(), f"message {at}", "another")


def _worker(at: int) -> None:
    now = timezone.now()
    Worker.objects.create(
        name=f"w{at}", hostname="host", pid=at, concurrency=1, started_at=now, heartbeat_at=now, steady_since=now
    )


def _loopback(at: int) -> None:
    content = {"to": PHONE, "type": "text", "text": f"text {at}"}
    LoopbackEntry.objects.create(
        message_id=new_id(), token=at, session_name="alpha", content=content, outcome="accepted",
        created_at=timezone.now(),
    )  # fmt: skip


def _event(at: int) -> None:
    message = submit(Session.objects.first() or make_session(), f"message {at}")[0]
    Event.objects.create(kind="message.sent", session=message.session, message=message, data={"attempt": at})


def _key(at: int) -> None:
    key, _ = ApiKey.build(f"key {at}", ["read"])
    key.is_limited = True
    key.save()
    key.sessions.add(Session.objects.first() or make_session())


def _audit(at: int) -> None:
    AuditEntry.objects.create(actor="somebody", action="pause session", target=f"s{at}")


LISTS: list[tuple[str, Callable[[int], None]]] = [
    ("session", _session),
    ("message", _message),
    ("batch", _batch),
    ("worker", _worker),
    ("loopbackentry", _loopback),
    ("event", _event),
    ("apikey", _key),
    ("auditentry", _audit),
]


@pytest.mark.parametrize(("model", "make"), LISTS, ids=[name for name, _ in LISTS])
def test_a_list_costs_as_many_queries_for_fifty_rows_as_for_one(model: str, make: Callable[[int], None]) -> None:
    client = boss()
    make(0)
    client.get(list_url(model))
    with CaptureQueriesContext(connection) as one:
        assert client.get(list_url(model)).status_code == 200
    for at in range(1, 50):
        make(at)
    with CaptureQueriesContext(connection) as fifty:
        response = client.get(list_url(model))
    assert len(response.context["cl"].result_list) >= 50
    assert len(fifty) == len(one)
    assert len(one) <= 14


@pytest.mark.parametrize("model", ["message", "loopbackentry", "event", "auditentry"])
def test_a_long_list_is_never_counted(model: str) -> None:
    make = dict(LISTS)[model]
    for at in range(3):
        make(at)
    client = boss()
    with CaptureQueriesContext(connection) as queries:
        client.get(list_url(model))
    table = {"message": "wa_message", "loopbackentry": "wa_loopback_entry", "event": "wa_event"}.get(
        model, "wa_audit_entry"
    )
    assert not [q["sql"] for q in queries if "COUNT(" in q["sql"] and f'FROM "{table}"' in q["sql"]]


@pytest.mark.parametrize(("model", "make"), LISTS, ids=[name for name, _ in LISTS])
def test_an_empty_list_says_what_to_do_first(model: str, make: Callable[[int], None]) -> None:
    client = boss()
    empty = client.get(list_url(model))
    assert str(empty.context["empty_state"]) in text_of(empty).replace("&#x27;", "'")
    make(0)
    assert str(empty.context["empty_state"]) not in text_of(client.get(list_url(model)))


def test_a_search_without_result_offers_everything() -> None:
    _message(0)
    response = boss().get(list_url("message"), {"q": "+34600000000"})
    assert "Nothing matches." in text_of(response)


def test_the_older_pages_hold_each_message_once_newest_first(monkeypatch: Any) -> None:
    from sessions_app.admin.messages import MessageAdmin

    monkeypatch.setattr(MessageAdmin, "list_per_page", 4)
    submit(make_session(), *[f"message {at}" for at in range(10)])
    client, url, seen = boss(), list_url("message"), []
    while url:
        cl = client.get(url).context["cl"]
        seen += [message.pk for message in cl.result_list]
        url = list_url("message") + cl.older_url if cl.older_url else ""
    assert seen == list(Message.objects.order_by("-pk").values_list("pk", flat=True))


def test_the_older_pages_keep_the_filters(monkeypatch: Any) -> None:
    from sessions_app.admin.messages import MessageAdmin

    monkeypatch.setattr(MessageAdmin, "list_per_page", 2)
    alpha, beta = make_session("alpha"), make_session("beta")
    for _ in range(3):
        submit(alpha, "a")
        submit(beta, "b")
    client = boss()
    first = client.get(list_url("message"), {"session": "alpha", "status": "queued"}).context["cl"]
    second = client.get(list_url("message") + first.older_url).context["cl"]
    assert [message.session.name for message in second.result_list] == ["alpha"]
    assert not second.has_more


def test_a_key_that_is_none_begins_at_the_newest() -> None:
    _message(0)
    response = boss().get(list_url("message"), {"before": "nonsense"}, follow=True)
    assert len(response.context["cl"].result_list) == 1


@pytest.mark.parametrize("typed", [PHONE, "51930246633", "+51 930 246-633", "0051930246633"])
def test_a_message_is_found_by_its_phone_however_it_is_typed(typed: str) -> None:
    session = make_session()
    wanted = submit(session, "this one")[0]
    submit(session, "another", to="+51930000000")
    found = boss().get(list_url("message"), {"q": typed}).context["cl"].result_list
    assert [message.pk for message in found] == [wanted.pk]


def test_a_message_is_found_by_its_id_and_by_its_client_reference() -> None:
    session = make_session()
    wanted = submit(session, "this one", client_ref="report 7")[0]
    submit(session, "another", client_ref="report 77")
    client = boss()
    for typed in (str(wanted.pk), wanted.pk.hex, "report 7"):
        found = client.get(list_url("message"), {"q": typed}).context["cl"].result_list
        assert [message.pk for message in found] == [wanted.pk], typed


def test_the_search_uses_the_indexes() -> None:
    session = make_session()
    submit(session, *["x"] * 50)
    from django.contrib import admin

    page: Any = admin.site._registry[Message]
    rows, _ = page.get_search_results(None, Message.objects.order_by("-pk"), PHONE)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_indexscan = off")
    plan = rows.explain()
    assert "wa_message_to" in plan
    assert "wa_message_client_ref" in plan


def test_messages_are_filtered_by_status_session_and_time() -> None:
    alpha = make_session("alpha")
    old, failed, _queued = submit(alpha, "old", "failed", "queued")
    become(failed, Status.FAILED)
    long_ago = first_key_of(timezone.now() - timedelta(days=2))
    Message.objects.filter(pk=old.pk).update(id=long_ago)
    submit(make_session("beta"), "elsewhere")
    client = boss()

    def found(**filters: str) -> set[uuid.UUID]:
        return {message.pk for message in client.get(list_url("message"), filters).context["cl"].result_list}

    assert found(status="failed") == {failed.pk}
    assert long_ago in found(session="alpha")
    assert long_ago not in found(session="alpha", since="24h")
    assert found(session="alpha", since="7d") == found(session="alpha")
    assert found(session="nowhere") == set()


def test_the_first_key_of_a_time_is_the_lowest_that_can_be_made_then() -> None:
    at = timezone.now() - timedelta(seconds=1)
    key = new_id()
    assert first_key_of(at) < key < first_key_of(timezone.now() + timedelta(seconds=1))
    assert first_key_of(at).version == 7


@pytest.mark.parametrize("probe", ["text__startswith", "recipient", "recipient__startswith", "metadata__has_key"])
def test_a_column_that_is_no_filter_cannot_be_probed(probe: str) -> None:
    submit(make_session(), "secret")
    viewer = person("view_message")
    assert viewer.get(list_url("message"), {probe: "s"}).status_code == 400


def test_recipients_and_texts_are_masked_without_the_permission() -> None:
    session = make_session()
    message = submit(session, "a private matter")[0]
    become(message, Status.FAILED, error_detail=f"{PHONE} is not on WhatsApp")
    _loopback(1)
    Event.objects.create(kind="message.failed", session=session, message=message, data={"error": f"no {PHONE}"})
    masked = person("view_message", "view_loopbackentry", "view_event")
    full = person("view_message", "view_loopbackentry", "view_event", "view_message_content")
    for model, secret in (("message", "a private matter"), ("loopbackentry", "text 1"), ("event", PHONE)):
        assert secret in text_of(full.get(list_url(model)))
        seen = text_of(masked.get(list_url(model)))
        assert secret not in seen
        assert PHONE not in seen


def test_the_list_of_sessions_says_its_state_why_it_is_held_and_what_waits() -> None:
    session = make_session("alpha")
    submit(session, "one", "two")
    hold(session, "refused", hold_reason="401 Unauthorized")
    seen = text_of(boss().get(list_url("session")))
    for words in ("held", "the engine refuses this session", "401 Unauthorized", "engine: working"):
        assert words in seen or words == "engine: working"
    assert boss().get(list_url("session")).context["cl"].result_list[0].queue.depth == 2


def test_sessions_are_filtered_by_state_and_deleted_ones_only_shown_when_asked_for() -> None:
    from sessions_app.services import sessions

    for name in ("serving", "paused", "stopped", "held", "deleted"):
        make_session(name)
    by_name = {session.name: session for session in Session.objects.all()}
    sessions.act(by_name["paused"], "pause", actor=ACTOR)
    sessions.act(by_name["stopped"], "stop", actor=ACTOR)
    hold(by_name["held"], "doubt")
    sessions.delete(by_name["deleted"], actor=ACTOR)
    client = boss()

    def found(**filters: str) -> set[str]:
        return {session.name for session in client.get(list_url("session"), filters).context["cl"].result_list}

    assert found() == {"serving", "paused", "stopped", "held"}
    for state in ("serving", "paused", "stopped", "held", "deleted"):
        assert found(state=state) == {state}


def test_the_list_of_sessions_is_there_while_redis_is_not(monkeypatch: Any) -> None:
    import redis

    from sessions_app.queues import inspect

    _session(1)
    nowhere = redis.Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.1)
    monkeypatch.setattr(inspect, "web_client", lambda: nowhere)
    assert "list-1" in text_of(boss().get(list_url("session")))


def test_workers_are_alive_gone_or_stopped() -> None:
    for at in range(3):
        _worker(at)
    now = timezone.now()
    Worker.objects.filter(pid=1).update(heartbeat_at=now - timedelta(minutes=1))
    Worker.objects.filter(pid=2).update(stopped_at=now)
    client = boss()
    seen = text_of(client.get(list_url("worker")))
    for words in ("alive", "gone without a word", "stopped in order"):
        assert words in seen
    gone = client.get(list_url("worker"), {"state": "gone"}).context["cl"].result_list
    assert [worker.pid for worker in gone] == [1]


@pytest.mark.parametrize("model", ["worker", "loopbackentry", "event", "auditentry", "apikey"])
def test_a_row_without_a_page_has_no_address(model: str) -> None:
    dict(LISTS)[model](1)
    from django.apps import apps

    row = apps.get_model("sessions_app", model).objects.first()
    for tail in (f"{row.pk}/change/", f"{row.pk}/delete/", f"{row.pk}/history/"):
        assert boss().get(list_url(model) + tail).status_code == 404


@pytest.mark.parametrize("model", ["worker", "loopbackentry", "event", "auditentry", "message"])
def test_rows_are_neither_added_nor_deleted_by_hand(model: str) -> None:
    client = boss()
    assert client.get(list_url(model) + "add/").status_code in (403, 404)
    assert client.post(list_url(model) + "add/", {}).status_code in (403, 404)
    if model == "message":
        key = submit(make_session(), "x")[0].pk
        assert client.post(list_url(model) + f"{key}/delete/", {"post": "yes"}).status_code == 403
        assert client.post(list_url(model) + f"{key}/change/", {"text": "y"}).status_code == 405


def test_the_audit_is_searched_and_filtered_by_time() -> None:
    _audit(1)
    _audit(2)
    AuditEntry.objects.filter(target="s2").update(created_at=timezone.now() - timedelta(days=3))
    client = boss()
    found = client.get(list_url("auditentry"), {"q": "s1"}).context["cl"].result_list
    assert [entry.target for entry in found] == ["s1"]
    recent = client.get(list_url("auditentry"), {"since": "24h"}).context["cl"].result_list
    assert [entry.target for entry in recent] == ["s1"]
