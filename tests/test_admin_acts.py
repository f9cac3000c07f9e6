"""What people do in the admin: asked first, checked again when it happens, allowed one by one, and written down."""

import uuid
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from sessions_app.admin.acts import MOST_AT_ONCE
from sessions_app.models import Attempt, DesiredState, Message, Outcome, Session, Status
from sessions_app.services import messages, sessions
from tests.admin_lab import act_url, audited, boss, confirm, list_url, page_url, person, text_of
from tests.factories import ACTOR, become, hold, make_session, submit

pytestmark = pytest.mark.django_db

OPERATE = ("view_session", "view_message", "operate_session", "operate_message")

MESSAGE_ACTS = [
    ("retry", Status.FAILED, Status.QUEUED, "retry message"),
    ("retry", Status.EXPIRED, Status.QUEUED, "retry message"),
    ("cancel", Status.QUEUED, Status.CANCELLED, "cancel message"),
    ("cancel", Status.SCHEDULED, Status.CANCELLED, "cancel message"),
    ("arrived", Status.UNCERTAIN, Status.SENT, "resolve message as sent"),
    ("resend", Status.UNCERTAIN, Status.QUEUED, "resolve message as resend"),
    ("give-up", Status.UNCERTAIN, Status.FAILED, "resolve message as failed"),
]
SESSION_ACTS = [
    ("pause", DesiredState.ACTIVE, DesiredState.PAUSED),
    ("resume", DesiredState.PAUSED, DesiredState.ACTIVE),
    ("stop", DesiredState.ACTIVE, DesiredState.STOPPED),
    ("start", DesiredState.STOPPED, DesiredState.ACTIVE),
    ("restart", DesiredState.ACTIVE, DesiredState.ACTIVE),
]


def _in(status: Status) -> Message:
    return become(submit(Session.objects.first() or make_session(), "hello")[0], status)


@pytest.mark.parametrize(("act", "before", "after", "action"), MESSAGE_ACTS)
def test_an_act_on_a_message_asks_then_acts_and_is_written_down(
    act: str, before: Status, after: Status, action: str
) -> None:
    message, client = _in(before), person(*OPERATE)
    question = client.get(act_url("message", act, message.pk))
    assert "No, take me back" in text_of(question)
    message.refresh_from_db()
    assert message.status == before
    assert not audited()
    response = confirm(client, "message", act, message.pk)
    assert response.redirect_chain[0][0] == page_url("message", message.pk)
    message.refresh_from_db()
    assert message.status == after
    assert [entry[1:] for entry in audited()] == [(action, str(message.pk))]


def test_what_is_cancelled_and_may_have_arrived_before_is_told_as_uncertain() -> None:
    (doubted,) = submit(make_session(), "hello")
    become(doubted, Status.QUEUED, resends=1)
    Attempt.objects.create(
        token=1, message=doubted, session=doubted.session, number=1, worker_id=uuid.uuid4(), fenced_at=timezone.now(),
        finished_at=timezone.now(), outcome=Outcome.UNCERTAIN,
    )  # fmt: skip
    said = text_of(confirm(person(*OPERATE), "message", "cancel", f"{doubted.pk},{_in(Status.QUEUED).pk}"))
    assert "1 message was cancelled." in said
    assert "1 became uncertain instead: nobody knows whether it arrived before." in said


@pytest.mark.parametrize(("act", "before", "after"), SESSION_ACTS)
def test_an_act_on_a_session_asks_then_acts_and_is_written_down(
    act: str, before: DesiredState, after: DesiredState
) -> None:
    session, client = make_session(desired_state=before), person(*OPERATE)
    assert f"{act.capitalize()} 1 session?" in text_of(client.get(act_url("session", act, session.pk)))
    session.refresh_from_db()
    assert session.desired_state == before
    confirm(client, "session", act, session.pk)
    session.refresh_from_db()
    assert session.desired_state == after
    assert [entry[1:] for entry in audited()] == [(f"{act} session", "alpha")]


def test_a_held_session_is_resumed() -> None:
    session = make_session()
    hold(session, "refused")
    confirm(person(*OPERATE), "session", "resume", session.pk)
    session.dispatch.refresh_from_db()
    assert session.dispatch.hold == ""


