"""Pages of single rows, and what holds on every page: nothing inline, nothing unescaped."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from sessions_app.models import (
    Attempt,
    AuditEntry,
    Event,
    EventKind,
    LoopbackEntry,
    Message,
    Session,
    Status,
    Worker,
    new_id,
)
from sessions_app.services import messages
from tests.admin_lab import act_url, boss, confirm, inline_parts, list_url, page_url, person, text_of
from tests.factories import ACTOR, PHONE, become, hold, make_session, submit

pytestmark = pytest.mark.django_db

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"


def _attempt(message: Message, token: int, **fields: Any) -> Attempt:
    now = timezone.now()
    values: dict[str, Any] = {"outcome": "sent", "number": 1, "worker_id": new_id()} | fields
    return Attempt.objects.create(
        token=token, message=message, session=message.session, fenced_at=now, finished_at=now, **values
    )


# Committed as in life: an event's time is that of its transaction.
@pytest.mark.django_db(transaction=True)
def test_the_time_line_tells_all_that_happened_in_order() -> None:
    now = timezone.now()
    worker = Worker.objects.create(
        name="worker one", hostname="h", pid=1, concurrency=1, started_at=now, heartbeat_at=now, steady_since=now
    )
    message = submit(make_session(), "hello")[0]
    _attempt(message, 1, outcome="retry", error_code="503", error_detail="busy", worker_id=worker.pk)
    _attempt(message, 2, number=2, outcome="uncertain", error_detail="no answer", late_outcome="sent")
    become(message, Status.UNCERTAIN, attempts=2)
    client = boss()
    confirm(client, "message", "arrived", message.pk)
    seen = text_of(client.get(page_url("message", message.pk))).partition("Time line")[2]
    line = [
        "Message queued", "Attempt 1", "refused for now", "Error code: 503", "Engine said: busy", "worker one",
        "Attempt 2", "nobody knows", "Heard too late, as evidence: accepted", "Uncertain message resolved", "person-0",
    ]  # fmt: skip
    at = [seen.find(words) for words in line]
    assert -1 not in at, line[at.index(-1)]
    assert at == sorted(at)


def test_the_page_of_a_message_costs_as_many_queries_for_ten_attempts_as_for_one(
    django_assert_num_queries: Any,
) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    message = submit(make_session(), "hello")[0]
    client, url = boss(), page_url("message", message.pk)
    _attempt(message, 1)
    client.get(url)
    with CaptureQueriesContext(connection) as one:
        client.get(url)
    for token in range(2, 11):
        _attempt(message, token, number=token)
        Event.objects.create(kind=EventKind.MESSAGE_SENT, message=message, session=message.session)
    with django_assert_num_queries(len(one)):
        client.get(url)


@pytest.mark.parametrize("status", list(Status))
def test_the_page_of_a_message_is_there_in_every_status(status: Status) -> None:
    message = become(submit(make_session(), "hello")[0], status)
    assert str(status.label) in text_of(boss().get(page_url("message", message.pk)))


def test_a_waiting_message_says_its_place_and_when_it_goes() -> None:
    session = make_session()
    submit(session, "first")
    message = submit(session, "second")[0]
    client, url = boss(), page_url("message", message.pk)
    assert "It is number 2 in the line of its session. It goes at about" in text_of(client.get(url))
    hold(session, "doubt")
    assert "Its session does not send just now." in text_of(client.get(url))
    Message.objects.filter(pk=message.pk).update(next_attempt_at=timezone.now() + timezone.timedelta(hours=1))
    assert "Its next attempt is at" in text_of(client.get(url))


def test_the_page_of_a_message_is_masked_without_the_permission() -> None:
    message = submit(make_session(), "a private matter", client_ref="ref 1")[0]
    become(message, Status.FAILED, error_detail=f"{PHONE} is unknown", provider_id="true_51930246633@c.us")
    _attempt(message, 1, outcome="failed", error_detail=f"{PHONE} is unknown", provider_id="true_51930246633@c.us")
    Event.objects.create(kind="message.failed", message=message, session=message.session, data={"error": f"no {PHONE}"})
    url = page_url("message", message.pk)
    full = text_of(person("view_message", "view_message_content").get(url))
    assert "a private matter" in full
    assert PHONE in full
    masked = text_of(person("view_message").get(url))
    assert "a private matter" not in masked
    assert "930246633" not in masked
    assert "You may not read contents." in masked


def test_a_message_that_is_not_there_is_not_found_and_one_not_to_be_seen_is_forbidden() -> None:
    message = submit(make_session(), "x")[0]
    assert boss().get(page_url("message", new_id())).status_code == 404
    assert person("view_session").get(page_url("message", message.pk)).status_code == 403


def _evil_rows() -> tuple[Session, Message]:
    session = make_session("alpha")
    Session.objects.update(observed_reason=EVIL[:400], observed_state="failed")
    message = submit(session, EVIL, client_ref=EVIL)[0]
    become(message, Status.UNCERTAIN, error_detail=EVIL, error_code=EVIL, provider_id=EVIL)
    _attempt(message, 1, outcome="uncertain", error_detail=EVIL, error_code=EVIL, provider_id=EVIL)
    hold(session, "refused", hold_reason=EVIL)
    Event.objects.create(kind="message.failed", session=session, message=message, data={EVIL: EVIL, "by": EVIL})
    Event.objects.create(kind="worker.gone", data=[EVIL])
    AuditEntry.objects.create(actor=EVIL, action="pause session", target=EVIL, data={EVIL: [EVIL]})
    now = timezone.now()
    Worker.objects.create(
        name=EVIL, hostname=EVIL, pid=1, concurrency=1, started_at=now, heartbeat_at=now - timezone.timedelta(hours=1),
        steady_since=now,
    )  # fmt: skip
    for content in ({"to": EVIL, "type": EVIL, "text": EVIL}, [EVIL]):
        LoopbackEntry.objects.create(
            message_id=message.pk, token=1, session_name=EVIL[:64], content=content, outcome="<b>", created_at=now
        )
    return session, message


def _addresses(session: Session, message: Message) -> list[str]:
    models = (
        "session", "queue", "orphan", "message", "batch", "reconciliation", "backgroundtask", "worker",
        "loopbackentry", "event", "apikey", "auditentry",
    )  # fmt: skip
    return [
        "/admin/",
        *(list_url(model) for model in models),
        list_url("message") + "?q=nothing&session=nothing",
        "/admin/sessions_app/session/add/",
        "/admin/sessions_app/session/add/?transport=loopback",
        "/admin/sessions_app/session/add/?transport=waha",
        page_url("session", session.pk),
        reverse("admin:sessions_app_session_settings", args=[session.pk]),
        reverse("admin:sessions_app_session_delete", args=[session.pk]),
        reverse("admin:sessions_app_session_everything", args=["pause"]),
        page_url("message", message.pk),
        act_url("message", "resend", message.pk),
        act_url("session", "pause", session.pk),
        "/admin/sessions_app/apikey/add/",
    ]


def test_nothing_inline_and_nothing_unescaped_stands_on_any_page() -> None:
    session, message = _evil_rows()
    client = boss()
    for url in _addresses(session, message):
        response = client.get(url)
        assert response.status_code == 200, url
        assert inline_parts(response) == [], url
        assert "<script>alert" not in response.content.decode(), url
        assert "<img src=x" not in response.content.decode(), url
        assert (
            "script-src" in response.headers["Content-Security-Policy"]
            or "default-src 'self'" in (response.headers["Content-Security-Policy"])
        )


def test_what_is_typed_into_a_search_or_a_filter_is_escaped() -> None:
    client = boss()
    for model in ("session", "message", "event", "loopbackentry"):
        response = client.get(list_url(model), {"q": EVIL, "session": EVIL} if model != "session" else {"q": EVIL})
        assert "<script>alert" not in response.content.decode()


def test_every_column_and_every_field_has_its_label() -> None:
    session, message = _evil_rows()
    client = boss()
    import re

    for url in _addresses(session, message):
        html = client.get(url).content.decode()
        for head in re.findall(r"<thead.*?</thead>", html, re.S):
            assert all('scope="col"' in cell for cell in re.findall(r"<th\b[^>]*>", head)), url
        labelled = set(re.findall(r'<label[^>]* for="([^"]+)"', html))
        for field in re.findall(r"<(?:input|select|textarea)\b[^>]*>", html):
            if re.search(r'type="(?:hidden|submit|checkbox|radio|search)"', field) or "aria-label" in field:
                continue
            name = re.search(r' id="([^"]+)"', field)
            assert 'name="action"' in field or (name and name[1] in labelled), (url, field)


def test_an_act_of_the_api_is_told_by_whom_on_the_page_of_its_message() -> None:
    message = submit(make_session(), "x")[0]
    messages.cancel(message.pk, actor=ACTOR)
    assert "command test" in text_of(boss().get(page_url("message", message.pk)))


def test_the_login_page_is_clean_too() -> None:
    assert inline_parts(Client().get("/admin/login/")) == []


def test_what_is_not_allowed_or_not_there_says_so_in_words() -> None:
    client = person("view_message")
    for url, status, said in (
        (list_url("session"), 403, "You may not see or do this."),
        (page_url("message", new_id()), 404, "There is nothing at this address."),
    ):
        response = client.get(url)
        assert response.status_code == status
        assert said in response.content.decode()
        assert inline_parts(response) == []


@pytest.mark.fault(23)
def test_who_is_about_to_send_again_is_told_of_the_workers_that_died() -> None:
    session = make_session()
    once, twice, lethal, plain = (become(each, Status.UNCERTAIN) for each in submit(session, "a", "b", "c", "d"))
    become(once, Status.UNCERTAIN, deaths=1)
    become(twice, Status.UNCERTAIN, deaths=2)
    become(lethal, Status.UNCERTAIN, deaths=3, error_class="poison")
    client = boss()
    pages = [text_of(client.get(page_url("message", each.pk))) for each in (once, twice, lethal, plain)]
    assert "Its worker died 1 time while it was being sent." in pages[0]
    assert "Its worker died 2 times while it was being sent." in pages[1]
    assert "It is set aside: each process that was sending it died." in pages[2]
    assert "If you send it again, it is tried alone." in pages[2]
    assert "died" not in pages[3]
    keys = [each.pk for each in (once, twice, lethal, plain)]
    asked = text_of(client.get(act_url("message", "resend", *keys)))
    assert "The worker died while 3 of them were being sent: each is tried alone." in asked
    assert "died" not in text_of(client.get(act_url("message", "arrived", *keys)))
    assert "1 message of alpha is set aside: each process that sends it dies." in text_of(client.get("/admin/"))
