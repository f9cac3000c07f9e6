"""A change of pacing takes effect on the next message: its wait counts from the last hand-over, by the new numbers."""

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from sessions_app.exceptions import NotConnected, OutcomeUnknown, PermanentError, RetryableError
from sessions_app.models import Attempt, Event, EventKind, Message, RecipientPace, Session, SessionDispatch
from sessions_app.services import messages, repacing, sessions
from sessions_app.services.database_clock import database_now
from sessions_app.services.pacing import Pacing
from sessions_app.worker.fence import Fenced
from sessions_app.worker.outcomes import accepted, refused
from tests.dispatch_lab import in_thread, session_with, until_blocked, workers
from tests.factories import ACTOR, PHONE
from tests.size_lab import lengthen

pytestmark = pytest.mark.django_db(transaction=True)

MINUTE = Pacing(min_interval_ms=60_000, max_interval_ms=60_000)
HOUR = Pacing(min_interval_ms=3_600_000, max_interval_ms=3_600_000)
HALF_TO_WHOLE = Pacing(min_interval_ms=30_000, max_interval_ms=60_000)
# Half a day from now: by day the waits are those of the pace.
_EVENING = datetime.now(UTC) + timedelta(hours=12)
NIGHT = {"quiet_start": _EVENING.time(), "quiet_end": (_EVENING + timedelta(hours=1)).time()}


def send(error: Exception | None = None) -> None:
    """Hand one message over, as a worker does, and write what came of it."""

    async def act() -> None:
        async with workers(1) as (worker,):
            flight = await worker.fence_one()
            await worker.settle(refused(flight, error) if error else accepted(flight, "id"))

    asyncio.run(act())


def look() -> Fenced:
    """What a worker is told that asks for the next message."""

    async def act() -> Fenced:
        async with workers(1) as (worker,):
            return await worker.fence()

    return asyncio.run(act())


def dispatch() -> SessionDispatch:
    return SessionDispatch.objects.get()


def change(session: Session, pacing: Pacing) -> None:
    sessions.update(session, actor=ACTOR, pacing=pacing)


def seconds_after(moment: datetime | None) -> float:
    """How long after `moment` the session may send again."""
    until = dispatch().next_send_at
    assert until is not None and moment is not None
    return (until - moment).total_seconds()


@pytest.mark.parametrize("more", [{"hourly_cap": 100}, {"daily_cap": 100}, NIGHT, {"hourly_cap": 100, **NIGHT}])
def test_a_change_of_something_else_leaves_the_waits_as_they_are(more: dict[str, Any]) -> None:
    pacing = replace(HALF_TO_WHOLE, per_recipient_ms=60_000)
    session, _ = session_with("one", "two", pacing=pacing)
    send()
    until, recipient_until = dispatch().next_send_at, RecipientPace.objects.get().next_send_at
    change(session, replace(pacing, **more))
    assert dispatch().next_send_at == until
    assert RecipientPace.objects.get().next_send_at == recipient_until
    (waiting,) = look().waiting
    assert waiting.verdict == "wait"
    assert 30_000 < (waiting.delay_ms or 0) <= 60_000


@pytest.mark.parametrize("pacing", [MINUTE, HALF_TO_WHOLE])
@pytest.mark.parametrize(("shortest", "longest"), [(2_000, 4_000), (100_000, 200_000), (0, 300_000), (7_000, 7_000)])
def test_a_new_interval_counts_from_the_last_message(pacing: Pacing, shortest: int, longest: int) -> None:
    session, _ = session_with("one", "two", pacing=pacing)
    send()
    change(session, replace(pacing, min_interval_ms=shortest, max_interval_ms=longest))
    assert shortest / 1000 <= seconds_after(dispatch().last_sent_at) <= longest / 1000


def test_new_intervals_are_random_between_the_two() -> None:
    session, _ = session_with("one", "two", pacing=MINUTE)
    send()
    waits = set()
    for shortest in range(3_000, 3_008):
        change(session, Pacing(min_interval_ms=shortest, max_interval_ms=9_000))
        waits.add(seconds_after(dispatch().last_sent_at))
    assert all(3 <= wait <= 9 for wait in waits)
    assert max(waits) - min(waits) > 0.5


def test_changes_back_and_forth_end_no_wait() -> None:
    session, _ = session_with("one", "two", pacing=MINUTE)
    send()
    for pacing in (Pacing(), MINUTE, Pacing(hourly_cap=5), MINUTE):
        change(session, pacing)
    # Of a session that had no pace it is known to 5 s when it sent last.
    assert 60 <= seconds_after(dispatch().last_sent_at) <= 65


