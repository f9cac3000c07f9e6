"""Whoever cancels is told what could not be cancelled, for it may have arrived: API, admin, events."""

import pytest
from django.urls import reverse

from sessions_app.exceptions import OutcomeUnknown
from sessions_app.models import AuditEntry, Event, EventKind, Status
from sessions_app.services import batches, sessions
from sessions_app.services.sessions import Deleted
from tests.admin_lab import boss, text_of
from tests.api_client import ApiClient
from tests.dispatch_lab import ACTOR
from tests.doubt_lab import resending, settle
from tests.factories import now

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_deletion_says_what_it_could_not_cancel() -> None:
    session, (message, behind) = resending("one", "two")
    settle(OutcomeUnknown("no answer"))
    assert sessions.delete(session, actor=ACTOR, unsent="cancel") == Deleted(cancelled=1, uncertain=1)
    assert (now(message).status, now(behind).status) == (Status.UNCERTAIN, Status.CANCELLED)
    counts = {"unsent": 2, "cancelled": 1, "uncertain": 1}
    assert Event.objects.get(kind=EventKind.SESSION_DELETED).data == {"by": ACTOR.label, "as": "cancel", **counts}
    assert AuditEntry.objects.get(action="delete session").data == {"unsent_as": "cancel", **counts}


def test_a_deletion_over_the_api_says_what_it_could_not_cancel() -> None:
    resending("one", "two")
    settle(OutcomeUnknown("no answer"))
    done = ApiClient().delete("/whatsapp/sessions/s?unsent=cancel")
    assert (done.status, done.body) == (200, {"session": "s", "cancelled": 1, "uncertain": 1, "orphaned": 0})


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", ["Messages cancelled with it: 1.", "1 message was to be sent again", "it is uncertain now"]),
        ("es", ["Mensajes cancelados con ella: 1.", "1 mensaje iba a reenviarse", "ahora está incierto"]),
    ],
)
def test_a_person_who_deletes_is_told_what_could_not_be_cancelled(language: str, said: list[str]) -> None:
    session, _ = resending("one", "two")
    settle(OutcomeUnknown("no answer"))
    client = boss()
    client.defaults["HTTP_ACCEPT_LANGUAGE"] = language
    url = reverse("admin:sessions_app_session_delete", args=[session.pk])
    seen = text_of(client.post(url, {"unsent": "cancel", "expected": "2"}, follow=True))
    for words in said:
        assert words in seen


def test_a_batch_says_what_it_could_not_cancel() -> None:
    _, (message, behind) = resending("one", "two")
    settle(OutcomeUnknown("no answer"))
    assert message.batch_id is not None
    done = batches.cancel(message.batch_id, actor=ACTOR)
    assert (done.cancelled, done.left_alone) == (1, 1)
    assert (now(message).status, now(behind).status) == (Status.UNCERTAIN, Status.CANCELLED)
