"""Messages and sessions with times of their own: nothing goes too early, in a silence, or when it has expired."""

from datetime import timedelta

import pytest

from sessions_app.models import DesiredState, Event, EventKind, Message, Status
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from tests.acceptance.stack import ACTOR, LATE, Stack
from tests.processes import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

HOUR_MS = 3_600_000


def test_nothing_goes_in_quiet_hours_and_all_of_it_after_them(stack: Stack) -> None:
    quiet, loud = (stack.session(name, desired_state=DesiredState.PAUSED) for name in ("quiet", "loud"))
    for session in (quiet, loud):
        stack.submit(session, range(5))
    stack.ready_worker()
    ends_at = stack.hush(quiet, 5)
    sessions.act(loud, "resume", actor=ACTOR)
    stack.wait_for(10, Status.SENT, within_s=60)
    assert ends_at <= stack.handed_over_at(quiet)[0] < ends_at + LATE
    # The others are not silent: somebody was there to send.
    assert stack.handed_over_at(loud)[0] < ends_at
    for session in (quiet, loud):
        stack.assert_in_order_and_once(session, 5)


def test_a_message_that_is_scheduled_goes_in_its_place_and_not_before_its_time(stack: Stack) -> None:
    session = stack.session("s")
    stack.ready_worker()
    stack.submit(session, [0], scheduled_at=stack.now() + timedelta(hours=1))
    stack.submit(session, [1, 2])
    wait_until(lambda: stack.ledger(session) == [1, 2], 60, "what is not scheduled goes")
    later = Message.objects.filter(text="0", status=Status.SCHEDULED)
    at = stack.now() + timedelta(seconds=2)
    assert later.update(scheduled_at=at) == 1
    assert stack.now() < at
    stack.wait_for(3, Status.SENT, within_s=60)
    assert stack.ledger(session) == [1, 2, 0]
    assert at <= stack.handed_over_at(session)[2] < at + LATE


def test_a_message_that_is_due_goes_before_those_that_came_after_it(stack: Stack) -> None:
    session = stack.session("s", desired_state=DesiredState.PAUSED)
    stack.ready_worker()
    at = stack.now() + timedelta(seconds=1)
    stack.submit(session, [0], scheduled_at=at)
    stack.submit(session, [1, 2])
    wait_until(Message.objects.filter(text="0", status=Status.QUEUED).exists, 30, "it is due")
    assert stack.now() >= at
    sessions.act(session, "resume", actor=ACTOR)
    stack.wait_for(3, Status.SENT, within_s=60)
    stack.assert_in_order_and_once(session, 3)


def test_what_expires_while_its_session_waits_or_is_paused_is_never_sent(stack: Stack) -> None:
    paced = stack.session("paced", pacing=Pacing(min_interval_ms=HOUR_MS, max_interval_ms=HOUR_MS))
    paused = stack.session("paused", desired_state=DesiredState.PAUSED)
    stack.ready_worker()
    stack.submit(paced, [0])
    wait_until(lambda: stack.ledger(paced), 30, "the first is sent, and the next waits for its pace")
    for session in (paced, paused):
        stack.submit(session, [1], expires_at=stack.now() + timedelta(hours=1))
        stack.submit(session, [2])
    expires_at = stack.now() + timedelta(seconds=1)
    assert Message.objects.filter(text="1", status=Status.QUEUED).update(expires_at=expires_at) == 2
    wait_until(lambda: stack.now() > expires_at, 30, "its time is over")
    sessions.act(paused, "resume", actor=ACTOR)
    sessions.update(paced, pacing=Pacing(), actor=ACTOR)
    stack.wait_for(2, Status.EXPIRED, within_s=60)
    wait_until(lambda: stack.ledger(paced) == [0, 2] and stack.ledger(paused) == [2], 60, "the rest goes")
    assert set(Message.objects.filter(text="1").values_list("status", flat=True)) == {Status.EXPIRED}
    for ended in Event.objects.filter(kind=EventKind.MESSAGE_EXPIRED):
        assert expires_at <= ended.created_at < expires_at + LATE