def test_a_bulk_action_asks_first_and_names_what_it_leaves_alone() -> None:
    failed = [_in(Status.FAILED) for _ in range(3)]
    sent = _in(Status.SENT)
    client = person(*OPERATE)
    data = {"action": "retry", ACTION_CHECKBOX_NAME: [str(m.pk) for m in (*failed, sent)], "index": "0"}
    question = client.post(f"{list_url('message')}?session=alpha", data)
    seen = text_of(question)
    assert "Retry 3 messages?" in seen
    assert "1 of those chosen is not in a state for this" in seen
    assert Message.objects.filter(status=Status.FAILED).count() == 3
    answer = {"ids": question.context["ids"], "back": question.context["back"], "confirmed": "yes"}
    report = client.post(question.context["act_url"], answer, follow=True)
    assert report.redirect_chain[0][0] == f"{list_url('message')}?session=alpha"
    assert "3 messages were queued again." in text_of(report)
    assert Message.objects.filter(status=Status.QUEUED).count() == 3


def test_what_changed_since_the_question_is_left_alone_and_said() -> None:
    first, second = _in(Status.UNCERTAIN), _in(Status.UNCERTAIN)
    client = person(*OPERATE)
    assert "Send 2 uncertain messages again?" in text_of(client.get(act_url("message", "resend", first.pk, second.pk)))
    messages.resolve(first.pk, outcome="sent", actor=ACTOR)
    report = text_of(confirm(client, "message", "resend", first.pk, second.pk))
    assert "1 message was queued to be sent again." in report
    assert "1 was left alone: its state had changed meanwhile." in report
    assert Message.objects.get(pk=first.pk).status == Status.SENT


def test_a_session_that_changed_since_the_question_is_left_alone_and_said() -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    client = person(*OPERATE)
    sessions.act(alpha, "stop", actor=ACTOR)
    report = text_of(confirm(client, "session", "pause", alpha.pk, beta.pk))
    assert "1 session was paused." in report
    assert "1 was left alone" in report
    assert Session.objects.get(name="alpha").desired_state == DesiredState.STOPPED


def test_a_message_of_a_deleted_session_is_not_queued_again() -> None:
    session = make_session()
    message = become(submit(session, "late")[0], Status.FAILED)
    sessions.delete(session, actor=ACTOR)
    client = person(*OPERATE)
    assert act_url("message", "retry", message.pk) not in client.get(page_url("message", message.pk)).content.decode()
    assert "1 was left alone" in text_of(confirm(client, "message", "retry", message.pk))
    assert Message.objects.get(pk=message.pk).status == Status.FAILED


def test_everything_is_paused_and_resumed_after_a_question_that_counts() -> None:
    for name in ("alpha", "beta", "gamma"):
        make_session(name)
    sessions.act(Session.objects.get(name="gamma"), "stop", actor=ACTOR)
    client = person(*OPERATE)
    for what, count, after in (("pause", 2, DesiredState.PAUSED), ("resume", 2, DesiredState.ACTIVE)):
        url = reverse("admin:sessions_app_session_everything", args=[what])
        assert url in client.get(list_url("session")).content.decode()
        question = client.get(url)
        assert question.context["count"] == count
        assert Session.objects.exclude(desired_state=after).filter(name__in=["alpha", "beta"]).count() == count
        report = client.post(url, {"confirmed": "yes", "expected": str(count)}, follow=True)
        assert f"{count} sessions were {what}d." in text_of(report)
        assert set(Session.objects.filter(name__in=["alpha", "beta"]).values_list("desired_state", flat=True)) == {
            after
        }
    assert Session.objects.get(name="gamma").desired_state == DesiredState.STOPPED
    assert len(audited()) == 4


def test_everything_counts_again_when_it_happens_and_says_so() -> None:
    make_session("alpha")
    client = person(*OPERATE)
    url = reverse("admin:sessions_app_session_everything", args=["pause"])
    asked = client.get(url).context["count"]
    make_session("beta")
    report = text_of(client.post(url, {"confirmed": "yes", "expected": str(asked)}, follow=True))
    assert "2 sessions were paused." in report
    assert "There were 1 when you were asked" in report


def test_an_act_that_fits_nothing_offers_no_button() -> None:
    message = _in(Status.SENT)
    response = person(*OPERATE).get(act_url("message", "retry", message.pk))
    assert "There is nothing to do" in text_of(response)
    assert b'name="confirmed"' not in response.content