def test_a_pace_that_is_switched_off_ends_its_wait_and_the_next_goes_at_once() -> None:
    session, _ = session_with("one", "two", pacing=replace(MINUTE, per_recipient_ms=60_000))
    send()
    assert not look().flights
    change(session, Pacing())
    assert dispatch().next_send_at is None
    assert len(look().flights) == 1


def test_a_pace_that_is_switched_on_counts_from_the_last_message_of_which_the_row_may_not_say_yet() -> None:
    session, _ = session_with("one", "two", "three")
    send()
    send()
    sent_at = Message.objects.filter(status="sent").latest("seq").sent_at
    assert dispatch().last_sent_at != sent_at
    change(session, MINUTE)
    assert 60 <= seconds_after(sent_at) <= 65


def test_a_session_that_never_sent_waits_for_nothing() -> None:
    session, _ = session_with("one")
    change(session, MINUTE)
    assert dispatch().next_send_at is None
    assert len(look().flights) == 1


@pytest.mark.parametrize("sends_before", [True, False])
def test_a_new_interval_counts_from_an_attempt_that_failed_too(sends_before: bool) -> None:
    session, _ = session_with("one", "two", "three", pacing=MINUTE)
    if sends_before:
        send()
        an_hour = timedelta(hours=1)
        last = dispatch().last_sent_at
        assert last is not None
        SessionDispatch.objects.update(next_send_at=None, last_sent_at=last - an_hour)
    send(PermanentError("no such number"))
    failed_at = Message.objects.get(status="failed").failed_at
    change(session, replace(MINUTE, min_interval_ms=90_000, max_interval_ms=90_000))
    assert seconds_after(failed_at) == 90


def test_a_cap_that_is_raised_ends_its_wait_and_not_the_pause() -> None:
    session, _ = session_with("one", "two", pacing=replace(MINUTE, hourly_cap=1))
    send()
    last = dispatch().last_sent_at
    assert seconds_after(last) == 3600
    change(session, replace(MINUTE, hourly_cap=2))
    assert seconds_after(last) == 60
    change(session, replace(MINUTE, hourly_cap=1, daily_cap=1))
    assert seconds_after(last) == 24 * 3600
    change(session, replace(MINUTE, hourly_cap=1, daily_cap=2))
    assert seconds_after(last) == 3600


@pytest.mark.parametrize("new_ms", [90_000, 20_000])
def test_a_recipients_wait_ends_as_much_later_or_sooner_as_the_new_one_is_longer_or_shorter(new_ms: int) -> None:
    session, _ = session_with("one", "two", pacing=Pacing(per_recipient_ms=60_000))
    send()
    sent_at = Message.objects.get(status="sent").sent_at
    assert sent_at is not None
    change(session, Pacing(per_recipient_ms=new_ms))
    assert RecipientPace.objects.get().next_send_at == sent_at + timedelta(milliseconds=new_ms)
    change(session, Pacing())
    assert not RecipientPace.objects.exists()


def test_what_an_earlier_pace_per_recipient_left_behind_is_not_a_wait() -> None:
    session, _ = session_with("one")
    RecipientPace.objects.create(session=session, recipient=PHONE, next_send_at=datetime.now(UTC) + timedelta(hours=1))
    change(session, Pacing(per_recipient_ms=60_000))
    assert not RecipientPace.objects.exists()


@pytest.mark.parametrize(
    "error", [None, PermanentError("no"), RetryableError("later"), OutcomeUnknown("no answer")], ids=type
)
@pytest.mark.parametrize("before", [0, 60_000], ids=["on", "off and on again"])
def test_a_wait_per_recipient_that_is_switched_on_counts_from_the_last_hand_over(
    before: int, error: Exception | None
) -> None:
    session, _ = session_with("one", "two", pacing=Pacing(per_recipient_ms=before))
    send(error)
    if before:
        change(session, Pacing())
    change(session, Pacing(per_recipient_ms=3_600_000))
    finished_at = Attempt.objects.get().finished_at
    assert finished_at is not None
    waits = RecipientPace.objects.get().next_send_at - finished_at
    assert timedelta(hours=1) <= waits < timedelta(hours=1, seconds=1)
    Message.objects.update(next_attempt_at=None)
    (waiting,) = look().waiting
    assert waiting.verdict == "wait"


