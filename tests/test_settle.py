"""The settle writes what an answer means: for its message, for the session, and for the pace of what comes next."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from sessions_app.exceptions import (
    NotConnected,
    OutcomeUnknown,
    PermanentError,
    RetryableError,
    SessionRefused,
)
from sessions_app.models import (
    Attempt,
    Event,
    InFlight,
    Message,
    OnUncertain,
    RecipientPace,
    Session,
    SessionDispatch,
    Status,
)
from sessions_app.services import messages, sessions
from sessions_app.services.pacing import Pacing
from sessions_app.worker.outcomes import accepted, refused, returned
from sessions_app.worker.settle import Settled
from tests.dispatch_lab import ACTOR, in_thread, session_with, workers

pytestmark = pytest.mark.django_db(transaction=True)


def send(error: BaseException | None = None, provider_id: str = "engine-1") -> Settled:
    """Fence and settle the next message of the session `s`."""

    async def act() -> Settled:
        async with workers(1) as (worker,):
            flight = await worker.fence_one()
            outcome = refused(flight, error) if error else accepted(flight, provider_id)
            (settled,) = await worker.settle(outcome)
            return settled

    return asyncio.run(act())


def kinds() -> list[str]:
    return list(Event.objects.order_by("id").values_list("kind", flat=True))


def test_an_accepted_message_is_sent_with_the_engines_id_its_attempt_and_its_event() -> None:
    _, (message,) = session_with("one")
    settled = send(provider_id="engine-1")

    assert settled.is_current
    assert not settled.is_open
    message.refresh_from_db()
    assert (message.status, message.provider_id) == (Status.SENT, "engine-1")
    assert message.sent_at is not None
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.provider_id, attempt.late_outcome) == ("sent", "engine-1", "")
    assert attempt.finished_at is not None
    assert not InFlight.objects.exists()
    assert kinds()[-1] == "message.sent"
    assert SessionDispatch.objects.get().last_sent_at is not None


@pytest.mark.parametrize(("desired", "observed"), [("active", "working"), ("stopped", "starting")])
def test_an_engine_that_takes_messages_works_unless_the_session_was_stopped(desired: str, observed: str) -> None:
    session, _ = session_with("one")
    Session.objects.filter(pk=session.pk).update(observed_state="starting", observed_reason="just made")

    async def act() -> None:
        async with workers(1) as (worker,):
            flight = await worker.fence_one()
            await in_thread(Session.objects.filter(pk=session.pk).update, desired_state=desired)
            await worker.settle(accepted(flight, "id"))

    asyncio.run(act())
    assert Session.objects.get(pk=session.pk).observed_state == observed


@pytest.mark.fault(22)
def test_a_refusal_for_now_queues_the_message_at_its_place_with_a_due_time() -> None:
    _, (message, _) = session_with("one", "two")
    settled = send(RetryableError("slow down", after_ms=30_000, provider_code="429"))

    assert settled.is_open
    assert settled.delay_ms >= 30_000
    seq = message.seq
    message.refresh_from_db()
    assert (message.status, message.seq, message.attempts, message.error_code) == (Status.QUEUED, seq, 1, "429")
    assert message.next_attempt_at is not None
    assert message.next_attempt_at > timezone.now() + timedelta(seconds=25)
    assert kinds()[-1] == "message.retried"


@pytest.mark.fault(22)
def test_a_refusal_for_good_fails_the_message_says_why_and_the_next_one_goes() -> None:
    _, (message, second) = session_with("one", "two")
    send(PermanentError("not on WhatsApp", provider_code="1006"))
    message.refresh_from_db()
    assert (message.status, message.error_class, message.error_code, message.error_detail) == (
        Status.FAILED, "permanent", "1006", "not on WhatsApp",
    )  # fmt: skip
    assert message.failed_at is not None
    assert kinds()[-1] == "message.failed"
    assert send().settlement.flight.message_id == second.pk


@pytest.mark.fault(21)
def test_not_connected_holds_the_session_and_costs_no_attempt() -> None:
    _, (message,) = session_with("one")
    settled = send(NotConnected("logged out"))
    assert (settled.hold, settled.is_new_hold) == ("not_connected", True)
    message.refresh_from_db()
    assert (message.status, message.attempts) == (Status.QUEUED, 0)
    dispatch = SessionDispatch.objects.get()
    assert (dispatch.hold, dispatch.hold_reason) == ("not_connected", "logged out")
    assert dispatch.held_at is not None
    assert Session.objects.get().observed_state == "stopped"
    assert "session.held" in kinds()


@pytest.mark.fault(22)
def test_a_refused_session_is_held_until_a_person_resumes_it() -> None:
    session, _ = session_with("one")
    send(SessionRefused("bad token"))
    assert SessionDispatch.objects.get().hold == "refused"
    assert Session.objects.get().observed_state == "failed"
    assert "session.held" in kinds()
    sessions.act(session, "resume", actor=ACTOR)
    assert SessionDispatch.objects.get().hold == ""
    assert send().is_current


@pytest.mark.fault(20)
def test_an_uncertain_message_waits_for_a_person_and_the_next_one_goes() -> None:
    _, (first, second) = session_with("one", "two")
    send(OutcomeUnknown("no answer"))
    first.refresh_from_db()
    assert first.status == Status.UNCERTAIN
    assert send().settlement.flight.message_id == second.pk


@pytest.mark.fault(20)
def test_two_uncertain_outcomes_in_a_row_hold_the_session() -> None:
    session_with("one", "two", "three")
    assert send(OutcomeUnknown("no answer")).hold == ""
    settled = send(OutcomeUnknown("no answer"))
    assert (settled.hold, settled.is_new_hold) == ("doubt", True)


def test_an_accepted_message_between_two_uncertain_ones_ends_the_streak() -> None:
    session_with("one", "two", "three")
    send(OutcomeUnknown("no answer"))
    send()
    assert send(OutcomeUnknown("no answer")).hold == ""


@pytest.mark.fault(20)
def test_the_hold_session_policy_holds_until_the_message_is_resolved() -> None:
    _, (first, _) = session_with("one", "two", on_uncertain=OnUncertain.HOLD_SESSION)
    assert send(OutcomeUnknown("no answer")).hold == "uncertain"
    messages.resolve(first.pk, outcome="sent", actor=ACTOR)
    assert SessionDispatch.objects.get().hold == ""


def test_the_resend_policy_sends_again_and_marks_it() -> None:
    _, (message,) = session_with("one", on_uncertain=OnUncertain.RESEND)
    settled = send(OutcomeUnknown("no answer"))
    assert settled.is_open
    message.refresh_from_db()
    assert (message.status, message.resends) == (Status.QUEUED, 1)
    assert kinds()[-1] == "message.resent"


def test_what_was_put_back_can_be_fenced_again_and_does_not_count() -> None:
    session_with("one")

    async def act() -> int:
        async with workers(1) as (worker,):
            for _ in range(3):
                await worker.settle(returned(await worker.fence_one(), "frozen"))
            return (await worker.fence_one()).attempts

    assert asyncio.run(act()) == 1
    assert list(Attempt.objects.order_by("token").values_list("outcome", flat=True)) == ["returned"] * 3 + [""]


def test_many_outcomes_of_many_sessions_are_written_at_once() -> None:
    names = [f"s{number}" for number in range(30)]
    for name in names:
        session_with("one", "two", name=name)

    async def act() -> list[Settled]:
        async with workers(1) as (worker,):
            flights = (await worker.fence(*names)).flights
            outcomes = [
                accepted(flight, "x") if at % 2 else refused(flight, PermanentError("no"))
                for at, flight in enumerate(flights)
            ]
            return await worker.settle(*outcomes)

    settled = asyncio.run(act())
    assert len(settled) == 30
    assert all(one.is_current for one in settled)
    assert Message.objects.filter(status=Status.SENT).count() == 15
    assert Message.objects.filter(status=Status.FAILED).count() == 15
    assert not InFlight.objects.exists()


def test_engines_may_answer_anything() -> None:
    _, (message,) = session_with("one")
    send(PermanentError("nul \x00 and a lone surrogate \ud800 in it", provider_code="\x00"))
    message.refresh_from_db()
    assert message.status == Status.FAILED
    assert "nul" in message.error_detail


# Pace


def test_the_pause_between_two_messages_is_random_between_the_two_intervals() -> None:
    session_with(*"abcdefgh", pacing=Pacing(min_interval_ms=3_000, max_interval_ms=9_000))
    pauses = set()
    for _ in range(8):
        pauses.add(send().delay_ms)
        SessionDispatch.objects.update(next_send_at=None)
    assert all(2_900 <= pause <= 9_000 for pause in pauses)
    assert max(pauses) - min(pauses) > 500


def test_the_hourly_cap_makes_the_next_message_wait_for_the_next_hour() -> None:
    session_with("one", "two", "three", pacing=Pacing(hourly_cap=2))
    assert send().delay_ms == 0
    delay = send().delay_ms
    assert 3_590_000 < delay <= 3_600_000
    dispatch = SessionDispatch.objects.get()
    assert (dispatch.hour_count, dispatch.day_count) == (2, 2)


def test_a_new_hour_begins_a_new_count() -> None:
    session_with("one", "two", "three", pacing=Pacing(hourly_cap=2))
    send()
    SessionDispatch.objects.update(hour_began_at=timezone.now() - timedelta(minutes=61))
    assert send().delay_ms == 0
    assert SessionDispatch.objects.get().hour_count == 1


def test_the_daily_cap_makes_the_next_message_wait_for_the_next_day() -> None:
    session_with("one", "two", pacing=Pacing(daily_cap=1))
    assert 86_300_000 < send().delay_ms <= 86_400_000


def test_a_message_that_the_engine_never_saw_costs_no_pace() -> None:
    session_with("one", "two", pacing=Pacing(min_interval_ms=60_000, max_interval_ms=60_000, daily_cap=1))
    assert send(NotConnected("down")).delay_ms == 0
    dispatch = SessionDispatch.objects.get()
    assert (dispatch.next_send_at, dispatch.day_count) == (None, 0)


def test_one_recipient_is_written_to_at_its_own_pace_and_the_line_keeps_its_order() -> None:
    session, _ = session_with(pacing=Pacing(per_recipient_ms=60_000))
    messages.submit(
        session, [messages.Draft(to=to, text="x") for to in ("+51900000001", "+51900000001", "+51900000002")]
    )
    send()
    assert RecipientPace.objects.get().recipient == "+51900000001"

    async def act() -> Any:
        async with workers(1) as (worker,):
            return await worker.fence()

    (waiting,) = asyncio.run(act()).waiting
    assert waiting.verdict == "wait"
    assert 50_000 < (waiting.delay_ms or 0) <= 60_000
