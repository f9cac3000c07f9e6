"""A message that its policy sends again may have arrived the first time: no end of it says that it was not sent."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.utils import timezone

from sessions_app.exceptions import OutcomeUnknown, PermanentError, RetryableError
from sessions_app.models import (
    Attempt,
    Event,
    EventKind,
    Hold,
    Message,
    OnUncertain,
    Orphan,
    Session,
    SessionDispatch,
    Status,
)
from sessions_app.services import batches, messages, orphans, sessions, tasks
from sessions_app.services.look_ups import plan
from sessions_app.services.worklist import items
from sessions_app.worker import trial
from sessions_app.worker.expiry import expire
from sessions_app.worker.fence import Fenced, Verdict
from sessions_app.worker.outcomes import died
from tests.dispatch_lab import ACTOR, in_thread, workers
from tests.doubt_lab import resending, settle, settle_next
from tests.factories import become, job_ids, make_session, now

pytestmark = pytest.mark.django_db(transaction=True)

MAY_HAVE_ARRIVED = "an earlier attempt may have arrived"
PAST = timedelta(seconds=-1)


def let_expire(message: Message) -> None:
    Message.objects.filter(pk=message.pk).update(expires_at=timezone.now() + PAST)


def expire_by_fence(message: Message) -> None:
    async def act() -> None:
        async with workers(1) as (worker,):
            fenced = await worker.fence()
            assert [each.verdict for each in fenced.waiting] == [Verdict.EXPIRED]
            assert [job.message_id for job in fenced.expired] == [str(message.pk)]

    let_expire(message)
    asyncio.run(act())


@pytest.mark.parametrize("is_doubted", [False, True])
def test_a_fence_says_nothing_of_one_that_expired_and_that_somebody_else_has_locked(
    is_doubted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    _, (message, behind) = resending("one", "two")
    if is_doubted:
        settle(OutcomeUnknown("no answer"))

    async def act() -> list[Fenced]:
        async with workers(2) as (person, worker):
            async with person.connection.transaction():
                await person.execute("SELECT 1 FROM wa_message WHERE id = %s FOR UPDATE", [message.pk])
                fenced = [await worker.fence()]
            return [*fenced, await worker.fence(), await worker.fence()]

    let_expire(message)
    caplog.clear()
    locked, free, after = asyncio.run(act())
    assert ([each.verdict for each in locked.waiting], locked.expired) == ([Verdict.OVERTAKEN], [])
    assert ([each.verdict for each in free.waiting], len(free.expired)) == ([Verdict.EXPIRED], 1)
    assert [flight.message_id for flight in after.flights] == [behind.pk]
    assert caplog.text.count("expired before it was sent again") == is_doubted


def expire_by_clock(message: Message) -> None:
    let_expire(message)
    assert expire() == 1


def cancel(message: Message) -> None:
    assert messages.cancel(message.pk, actor=ACTOR).status == now(message).status


def cancel_batch(message: Message) -> None:
    assert message.batch_id is not None
    batches.cancel(message.batch_id, actor=ACTOR)


def delete_session(message: Message) -> None:
    sessions.delete(message.session, actor=ACTOR, unsent="cancel")


def be_refused(message: Message) -> None:
    settle(PermanentError("not on WhatsApp", provider_code="1006"))


def be_refused_too_often(message: Message) -> None:
    Message.objects.filter(pk=message.pk).update(max_attempts=2)
    settle(RetryableError("too fast", provider_code="429"))


ENDS: list[tuple[Callable[[Message], None], str, Status]] = [
    (expire_by_fence, f"expired before it was sent again; {MAY_HAVE_ARRIVED}", Status.EXPIRED),
    (expire_by_clock, f"expired before it was sent again; {MAY_HAVE_ARRIVED}", Status.EXPIRED),
    (cancel, f"cancelled before it was sent again; {MAY_HAVE_ARRIVED}", Status.CANCELLED),
    (cancel_batch, f"cancelled before it was sent again; {MAY_HAVE_ARRIVED}", Status.CANCELLED),
    (delete_session, f"cancelled before it was sent again; {MAY_HAVE_ARRIVED}", Status.CANCELLED),
    (be_refused, f"refused now (not on WhatsApp), but {MAY_HAVE_ARRIVED}", Status.FAILED),
    (be_refused_too_often, f"refused now (too fast), but {MAY_HAVE_ARRIVED}", Status.FAILED),
]
each_end = pytest.mark.parametrize(("end", "why", "status"), ENDS, ids=[end.__name__ for end, *_ in ENDS])


@each_end
def test_it_ends_as_uncertain_and_says_both(end: Callable[[Message], None], why: str, status: Status) -> None:
    _, (message,) = resending("one")
    settle(OutcomeUnknown("no answer"))
    streak = SessionDispatch.objects.get().uncertain_streak
    end(message)
    assert (now(message).status, message.resends, message.next_attempt_at) == (Status.UNCERTAIN, 1, None)
    assert (message.error_class, message.error_detail, message.failed_at) == ("uncertain", why, None)
    told = Event.objects.filter(message=message).order_by("-id")
    assert (told[0].kind, told[0].data["error"], told[1].kind) == ("message.uncertain", why, "message.resent")
    assert not told.filter(kind__in=["message.failed", "message.expired", "message.cancelled"]).exists()
    assert [(item.kind, item.session, item.count) for item in items() if item.kind == "uncertain"] == [
        ("uncertain", "s", 1)
    ]
    # It is no new doubt of the engine, and the session goes on.
    assert SessionDispatch.objects.get().uncertain_streak <= streak
    assert SessionDispatch.objects.get().hold == Hold.NONE


@each_end
def test_one_of_which_nothing_is_in_doubt_ends_as_ever(
    end: Callable[[Message], None], why: str, status: Status
) -> None:
    _, (message,) = resending("one")
    settle(RetryableError("later"))
    end(message)
    assert now(message).status == status
    assert MAY_HAVE_ARRIVED not in message.error_detail


@each_end
def test_one_that_a_person_sends_again_ends_as_ever(end: Callable[[Message], None], why: str, status: Status) -> None:
    _, (message,) = resending("one")
    Session.objects.update(on_uncertain=OnUncertain.HOLD)
    settle(OutcomeUnknown("no answer"))
    assert now(message).status == Status.UNCERTAIN
    messages.resolve(message.pk, outcome="resend", actor=ACTOR)
    Message.objects.filter(pk=message.pk).update(attempts=1)
    end(message)
    assert (now(message).status, message.resends) == (status, 1)


def test_what_the_policy_sends_again_after_a_person_did_is_in_doubt_once_more() -> None:
    _, (message,) = resending("one")
    Session.objects.update(on_uncertain=OnUncertain.HOLD)
    settle(OutcomeUnknown("no answer"))
    messages.resolve(message.pk, outcome="resend", actor=ACTOR)
    Session.objects.update(on_uncertain=OnUncertain.RESEND)
    # Two in a row would hold it.
    SessionDispatch.objects.update(uncertain_streak=0)
    settle(OutcomeUnknown("no answer"), PermanentError("no"))
    assert (now(message).status, message.resends) == (Status.UNCERTAIN, 2)


def test_one_that_ended_so_is_looked_up_resolved_and_not_sent_again_by_itself(settings: Any) -> None:
    settings.WAQUEUE_LOOK_UP_SECONDS = [3]
    _, (message, behind) = resending("one", "two")
    settle(OutcomeUnknown("no answer"), PermanentError("no"))
    assert plan() == 1

    async def act() -> object:
        async with workers(1) as (worker,):
            return (await worker.fence_one()).message_id

    assert asyncio.run(act()) == behind.pk
    assert messages.resolve(message.pk, outcome="sent", actor=ACTOR).status == Status.SENT


def test_one_that_expired_so_is_sent_when_a_person_asks_for_it() -> None:
    _, (message,) = resending("one")
    settle(OutcomeUnknown("no answer"))
    expire_by_fence(message)
    messages.resolve(message.pk, outcome="resend", actor=ACTOR)
    settle(None)
    assert now(message).status == Status.SENT


def test_a_person_who_sends_it_again_in_time_leaves_it_its_end() -> None:
    _, (message,) = resending("one")
    Session.objects.update(on_uncertain=OnUncertain.HOLD)
    end = timezone.now() + timedelta(hours=1)
    Message.objects.update(expires_at=end)
    settle(OutcomeUnknown("no answer"))
    assert messages.resolve(message.pk, outcome="resend", actor=ACTOR).expires_at == end


def test_an_earlier_attempt_that_was_refused_after_all_leaves_no_doubt() -> None:
    _, (message,) = resending("one")

    async def act() -> None:
        async with workers(1) as (worker,):
            late = await settle_next(worker, PermanentError("no"), late=True)
            await worker.settle(died(late.flight, "its worker died"))
            await settle_next(worker, RetryableError("later"))
            # Evidence only: a newer attempt was fenced.
            await worker.settle(late)
            assert (await in_thread(Attempt.objects.earliest, "token")).late_outcome == "failed"
            await settle_next(worker, PermanentError("no"))

    asyncio.run(act())
    assert (now(message).status, message.resends) == (Status.FAILED, 1)


def test_a_late_refusal_of_the_only_attempt_in_doubt_fails_it() -> None:
    _, (message,) = resending("one")

    async def act() -> None:
        async with workers(1) as (worker,):
            late = await settle_next(worker, PermanentError("no"), late=True)
            await worker.settle(died(late.flight, "its worker died"))
            await worker.settle(late)

    asyncio.run(act())
    assert (now(message).status, message.resends) == (Status.FAILED, 1)


def test_a_late_refusal_of_one_of_two_attempts_in_doubt_calls_off_the_resend() -> None:
    _, (message,) = resending("one")

    async def act() -> None:
        async with workers(1) as (worker,):
            await settle_next(worker, OutcomeUnknown("no answer"))
            late = await settle_next(worker, PermanentError("no"), late=True)
            await worker.settle(died(late.flight, "its worker died"))
            (settled,) = await worker.settle(late)
            assert settled.is_current

    asyncio.run(act())
    assert (now(message).status, message.resends) == (Status.UNCERTAIN, 2)
    assert message.error_detail == f"refused now (no), but {MAY_HAVE_ARRIVED}"


def test_a_suspect_is_tried_alone_with_its_doubt() -> None:
    resending("one")

    async def act() -> tuple[bool, bool]:
        async with workers(1) as (worker,):
            first = await worker.fence_one()
            await worker.settle(died(first, "its worker died"))
            await in_thread(Message.objects.update, next_attempt_at=None)
            flight = await worker.fence_one()
            assert flight.deaths == 1
            return flight.is_doubted, trial._flight(trial.asked(flight).decode()).is_doubted

    assert asyncio.run(act()) == (True, True)


@pytest.mark.parametrize("large", [1000, 1])
def test_a_preview_says_how_those_end_that_expire_in_an_orphan(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "LARGE", large)
    session, (doubted, decided, never_sent) = resending("doubted", "decided", "never sent")
    # One of which a person knew that it may have arrived, and one that nobody has heard of.
    settle(OutcomeUnknown("no answer"), RetryableError("later"))
    become(doubted, Status.SCHEDULED)
    settle(OutcomeUnknown("no answer"))
    become(decided, Status.UNCERTAIN)
    messages.resolve(decided.pk, outcome="resend", actor=ACTOR)
    for message in (doubted, decided, never_sent):
        let_expire(message)
    sessions.delete(session, actor=ACTOR, unsent="orphan")
    seen = orphans.preview(Orphan.objects.get(), orphans.Selection())
    orphans.restore(Orphan.objects.get(), make_session("other"), actor=ACTOR)
    expire()
    assert [now(message).status for message in (doubted, decided, never_sent)] == ["uncertain", "expired", "expired"]
    assert seen is not None
    assert (seen.restored, seen.expired, seen.uncertain) == (3, 2, 1)


@pytest.mark.parametrize("what", ["purge", "restore"])
def test_one_that_became_an_orphan_is_in_doubt_still(what: str, redis_client: redis.Redis) -> None:
    session, (message,) = resending("one")
    settle(OutcomeUnknown("no answer"))
    let_expire(message)
    sessions.delete(session, actor=ACTOR, unsent="orphan")
    if what == "purge":
        orphans.purge(Orphan.objects.get(), expected=1, actor=ACTOR)
    else:
        orphans.restore(Orphan.objects.get(), make_session("other"), actor=ACTOR)
        assert expire() == 1
    assert (now(message).status, message.orphan_id) == (Status.UNCERTAIN, None)
    assert MAY_HAVE_ARRIVED in message.error_detail
    assert Event.objects.filter(message=message, kind="message.uncertain").count() == 1


def test_it_leaves_the_mirror(redis_client: redis.Redis) -> None:
    _, (message, behind) = resending("one", "two")
    settle(OutcomeUnknown("no answer"))
    cancel(message)
    assert job_ids(redis_client, "s") == [str(behind.pk)]


@pytest.mark.parametrize("end", [be_refused, be_refused_too_often])
def test_one_that_is_refused_under_a_policy_that_holds_the_session_holds_it(end: Callable[[Message], None]) -> None:
    session, (message, _) = resending("one", "two")
    settle(OutcomeUnknown("no answer"))
    sessions.update(session, actor=ACTOR, on_uncertain=OnUncertain.HOLD_SESSION)
    end(message)
    assert now(message).status == Status.UNCERTAIN
    dispatch = SessionDispatch.objects.get()
    assert (dispatch.hold, dispatch.hold_reason) == (Hold.UNCERTAIN, message.error_detail)
    assert Event.objects.get(kind=EventKind.SESSION_HELD).data["hold"] == Hold.UNCERTAIN
    messages.resolve(message.pk, outcome="sent", actor=ACTOR)
    assert SessionDispatch.objects.get().hold == Hold.NONE


@pytest.mark.parametrize("end", [expire_by_fence, expire_by_clock, cancel])
def test_one_that_ends_without_another_attempt_holds_nothing_under_any_policy(end: Callable[[Message], None]) -> None:
    session, (message, _) = resending("one", "two")
    settle(OutcomeUnknown("no answer"))
    sessions.update(session, actor=ACTOR, on_uncertain=OnUncertain.HOLD_SESSION)
    end(message)
    assert now(message).status == Status.UNCERTAIN
    assert SessionDispatch.objects.get().hold == Hold.NONE


def test_one_that_fails_without_a_doubt_holds_nothing_under_any_policy() -> None:
    session, (message, _) = resending("one", "two")
    sessions.update(session, actor=ACTOR, on_uncertain=OnUncertain.HOLD_SESSION)
    be_refused(message)
    assert (now(message).status, SessionDispatch.objects.get().hold) == (Status.FAILED, Hold.NONE)
