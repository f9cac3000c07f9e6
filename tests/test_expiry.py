"""A message whose time is over has expired on time, whatever its session waits for and wherever it stands."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.db import connection, transaction
from django.utils import timezone

from sessions_app.models import DesiredState, Event, EventKind, Hold, Message, Session, SessionDispatch, Status
from sessions_app.queues import keys
from sessions_app.services import messages, sessions
from sessions_app.worker import expiry
from sessions_app.worker.dispatcher import Dispatcher
from sessions_app.worker.expiry import expire
from sessions_app.worker.fence import Verdict
from tests.dispatch_lab import make_dispatcher, session_with, workers
from tests.factories import (
    ACTOR,
    at_once,
    become,
    fly,
    is_due,
    job_ids,
    line,
    make_session,
    now,
    observer,
    submit,
    traces,
)

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)
IN_A_MINUTE = timedelta(minutes=1)


def let_expire(*made: Message) -> None:
    Message.objects.filter(pk__in=[message.pk for message in made]).update(
        expires_at=timezone.now() - timedelta(seconds=1)
    )


def expire_all() -> int:
    total = 0
    for _ in range(100):
        if not (count := expire()):
            return total
        total += count
    raise AssertionError("what has expired expires again and again")


# The head of a line.


@pytest.mark.parametrize(
    ("expires_in", "expected"),
    [(IN_A_MINUTE, 60_000), (2 * HOUR, 3_600_000), (None, 3_600_000)],
    ids=["before", "after", "never"],
)
@pytest.mark.parametrize("what", ["pace", "retry", "quiet hours"])
def test_a_session_that_waits_is_looked_at_when_its_first_message_expires(
    what: str, expires_in: timedelta | None, expected: int
) -> None:
    session_with("one", "two")
    at = timezone.now()
    if expires_in is not None:
        Message.objects.filter(text="one").update(expires_at=at + expires_in)
    if what == "pace":
        SessionDispatch.objects.update(next_send_at=at + HOUR)
    elif what == "retry":
        Message.objects.filter(text="one").update(next_attempt_at=at + HOUR)
    else:
        SessionDispatch.objects.update(quiet_from=at - HOUR, quiet_until=at + HOUR)

    async def act() -> int:
        async with workers(1) as (worker,):
            dispatcher: Dispatcher = await make_dispatcher(worker)
            (waiting,) = (await worker.fence()).waiting
            assert waiting.verdict == Verdict.WAIT
            return dispatcher._waits.delay_ms(waiting) or 0

    assert expected - 20_000 < asyncio.run(act()) <= expected


# All others.


@pytest.mark.parametrize("state", ["paced", "paused", "stopped", "held", "not the first"])
def test_it_expires_whatever_its_session_does(state: str, redis_client: redis.Redis) -> None:
    session = make_session()
    made = submit(session, "one", "two", "three")
    message = made[1] if state == "not the first" else made[0]
    if state in (DesiredState.PAUSED, DesiredState.STOPPED):
        Session.objects.update(desired_state=state)
    elif state == "held":
        SessionDispatch.objects.update(hold=Hold.REFUSED)
    else:
        SessionDispatch.objects.update(next_send_at=timezone.now() + HOUR)
    let_expire(message)
    redis_client.zadd(keys.DUE, {"alpha": 4_000_000_000_000})
    assert expire() == 1
    assert expire() == 0
    assert now(message).status == Status.EXPIRED
    assert traces(message)[0] == [EventKind.MESSAGE_QUEUED, EventKind.MESSAGE_EXPIRED]
    others = [str(each.pk) for each in made if each != message]
    assert line(session) == job_ids(redis_client, "alpha") == others
    # What stood behind it may not have to wait.
    assert is_due(redis_client, "alpha")


def test_only_what_is_queued_and_has_expired_is_touched(redis_client: redis.Redis) -> None:
    made = submit(make_session(), *"abcdef")
    let_expire(*made[:4])
    fly(made[0])
    become(made[1], Status.SENT)
    become(made[2], Status.SCHEDULED)
    Message.objects.filter(pk=made[4].pk).update(expires_at=timezone.now() + HOUR)
    assert expire_all() == 1
    assert [now(each).status for each in made] == ["sending", "sent", "scheduled", "expired", "queued", "queued"]


def test_many_expire_in_parts_the_oldest_first(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "_BATCH", 40)
    alpha, beta = make_session("alpha"), make_session("beta")
    made = [*submit(alpha, *["text"] * 70), *submit(beta, *["text"] * 30)]
    last = submit(alpha, "last")
    let_expire(*made)
    Message.objects.filter(pk=made[99].pk).update(expires_at=timezone.now() - HOUR)
    assert expire() == 40
    assert now(made[99]).status == Status.EXPIRED
    assert [expire(), expire(), expire()] == [40, 20, 0]
    assert job_ids(redis_client, "alpha") == [str(last[0].pk)]
    assert job_ids(redis_client, "beta") == []
    assert Event.objects.filter(kind=EventKind.MESSAGE_EXPIRED).count() == 100


def test_several_at_once_expire_each_message_once(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "_BATCH", 7)
    let_expire(*submit(make_session(), *["text"] * 60))
    assert sum(at_once(*[expire_all] * 4)) == 60
    assert Event.objects.filter(kind=EventKind.MESSAGE_EXPIRED).count() == 60


def test_one_that_a_fence_has_in_hand_is_left_to_it_and_not_waited_for(redis_client: redis.Redis) -> None:
    (message,) = submit(make_session(), "one")
    let_expire(message)
    with observer() as fence:
        fence.autocommit = False
        fence.execute("UPDATE wa_message SET status = 'sending' WHERE id = %s", [message.pk])
        assert expire() == 0
        fence.commit()
    assert expire() == 0
    assert now(message).status == Status.SENDING


def test_a_fence_leaves_alone_what_is_expiring_and_sends_the_next_afterwards(redis_client: redis.Redis) -> None:
    _, (first, second) = session_with("one", "two")

    async def fenced() -> Any:
        async with workers(1) as (worker,):
            return await worker.fence()

    let_expire(first)
    with transaction.atomic():
        assert expire() == 1
        # Whoever looked before the commit sees it as the first still.
        assert not at_once(lambda: asyncio.run(fenced()))[0].flights
    assert [flight.message_id for flight in asyncio.run(fenced()).flights] == [second.pk]
    assert Event.objects.filter(kind=EventKind.MESSAGE_EXPIRED).count() == 1


def test_one_that_is_cancelled_first_does_not_expire(redis_client: redis.Redis) -> None:
    (message,) = submit(make_session(), "one")
    let_expire(message)
    with transaction.atomic():
        messages.cancel(message.pk, actor=ACTOR)
        assert at_once(expire) == [0]
    assert expire() == 0
    assert now(message).status == Status.CANCELLED


def test_nothing_expires_in_a_database_that_is_older_than_its_redis(redis_client: redis.Redis) -> None:
    (message,) = submit(make_session(), "one")
    let_expire(message)
    redis_client.hset(keys.META, "mark", 1000)
    assert expire() == 0
    assert now(message).status == Status.QUEUED


def test_those_that_expire_are_found_by_an_index_in_which_no_other_stands(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, *["text"] * 50)
    let_expire(*submit(session, "one"))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE wa_message")
        cursor.execute("SET enable_seqscan = off")
        try:
            cursor.execute(f"EXPLAIN {expiry._OVER}", [500])
            plan = "\n".join(row[0] for row in cursor.fetchall())
        finally:
            cursor.execute("RESET enable_seqscan")
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'wa_message_expires'")
        (definition,) = cursor.fetchone()
    assert "Index Scan using wa_message_expires" in plan
    assert "Sort" not in plan
    assert "expires_at IS NOT NULL" in definition and "'queued'" in definition


def test_a_deleted_session_has_nothing_that_expires(redis_client: redis.Redis) -> None:
    session = make_session()
    let_expire(*submit(session, "one"))
    sessions.delete(session, actor=ACTOR, unsent="orphan")
    assert expire() == 0