def test_choosing_all_that_match_takes_no_more_than_one_go(monkeypatch: Any) -> None:
    from sessions_app.admin import acts

    submit(make_session(), *["x"] * 7)
    monkeypatch.setattr(acts, "MOST_AT_ONCE", 5)
    monkeypatch.setattr(acts.ActsMixin.ask_about, "__kwdefaults__", {"url": "", "most": 5})
    some = str(Message.objects.first().pk)  # type: ignore[union-attr]
    data = {"action": "cancel", ACTION_CHECKBOX_NAME: [some], "index": "0", "select_across": "1"}
    question = person(*OPERATE).post(list_url("message"), data)
    assert question.context["count"] == 5
    assert "More than 5 match" in text_of(question)
    assert len(question.context["ids"].split(",")) == 5


def test_more_rows_than_one_go_are_refused() -> None:
    ids = ",".join(str(uuid.uuid4()) for _ in range(MOST_AT_ONCE + 1))
    response = person(*OPERATE).post(act_url("message", "cancel"), {"ids": ids, "confirmed": "yes"})
    assert response.status_code == 403


@pytest.mark.parametrize("ids", ["", "nonsense", "1,2", "01936f3e-0000-7000-8000-000000000000"])
def test_keys_of_nothing_do_nothing(ids: str) -> None:
    response = person(*OPERATE).post(act_url("message", "cancel"), {"ids": ids, "confirmed": "yes"}, follow=True)
    assert response.status_code in (200, 404)
    assert not audited()


def test_the_way_back_leads_nowhere_else() -> None:
    message = _in(Status.FAILED)
    data = {"ids": str(message.pk), "confirmed": "yes", "back": "https://evil.example/"}
    response = person(*OPERATE).post(act_url("message", "retry"), data)
    assert response.headers["Location"] == page_url("message", message.pk)


# Who may.


def _acts() -> list[tuple[str, str, str]]:
    return [
        *(("message", act, "operate_message") for act, *_ in MESSAGE_ACTS),
        *(("session", act, "operate_session") for act, *_ in SESSION_ACTS),
        ("apikey", "revoke", "manage_apikey"),
    ]


@pytest.mark.parametrize(("model", "act", "permission"), sorted(set(_acts())))
def test_an_act_needs_its_own_permission(model: str, act: str, permission: str) -> None:
    others = {"view_session", "view_message", "view_apikey", "operate_session", "operate_message", "manage_apikey"}
    client = person(*(others - {permission}))
    assert client.get(act_url(model, act)).status_code == 403
    assert client.post(act_url(model, act), {"ids": "", "confirmed": "yes"}).status_code == 403
    assert f'value="{act}"' not in client.get(list_url(model)).content.decode()


def test_an_act_needs_sight_of_the_rows_too() -> None:
    assert person("operate_message").get(act_url("message", "cancel")).status_code == 403
    assert person("operate_session").get(act_url("session", "pause")).status_code == 403


def test_buttons_that_a_person_may_not_use_are_not_shown() -> None:
    message = _in(Status.UNCERTAIN)
    viewer, operator = person("view_message", "view_session"), person(*OPERATE)
    for url in (page_url("message", message.pk), page_url("session", message.session_id), list_url("session")):
        assert "/act/" not in viewer.get(url).content.decode()
        assert "/everything/" not in viewer.get(url).content.decode()
    assert act_url("message", "arrived", message.pk) in operator.get(page_url("message", message.pk)).content.decode()
    for what in ("pause", "resume"):
        url = reverse("admin:sessions_app_session_everything", args=[what])
        assert viewer.get(url).status_code == 403
        assert viewer.post(url, {"confirmed": "yes"}).status_code == 403


def test_a_get_never_acts_whatever_it_says() -> None:
    message = _in(Status.FAILED)
    person(*OPERATE).get(act_url("message", "retry"), {"ids": str(message.pk), "confirmed": "yes"})
    assert Message.objects.get(pk=message.pk).status == Status.FAILED


def test_an_act_without_the_csrf_token_is_refused() -> None:
    message = _in(Status.FAILED)
    client = person(*OPERATE)
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = client.cookies
    response = strict.post(act_url("message", "retry"), {"ids": str(message.pk), "confirmed": "yes"})
    assert response.status_code == 403
    assert Message.objects.get(pk=message.pk).status == Status.FAILED


def test_whoever_is_no_staff_is_sent_to_the_login() -> None:
    response = Client().get(act_url("message", "retry"))
    assert response.status_code == 302
    assert reverse("admin:login") in response.headers["Location"]


def test_an_act_that_does_not_exist_is_not_found() -> None:
    assert boss().get(act_url("message", "destroy")).status_code == 404
    assert boss().get(reverse("admin:sessions_app_session_everything", args=["destroy"])).status_code == 404
