"""The settle writes what is known, by token; what comes too late is kept as evidence and changes nothing."""

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
from sessions_app.worker.outcomes import Flight, Settlement, accepted, refused, returned
from sessions_app.worker.settle import Settled, settle
from tests.dispatch_lab import ACTOR, LabWorker, in_thread, session_with, workers

pytestmark = pytest.mark.django_db(transaction=True)


async def _fence_one(worker: LabWorker) -> Flight:
    (flight,) = (await worker.fence()).flights
    return flight


async def _settle(worker: LabWorker, *settlements: Settlement) -> list[Settled]:
    return await settle(worker.connection, settlements)


def send(error: BaseException | None = None, provider_id: str = "engine-1") -> Settled:
    """Fence and settle the next message of the session `s`."""

    async def act() -> Settled:
        async with workers(1) as (worker,):
            flight = await _fence_one(worker)
            outcome = refused(flight, error) if error else accepted(flight, provider_id)
            (settled,) = await _settle(worker, outcome)
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
            (flight,) = (await worker.fence()).flights
            await in_thread(Session.objects.filter(pk=session.pk).update, desired_state=desired)
            await settle(worker.connection, [accepted(flight, "id")])

    asyncio.run(act())
    assert Session.objects.get(pk=session.pk).observed_state == observed


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


def test_a_refusal_for_good_fails_the_message_and_says_why() -> None:
    _, (message,) = session_with("one")
    send(PermanentError("not on WhatsApp", provider_code="1006"))
    message.refresh_from_db()
    assert (message.status, message.error_class, message.error_code, message.error_detail) == (
        Status.FAILED, "permanent", "1006", "not on WhatsApp",
    )  # fmt: skip
    assert message.failed_at is not None
    assert kinds()[-1] == "message.failed"


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


def test_a_refused_session_is_held_until_a_person_resumes_it() -> None:
    session, _ = session_with("one")
    send(SessionRefused("bad token"))
    assert SessionDispatch.objects.get().hold == "refused"
    assert Session.objects.get().observed_state == "failed"
    sessions.act(session, "resume", actor=ACTOR)
    assert SessionDispatch.objects.get().hold == ""
    assert send().is_current


def test_an_uncertain_message_waits_for_a_person_and_the_next_one_goes() -> None:
    _, (first, second) = session_with("one", "two")
    send(OutcomeUnknown("no answer"))
    first.refresh_from_db()
    assert first.status == Status.UNCERTAIN
    assert send().settlement.flight.message_id == second.pk


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


@pytest.mark.fault(33)
def test_a_settle_written_twice_changes_nothing_the_second_time() -> None:
    _, (message,) = session_with("one")

    async def act() -> Settled:
        async with workers(1) as (worker,):
            flight = await _fence_one(worker)
            await _settle(worker, accepted(flight, "engine-1"))
            (again,) = await _settle(worker, accepted(flight, "engine-1"))
            return again

    again = asyncio.run(act())
    # It is what decided, so that its job leaves the mirror also when the first answer was lost.
    assert again.is_current
    assert not again.is_new_hold
    assert kinds().count("message.sent") == 1
    assert Attempt.objects.get().late_outcome == ""
    message.refresh_from_db()
    assert message.attempts == 1


@pytest.mark.parametrize("status", [Status.DELIVERED, Status.READ])
def test_a_settle_written_twice_has_decided_also_when_a_receipt_came_between(status: Status) -> None:
    session_with("one")

    async def act() -> Settled:
        async with workers(1) as (worker,):
            flight = await _fence_one(worker)
            await _settle(worker, accepted(flight, "engine-1"))
            await worker.execute("UPDATE wa_message SET status = %s", [status])
            (again,) = await _settle(worker, accepted(flight, "engine-1"))
            return again

    assert asyncio.run(act()).is_current
    assert Message.objects.get().status == status


