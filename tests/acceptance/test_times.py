"""Messages and sessions with times of their own: nothing goes too early, in a silence, or when it has expired."""

from datetime import UTC, timedelta

import pytest

from sessions_app.models import DesiredState, Message, Status
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from tests.acceptance.stack import ACTOR, Stack
from tests.processes import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]


def test_nothing_goes_in_quiet_hours_and_all_of_it_after_them(stack: Stack) -> None:
    stack.ready_worker()
    now = stack.now().astimezone(UTC)
    ends_at = now + timedelta(seconds=5)
    silence = Pacing(quiet_start=(now - timedelta(hours=1)).time(), quiet_end=ends_at.time(), quiet_tz="UTC")
    quiet, loud = stack.session("quiet", pacing=silence), stack.session("loud")
    for session in (quiet, loud):
        stack.submit(session, range(5))
    assert stack.now() < ends_at
    stack.wait_for(10, Status.SENT, within_s=60)
    assert stack.handed_over_at(quiet)[0] >= ends_at
    # The others are not silent.
    assert stack.handed_over_at(loud)[0] < ends_at
    for session in (quiet, loud):
        stack.assert_in_order_and_once(session, 5)


def test_a_message_that_is_scheduled_goes_in_its_place_and_not_before_its_time(stack: Stack) -> None:
    session = stack.session("s")
    stack.ready_worker()
    at = stack.now() + timedelta(seconds=2)
    stack.submit(session, [0], scheduled_at=at)
    stack.submit(session, [1, 2])
    stack.wait_for(3, Status.SENT, within_s=60)
    assert stack.ledger(session) == [1, 2, 0]
    assert stack.handed_over_at(session)[2] >= at


def test_what_expires_while_its_session_waits_or_is_paused_is_never_sent(stack: Stack) -> None:
    paced = stack.session("paced", pacing=Pacing(min_interval_ms=4000, max_interval_ms=4000))
    paused = stack.session("paused", desired_state=DesiredState.PAUSED)
    stack.ready_worker()
    stack.submit(paced, [0])
    wait_until(lambda: stack.ledger(paced), 30, "the first is sent, and the next waits for its pace")
    expires_at = stack.now() + timedelta(seconds=1)
    for session in (paced, paused):
        stack.submit(session, [1], expires_at=expires_at)
        stack.submit(session, [2])
    wait_until(lambda: stack.now() > expires_at, 30, "its time is over")
    sessions.act(paused, "resume", actor=ACTOR)
    stack.wait_for(2, Status.EXPIRED, within_s=60)
    wait_until(lambda: stack.ledger(paced) == [0, 2] and stack.ledger(paused) == [2], 60, "the rest goes")
    assert set(Message.objects.filter(text="1").values_list("status", flat=True)) == {Status.EXPIRED}
