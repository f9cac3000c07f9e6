"""Only what waits gets an end: what was sent, is being sent or has ended is left alone, whoever asks."""

import pytest
from django.db import transaction

from sessions_app.models import EventKind, Status
from sessions_app.services import endings
from tests.factories import become, make_session, now, submit, traces

pytestmark = pytest.mark.django_db(transaction=True)

WAITING = (Status.QUEUED, Status.SCHEDULED, Status.ORPHANED)


@pytest.mark.parametrize("status", Status)
def test_an_end_is_given_to_what_waits_and_to_nothing_else(status: Status) -> None:
    message = become(submit(make_session(), "one")[0], status)
    with transaction.atomic():
        assert endings.end([message.pk], Status.CANCELLED) == set()
    if status in WAITING:
        assert now(message).status == Status.CANCELLED
        assert traces(message)[0] == [EventKind.MESSAGE_QUEUED, EventKind.MESSAGE_CANCELLED]
    else:
        assert now(message).status == status
        assert traces(message)[0] == [EventKind.MESSAGE_QUEUED]


@pytest.mark.parametrize("status", [Status.SENDING, Status.SENT, Status.FAILED])
def test_one_that_is_in_doubt_and_was_decided_is_left_alone(status: Status) -> None:
    (message,) = submit(make_session(), "one")
    become(message, status, resends=1)
    with transaction.atomic():
        assert endings.end([message.pk], Status.EXPIRED) == set()
    assert now(message).status == status