def test_only_what_was_handed_over_within_the_new_wait_counts() -> None:
    session, _ = session_with("one", "two", "three")
    send()
    send(NotConnected("no link"))
    SessionDispatch.objects.update(hold="")
    # Of what is told of a message, most is no hand-over.
    Event.objects.create(kind=EventKind.MESSAGE_UNCERTAIN, session=session, message=Message.objects.latest("seq"))
    Event.objects.filter(kind=EventKind.MESSAGE_SENT).update(created_at=Now() - timedelta(seconds=61))
    change(session, Pacing(per_recipient_ms=60_000))
    assert not RecipientPace.objects.exists()
    assert len(look().flights) == 1


def test_each_recipient_waits_from_the_last_message_to_itself() -> None:
    session, _ = session_with("one", "two")
    messages.submit(session, [messages.Draft(to="+51930246634", text="three")])
    for _ in range(3):
        send()
    ages = {"one": 50, "two": 30, "three": 10}
    for text, age in ages.items():
        told = Event.objects.filter(kind=EventKind.MESSAGE_SENT, message__text=text)
        told.update(created_at=Now() - timedelta(seconds=age))
    began = database_now()
    change(session, Pacing(per_recipient_ms=60_000))
    waits = dict(RecipientPace.objects.values_list("recipient", "next_send_at"))
    left = {to: (until - began).total_seconds() for to, until in waits.items()}
    assert left == {PHONE: pytest.approx(30, abs=5), "+51930246634": pytest.approx(50, abs=5)}


def test_a_hand_over_that_is_being_settled_when_the_wait_is_switched_on_counts() -> None:
    session, _ = session_with("one", "two")

    async def act() -> Fenced:
        async with workers(2) as (own, other):
            flight = await own.fence_one()
            async with other.connection.transaction(force_rollback=True):
                await other.execute("UPDATE wa_message SET text = text WHERE id = %s", [flight.message_id])
                settling = asyncio.create_task(own.settle(accepted(flight, "id")))
                # It has seen the session as it was, and waits for the row.
                await until_blocked(other, own)
                await in_thread(change, session, Pacing(per_recipient_ms=3_600_000))
            await settling
            return await own.fence()

    (waiting,) = asyncio.run(act()).waiting
    assert waiting.verdict == "wait"


def test_hand_overs_are_found_by_the_index_of_the_sessions_events_and_their_messages_by_key() -> None:
    session, (_, second) = session_with("one", "two")
    send()
    lengthen(second, 500, start=3)
    values = {"session": session.pk, "wait_ms": 3_600_000, "kinds": repacing._HANDED_OVER}
    with connection.cursor() as cursor:
        # Among many of others.
        cursor.execute(
            "INSERT INTO wa_event (kind, session_id, data) "
            "SELECT 'message.sent', 1000 + n % 100, '{}' FROM generate_series(1, 5000) n"
        )
        cursor.execute("ANALYZE wa_event, wa_message")
        cursor.execute(f"EXPLAIN {repacing._RECIPIENTS}", values)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert plan.count("wa_event_of_session") == 2
    assert "wa_message_pkey" in plan and "Seq Scan" not in plan


def test_a_retry_waits_as_long_as_before() -> None:
    session, (message,) = session_with("one", pacing=MINUTE)
    again = datetime.now(UTC) + timedelta(hours=1)
    Message.objects.update(next_attempt_at=again)
    change(session, Pacing(min_interval_ms=1, max_interval_ms=1))
    message.refresh_from_db()
    assert message.next_attempt_at == again


@pytest.mark.parametrize("old", [Pacing(), MINUTE, HOUR])
@pytest.mark.parametrize("new", [Pacing(), MINUTE, HOUR])
def test_an_outcome_that_is_written_while_the_pace_changes_is_followed_by_the_new_wait(
    old: Pacing, new: Pacing
) -> None:
    session, _ = session_with("one", "two", pacing=old)
    is_changed, may_commit = threading.Event(), threading.Event()

    def change_slowly() -> None:
        with transaction.atomic():
            change(session, replace(new, daily_cap=100))
            is_changed.set()
            may_commit.wait(30)

    async def act() -> Fenced:
        async with workers(2) as (own, observer):
            flight = await own.fence_one()
            changing = asyncio.create_task(in_thread(change_slowly))
            await asyncio.to_thread(is_changed.wait, 30)
            settling = asyncio.create_task(own.settle(accepted(flight, "id")))
            await until_blocked(observer, own)
            may_commit.set()
            await changing
            await settling
            return await own.fence()

    began = datetime.now(UTC)
    fenced = asyncio.run(act())
    assert bool(fenced.flights) is (not new.max_interval_ms)
    if new.max_interval_ms:
        assert 0 <= seconds_after(began) - new.min_interval_ms / 1000 < 30
