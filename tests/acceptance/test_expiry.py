"""Messages expire while their session waits for its pace or is paused: nobody has to look at its line for that."""

from datetime import timedelta

import pytest

from sessions_app.models import Event, Message, Status
from sessions_app.queues import mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.services import messages
from sessions_app.services.pacing import Pacing
from tests.acceptance.stack import LATE, PHONE, Stack
from tests.processes import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

HOUR_MS = 3_600_000
SOON = timedelta(seconds=2)


def test_messages_expire_on_time_behind_a_pace_of_an_hour_and_in_a_paused_session(stack: Stack) -> None:
    paced = stack.session("paced", pacing=Pacing(min_interval_ms=HOUR_MS, max_interval_ms=HOUR_MS))
    paused = stack.session("paused", desired_state="paused")
    stack.ready_worker()
    stack.submit(paced, [0])
    stack.wait_for(1, Status.SENT, within_s=60)

    in_an_hour = stack.now() + timedelta(hours=1)
    ending = [
        messages.submit(session, [messages.Draft(to=PHONE, text="1", expires_at=in_an_hour)])[0]
        for session in (paced, paused)
    ]
    staying = [stack.submit(session, [2])[0] for session in (paced, paused)]
    soon = stack.now() + SOON
    Message.objects.filter(pk__in=[message.pk for message in ending]).update(expires_at=soon)
    assert stack.now() < soon
    stack.wait_for(2, Status.EXPIRED, within_s=60)

    assert set(Message.objects.filter(status=Status.EXPIRED)) == set(ending)
    told = list(Event.objects.filter(kind="message.expired").values_list("created_at", flat=True))
    assert len(told) == 2
    assert soon <= min(told) and max(told) < soon + LATE
    assert stack.ledger(paced) == [0]
    assert stack.ledger(paused) == []
    for session, message in zip((paced, paused), staying, strict=True):
        wait_until(
            lambda name=session.name, message=message: (
                mirror.job_ids(name, client=upkeep_client())  # type: ignore[misc]
                == [str(message.pk)]
            ),
            30,
            "only the job of what stays is in the mirror",
        )
