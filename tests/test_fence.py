"""The fence decides what is sent: one at a time, in order, whoever else is at it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from sessions_app.models import (
    Attempt,
    Event,
    Hold,
    InFlight,
    Message,
    Priority,
    SessionDispatch,
    Status,
)
from sessions_app.services import messages, sessions
from sessions_app.worker import outcomes
from sessions_app.worker.fence import Fenced, Verdict, fence
from sessions_app.worker.settle import settle
from tests.dispatch_lab import ACTOR, LabWorker, claimed, in_thread, session_with, until_blocked, workers

pytestmark = pytest.mark.django_db(transaction=True)


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def fence_once(*names: str) -> Fenced:
    async def act() -> Fenced:
        async with workers(1) as (worker,):
            return await worker.fence(*names)

    return run(act())


def verdict_of(*names: str) -> Verdict:
    (waiting,) = fence_once(*names).waiting
    return waiting.verdict


def test_the_first_message_is_committed_as_sending_with_its_attempt_before_anything_is_sent() -> None:
    _, (first, second) = session_with("one", "two")
    (flight,) = fence_once().flights

    assert flight.message_id == first.pk
    assert flight.content == {"to": "+51930246633", "type": "text", "text": "one"}
    assert flight.has_more
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, first.attempts, first.token) == (Status.SENDING, 1, flight.token)
    assert (second.status, second.attempts) == (Status.QUEUED, 0)
    attempt = Attempt.objects.get()
    assert (attempt.token, attempt.message_id, attempt.outcome) == (flight.token, first.pk, "")
    assert InFlight.objects.get().message_id == first.pk


@pytest.mark.fault(33)
def test_a_session_in_flight_is_refused_to_every_other_worker() -> None:
    session_with("one", "two")

    async def act() -> None:
        async with workers() as (one, other):
            assert len((await one.fence()).flights) == 1
            fenced = await other.fence()
            assert not fenced.flights
            assert fenced.waiting[0].verdict == Verdict.IN_FLIGHT
            assert 50_000 < (fenced.waiting[0].delay_ms or 0) <= 60_000

    run(act())
    assert InFlight.objects.count() == 1


def test_many_sessions_are_fenced_in_one_commit_and_the_empty_ones_leave_no_reservation() -> None:
    for number in range(20):
        session_with(*(["text"] if number % 2 else []), name=f"s{number}")
    fenced = fence_once(*(f"s{number}" for number in range(20)), "nobody")

    assert {flight.session_name for flight in fenced.flights} == {f"s{number}" for number in range(1, 20, 2)}
    verdicts = {waiting.claimed.name: waiting.verdict for waiting in fenced.waiting}
    assert verdicts.pop("nobody") == Verdict.GONE
    assert set(verdicts.values()) == {Verdict.EMPTY}
    assert InFlight.objects.count() == 10


@pytest.mark.fault(33)
def test_a_session_that_is_named_twice_sends_one_message() -> None:
    session_with("one", "two")

    async def act() -> int:
        async with workers(1) as (own,):
            return len((await own.fence("s", "s")).flights)

    assert asyncio.run(act()) == 1


@pytest.mark.fault(33)
def test_two_workers_who_fence_one_session_at_once_send_one_message() -> None:
    session_with("one", "two")

    async def act() -> list[Fenced]:
        async with workers(8) as made:
            return list(await asyncio.gather(*(worker.fence() for worker in made)))

    flights = [flight for fenced in run(act()) for flight in fenced.flights]
    assert len(flights) == 1
    assert InFlight.objects.count() == Attempt.objects.count() == 1


async def _hold_the_settle(one: LabWorker, other: LabWorker, settlement: outcomes.Settlement) -> Fenced:
    """Have `other` fence while the settle of `one` is written but not committed; then commit."""
    async with workers(1) as (observer,):
        async with one.connection.transaction():
            await settle(one.connection, [settlement])
            fencing = asyncio.create_task(other.fence())
            await until_blocked(observer, other)
        return await fencing


@pytest.mark.fault(33)
def test_a_worker_that_waited_for_the_settle_sends_the_next_message_and_not_the_settled_one() -> None:
    _, (first, second) = session_with("one", "two")

    async def act() -> Fenced:
        async with workers() as (one, other):
            flight = await one.fence_one()
            return await _hold_the_settle(one, other, outcomes.accepted(flight, "engine-1"))

    fenced = run(act())
    assert [flight.message_id for flight in fenced.flights] == [second.pk]
    first.refresh_from_db()
    assert (first.status, first.attempts, first.provider_id) == (Status.SENT, 1, "engine-1")


@pytest.mark.fault(33)
def test_a_worker_that_waited_for_a_retry_does_not_overtake_the_message_that_waits() -> None:
    _, (first, second) = session_with("one", "two")

    async def act() -> Fenced:
        async with workers() as (one, other):
            flight = await one.fence_one()
            late = outcomes.RetryableError("later", after_ms=60_000)
            return await _hold_the_settle(one, other, outcomes.refused(flight, late))

    fenced = run(act())
    assert not fenced.flights
    assert fenced.waiting[0].verdict == Verdict.WAIT
    assert 50_000 < (fenced.waiting[0].delay_ms or 0) <= 60_000
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, second.status) == (Status.QUEUED, Status.QUEUED)


@pytest.mark.fault(33)
def test_a_worker_that_waited_while_the_message_was_put_back_sends_that_same_message_once() -> None:
    _, (first, _) = session_with("one", "two")

    async def act() -> Fenced:
        async with workers() as (one, other):
            flight = await one.fence_one()
            return await _hold_the_settle(one, other, outcomes.returned(flight, "not handed over"))

    (flight,) = run(act()).flights
    assert flight.message_id == first.pk
    first.refresh_from_db()
    # The first attempt does not count: the engine never heard of it.
    assert first.attempts == 1


@pytest.mark.fault(33)
@pytest.mark.parametrize("status", ["cancelled", "failed"])
def test_a_message_that_is_taken_away_between_look_and_commit_is_not_sent(status: str) -> None:
    _, (first, second) = session_with("one", "two")

    async def act() -> tuple[Fenced, Fenced]:
        async with workers() as (person, worker):
            async with person.connection.transaction():
                await person.execute("UPDATE wa_message SET status = %s WHERE id = %s", [status, first.pk])
                # It does not wait for the person, and does not go past the message either.
                interrupted = await worker.fence()
            return interrupted, await worker.fence()

    interrupted, after = run(act())
    assert not interrupted.flights
    assert interrupted.waiting[0].verdict == Verdict.OVERTAKEN
    assert [flight.message_id for flight in after.flights] == [second.pk]


@pytest.mark.fault(33)
def test_a_message_retried_by_a_person_while_a_worker_waits_keeps_its_place() -> None:
    _, (first, second, third) = session_with("one", "two", "three")
    Message.objects.filter(pk=first.pk).update(status=Status.FAILED)

    async def act() -> tuple[Fenced, Fenced]:
        async with workers() as (one, other):
            flight = await one.fence_one()
            assert flight.message_id == second.pk
            await in_thread(messages.retry, first.pk, actor=ACTOR)
            return (
                await _hold_the_settle(one, other, outcomes.accepted(flight, "x")),
                await one.fence(),
            )

    waited, refused = run(act())
    assert [flight.message_id for flight in waited.flights] == [first.pk]
    assert refused.waiting[0].verdict == Verdict.IN_FLIGHT
    third.refresh_from_db()
    assert third.status == Status.QUEUED


@pytest.mark.fault(33)
def test_a_rolled_back_reservation_leaves_the_session_to_the_worker_who_waited() -> None:
    session_with("one")

    async def act() -> Fenced:
        async with workers(3) as (dying, worker, observer):
            await dying.execute("BEGIN")
            await dying.execute(
                "INSERT INTO wa_in_flight (session_id, slot, token, worker_id, fenced_at, deadline_at) "
                "SELECT id, 0, 1, %s, now(), now() FROM wa_session",
                [dying.id],
            )
            fencing = asyncio.create_task(worker.fence())
            await until_blocked(observer, worker)
            await dying.connection.close()
            return await fencing

    assert len(run(act()).flights) == 1


def test_high_priority_goes_before_normal_and_each_class_in_order() -> None:
    session, normal = session_with("one", "two")
    high = messages.submit(
        session,
        [messages.Draft(to="+51930246633", text=text, priority=Priority.HIGH) for text in ("high one", "high two")],
    )

    async def act() -> list[Any]:
        async with workers(1) as (worker,):
            sent = []
            while (fenced := await worker.fence()).flights:
                sent.append(fenced.flights[0].message_id)
                await settle(worker.connection, [outcomes.accepted(fenced.flights[0], "x")])
            return sent

    assert run(act()) == [message.pk for message in (*high, *normal)]


def test_a_paused_session_sends_nothing() -> None:
    session, _ = session_with("one")
    sessions.act(session, "pause", actor=ACTOR)
    assert verdict_of("s") == Verdict.STOPPED


def test_a_held_session_sends_nothing() -> None:
    session_with("one")
    SessionDispatch.objects.update(hold=Hold.REFUSED)
    assert verdict_of("s") == Verdict.HELD


def test_a_held_session_whose_line_is_empty_is_held_too_so_that_its_engine_is_asked() -> None:
    session_with()
    SessionDispatch.objects.update(hold=Hold.DOUBT)
    assert verdict_of("s") == Verdict.HELD


def test_an_expired_message_is_final_and_the_next_one_goes() -> None:
    _, (first, second) = session_with("one", "two")
    Message.objects.filter(pk=first.pk).update(expires_at=timezone.now() - timedelta(seconds=1))

    fenced = fence_once()
    assert fenced.waiting[0].verdict == Verdict.EXPIRED
    assert [job.message_id for job in fenced.expired] == [str(first.pk)]
    first.refresh_from_db()
    assert first.status == Status.EXPIRED
    assert Event.objects.filter(kind="message.expired", message=first).count() == 1
    assert [flight.message_id for flight in fence_once().flights] == [second.pk]


def test_quiet_hours_hold_the_line_until_they_end() -> None:
    session_with("one")
    now = timezone.now()
    SessionDispatch.objects.update(quiet_from=now - timedelta(hours=1), quiet_until=now + timedelta(hours=1))
    (waiting,) = fence_once().waiting
    assert waiting.verdict == Verdict.WAIT
    assert 3_500_000 < (waiting.delay_ms or 0) <= 3_600_000


def test_quiet_hours_that_are_over_are_to_be_computed_anew_before_anything_is_sent() -> None:
    session_with("one")
    now = timezone.now()
    SessionDispatch.objects.update(quiet_from=now - timedelta(hours=2), quiet_until=now - timedelta(hours=1))
    assert verdict_of("s") == Verdict.QUIET_OVER


def test_a_row_that_says_sending_though_nothing_is_in_flight_is_found() -> None:
    _, (first,) = session_with("one")
    Message.objects.filter(pk=first.pk).update(status=Status.SENDING, token=7)
    (flight,) = fence_once().abandoned
    assert (flight.message_id, flight.token) == (first.pk, 7)
    assert not InFlight.objects.exists()


def test_a_deleted_session_is_gone_and_its_name_does_not_lend_its_line_to_a_new_one() -> None:
    session, _ = session_with("one")
    sessions.delete(session, unsent="cancel", actor=ACTOR)
    assert verdict_of("s") == Verdict.GONE
    session_with()
    assert verdict_of("s") == Verdict.EMPTY


def test_a_transport_without_room_lets_its_first_ones_go() -> None:
    for name in ("a", "b", "c", "d", "e"):
        session_with("one", name=name)

    async def act() -> Fenced:
        async with workers(1) as (own,):
            return await fence(own.connection, own.id, claimed("a", "b", "c", "d", "e"), {"loopback": 2, "waha": 0})

    fenced = run(act())
    assert len(fenced.flights) == 2
    # Who was named first goes first.
    assert {flight.session_name for flight in fenced.flights} == {"a", "b"}
    assert {waiting.verdict for waiting in fenced.waiting} == {Verdict.BUSY}
    # Nothing is left of those that wait: neither a reservation nor an attempt.
    assert InFlight.objects.count() == Attempt.objects.count() == 2
    assert Message.objects.filter(status=Status.QUEUED, attempts=0).count() == 3


def test_a_database_that_lacks_an_attempt_is_older_and_nothing_of_it_is_sent() -> None:
    session_with("one", name="a")

    async def act(known: int) -> Fenced:
        async with workers(1) as (own,):
            return await fence(own.connection, own.id, claimed("a", "nobody"), known=known)

    fenced = run(act(1))
    assert [waiting.verdict for waiting in fenced.waiting] == [Verdict.OLDER, Verdict.OLDER]
    assert not InFlight.objects.exists() and not Attempt.objects.exists()
    (flight,) = run(act(0)).flights
    run(settle_as_sent(flight))
    # The attempt that it knows it has.
    assert {waiting.verdict for waiting in run(act(flight.token)).waiting} == {Verdict.EMPTY, Verdict.GONE}


async def settle_as_sent(flight: outcomes.Flight) -> None:
    async with workers(1) as (own,):
        await settle(own.connection, [outcomes.accepted(flight, "id")])