def test_a_late_answer_settles_an_uncertain_message() -> None:
    _, (message,) = session_with("one")

    async def act() -> list[Settled]:
        async with workers() as (slow, judge):
            flight = await _fence_one(slow)
            await _settle(judge, refused(flight, OutcomeUnknown("its worker died")))
            return await _settle(slow, accepted(flight, "engine-1"))

    (late,) = asyncio.run(act())
    assert late.is_current
    message.refresh_from_db()
    assert (message.status, message.provider_id) == (Status.SENT, "engine-1")


def test_a_late_answer_settles_a_resend_that_has_not_begun() -> None:
    _, (message,) = session_with("one")

    async def act() -> list[Settled]:
        async with workers() as (slow, judge):
            flight = await _fence_one(slow)
            await _settle(judge, refused(flight, OutcomeUnknown("its worker died")))
            await in_thread(messages.resolve, message.pk, outcome="resend", actor=ACTOR)
            late = await _settle(slow, accepted(flight, "engine-1"))
            assert not (await judge.fence()).flights
            return late

    (late,) = asyncio.run(act())
    assert late.is_current
    message.refresh_from_db()
    assert message.status == Status.SENT


def test_a_late_answer_after_a_newer_attempt_is_evidence_only() -> None:
    _, (message,) = session_with("one")

    async def act() -> list[Settled]:
        async with workers() as (slow, judge):
            flight = await _fence_one(slow)
            await _settle(judge, refused(flight, OutcomeUnknown("its worker died")))
            await in_thread(messages.resolve, message.pk, outcome="resend", actor=ACTOR)
            await _fence_one(judge)
            return await _settle(slow, accepted(flight, "engine-1"))

    (late,) = asyncio.run(act())
    assert not late.is_current
    message.refresh_from_db()
    assert (message.status, message.provider_id) == (Status.SENDING, "")
    assert InFlight.objects.count() == 1
    first, second = Attempt.objects.order_by("token")
    assert (first.outcome, first.late_outcome, second.outcome) == ("uncertain", "sent", "")


def test_a_late_uncertainty_does_not_unsettle_what_a_person_decided() -> None:
    _, (message,) = session_with("one")

    async def act() -> list[Settled]:
        async with workers() as (slow, judge):
            flight = await _fence_one(slow)
            await _settle(judge, refused(flight, OutcomeUnknown("its worker died")))
            await in_thread(messages.resolve, message.pk, outcome="failed", actor=ACTOR)
            return await _settle(slow, refused(flight, OutcomeUnknown("timeout")))

    asyncio.run(act())
    message.refresh_from_db()
    assert message.status == Status.FAILED


def test_what_was_put_back_can_be_fenced_again_and_does_not_count() -> None:
    session_with("one")

    async def act() -> int:
        async with workers(1) as (worker,):
            for _ in range(3):
                await _settle(worker, returned(await _fence_one(worker), "frozen"))
            return (await _fence_one(worker)).attempts

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
            return await _settle(worker, *outcomes)

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


@pytest.mark.fault(33)
def test_a_settle_written_twice_does_not_undo_what_a_person_did_in_between() -> None:
    _, (message,) = session_with("one")

    async def act() -> list[Settled]:
        async with workers(1) as (worker,):
            flight = await _fence_one(worker)
            await _settle(worker, refused(flight, PermanentError("no")))
            await in_thread(messages.retry, message.pk, actor=ACTOR)
            return await _settle(worker, refused(flight, PermanentError("no")))

    (again,) = asyncio.run(act())
    assert not again.is_current
    message.refresh_from_db()
    assert message.status == Status.QUEUED


def test_a_late_answer_frees_the_session_that_was_held_for_its_message() -> None:
    session_with("one", "two", on_uncertain=OnUncertain.HOLD_SESSION)

    async def act() -> None:
        async with workers() as (slow, judge):
            flight = await _fence_one(slow)
            await _settle(judge, refused(flight, OutcomeUnknown("its worker died")))
            await _settle(slow, accepted(flight, "engine-1"))

    asyncio.run(act())
    assert SessionDispatch.objects.get().hold == ""


# Pace.


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
