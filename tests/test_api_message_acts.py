"""Messages over the API: cancelled, retried and resolved."""

from typing import Any

import pytest
import redis

from sessions_app.models import (
    AuditEntry,
    DesiredState,
    Hold,
    Priority,
    Status,
)
from tests.api_client import ApiClient
from tests.factories import become, fly, hold, job_ids, line, make_session, submit

pytestmark = pytest.mark.django_db

ALPHA = "/whatsapp/sessions/alpha"


@pytest.mark.django_db(transaction=True)
def test_a_queued_message_is_cancelled_once(redis_client: redis.Redis) -> None:
    first, second = submit(make_session("alpha"), "one", "two")
    client = ApiClient()
    done = client.post(f"/whatsapp/messages/{first.pk}/cancel")
    assert (done.status, done["status"], done["position"]) == (200, "cancelled", None)
    assert job_ids(redis_client, "alpha") == [str(second.pk)]
    again = client.post(f"/whatsapp/messages/{first.pk}/cancel")
    assert (again.status, again["code"], again["state"]) == (409, "wrong_state", "cancelled")
    assert AuditEntry.objects.filter(action="cancel message", actor=f"key {client.key}").count() == 1


@pytest.mark.parametrize("status", [status for status in Status if status not in (Status.QUEUED, Status.SCHEDULED)])
def test_only_what_waits_can_be_cancelled(status: Status) -> None:
    (message,) = submit(make_session("alpha"), "one")
    become(message, status)
    answer = ApiClient().post(f"/whatsapp/messages/{message.pk}/cancel")
    assert (answer.status, answer["code"], answer["state"]) == (409, "wrong_state", status)
    message.refresh_from_db()
    assert message.status == status


@pytest.mark.parametrize("status", list(Status))
def test_only_what_failed_or_expired_can_be_retried_and_takes_its_old_place(status: Status) -> None:
    session = make_session("alpha")
    message, later = submit(session, "one", "two")
    become(message, status)
    client = ApiClient()
    answer = client.post(f"/whatsapp/messages/{message.pk}/retry")
    if status in (Status.FAILED, Status.EXPIRED):
        assert (answer.status, answer["status"], answer["position"], answer["seq"]) == (200, "queued", 1, message.seq)
        assert line(session) == [str(message.pk), str(later.pk)]
    else:
        assert (answer.status, answer["code"], answer["state"]) == (409, "wrong_state", status)


@pytest.mark.parametrize(("outcome", "status"), [("sent", "sent"), ("failed", "failed"), ("resend", "queued")])
def test_an_uncertain_message_is_resolved_once_and_its_session_goes_on(outcome: str, status: str) -> None:
    session = make_session("alpha")
    (message,) = submit(session, "one")
    become(message, Status.UNCERTAIN)
    hold(session, Hold.UNCERTAIN)
    client = ApiClient()
    answer = client.post(f"/whatsapp/messages/{message.pk}/resolve", {"as": outcome})
    assert (answer.status, answer["status"]) == (200, status)
    assert answer["history"][-1]["what"] == "message.resolved"
    assert answer["history"][-1]["detail"] == f"resolved as: {outcome}"
    assert client.get(ALPHA)["observed_reason"] is None
    again = client.post(f"/whatsapp/messages/{message.pk}/resolve", {"as": outcome})
    assert (again.status, again["code"], again["state"]) == (409, "wrong_state", status)


@pytest.mark.parametrize(("body", "field"), [({}, "as"), ({"as": "lost"}, "as"), ({"as": None}, "as"), (None, "body")])
def test_a_resolution_that_is_none_is_refused(body: Any, field: str) -> None:
    (message,) = submit(make_session("alpha"), "one")
    become(message, Status.UNCERTAIN)
    assert ApiClient().post(f"/whatsapp/messages/{message.pk}/resolve", body).fields == [field]
    message.refresh_from_db()
    assert message.status == Status.UNCERTAIN


def test_a_message_in_flight_is_shown_as_such() -> None:
    session = make_session("alpha")
    message, behind = submit(session, "one", "two")
    fly(message)
    client = ApiClient()
    assert client.get(f"/whatsapp/messages/{message.pk}")["status"] == "sending"
    assert client.get(f"/whatsapp/messages/{behind.pk}")["position"] == 2
    assert client.get(f"/whatsapp/messages/{str(message.pk).upper()}").status == 200
    assert message.priority == Priority.NORMAL and session.desired_state == DesiredState.ACTIVE
