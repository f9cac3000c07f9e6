"""A session that has something to send and that nobody would look at is found, signalled and told of."""

import logging
import math
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from django.utils import timezone

from sessions_app.models import (
    PROBED_HOLDS,
    Hold,
    Message,
    Priority,
    RecipientPace,
    Session,
    SessionDispatch,
    Status,
)
from sessions_app.queues import keys
from sessions_app.reconciliation.stranded import signal_stranded
from sessions_app.services import sessions
from tests.factories import (
    ACTOR,
    PHONE,
    become,
    fly,
    hold,
    in_an_hour,
    is_due,
    job_ids,
    line,
    make_session,
    submit,
)

pytestmark = pytest.mark.django_db(transaction=True)


def strand(session: Session, client: redis.Redis, *, seconds: int = 6) -> Session:
    """Let the session's messages have waited so long without anybody having been told."""
    Message.objects.filter(session=session).update(queued_at=timezone.now() - timedelta(seconds=seconds))
    client.flushdb()
    return session


@pytest.fixture
def session(redis_client: redis.Redis) -> Session:
    session = make_session()
    submit(session, "one", "two")
    return strand(session, redis_client)


def test_it_is_signalled_told_of_and_mirrored(
    session: Session, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert signal_stranded() == 1
    assert is_due(redis_client, "alpha")
    assert caplog.messages == ["session alpha had 2 messages that nobody was looking at: signalled"]
    assert job_ids(redis_client, "alpha") == line(session)


def test_it_is_signalled_once(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    assert signal_stranded() == 1
    assert signal_stranded() == 0
    assert len(caplog.messages) == 1


def due_in(client: redis.Redis, seconds: float) -> None:
    """Have the session looked at in so many seconds by the clock of Redis."""
    client.zadd(keys.DUE, {"alpha": (client.time()[0] + seconds) * 1000})


@pytest.mark.parametrize("seconds", [-1e9, 0, 15])
def test_one_that_is_due_or_just_claimed_is_not_stranded(
    seconds: float, session: Session, redis_client: redis.Redis
) -> None:
    due_in(redis_client, seconds)
    before = redis_client.zscore(keys.DUE, "alpha")
    assert signal_stranded() == 0
    assert redis_client.zscore(keys.DUE, "alpha") == before


@pytest.mark.parametrize("seconds", [25, 8 * 3600, math.inf])
def test_one_that_is_due_later_than_it_has_to_wait_is_signalled(
    seconds: float, session: Session, redis_client: redis.Redis
) -> None:
    due_in(redis_client, seconds)
    assert signal_stranded() == 1
    assert is_due(redis_client, "alpha")


def by_retry(session: Session) -> None:
    Message.objects.update(next_attempt_at=in_an_hour())


def by_pace(session: Session) -> None:
    SessionDispatch.objects.update(next_send_at=in_an_hour())


def by_quiet_hours(session: Session) -> None:
    SessionDispatch.objects.update(quiet_from=timezone.now(), quiet_until=in_an_hour())


def by_recipient(session: Session) -> None:
    Session.objects.update(per_recipient_ms=1000)
    RecipientPace.objects.create(session=session, recipient=PHONE, next_send_at=in_an_hour())


@pytest.mark.parametrize("waits", [by_retry, by_pace, by_quiet_hours, by_recipient])
def test_how_long_one_has_to_wait_is_what_the_fence_would_say(
    waits: Callable[[Session], None], session: Session, redis_client: redis.Redis
) -> None:
    waits(session)
    due_in(redis_client, 3610)
    assert signal_stranded() == 0
    due_in(redis_client, 3640)
    assert signal_stranded() == 1


@pytest.mark.parametrize("why", PROBED_HOLDS)
def test_one_that_is_held_is_looked_at_when_its_engine_is_to_be_asked(
    why: Hold, session: Session, redis_client: redis.Redis
) -> None:
    hold(session, why)
    due_in(redis_client, 8 * 3600)
    assert signal_stranded() == 0


def nothing_open(session: Session) -> None:
    Message.objects.update(status=Status.SENT)


def everything_scheduled(session: Session) -> None:
    Message.objects.update(status=Status.SCHEDULED, scheduled_at=in_an_hour())


def just_submitted(session: Session) -> None:
    Message.objects.update(queued_at=timezone.now())


def paused(session: Session) -> None:
    sessions.act(session, "pause", actor=ACTOR)


def stopped(session: Session) -> None:
    sessions.act(session, "stop", actor=ACTOR)


def deleted(session: Session) -> None:
    Session.objects.update(deleted_at=timezone.now())


def in_flight(session: Session) -> None:
    fly(Message.objects.order_by("seq")[0])


def refused(session: Session) -> None:
    hold(session, Hold.REFUSED)


def uncertain(session: Session) -> None:
    hold(session, Hold.UNCERTAIN)


@pytest.mark.parametrize(
    "why",
    [nothing_open, everything_scheduled, just_submitted, paused, stopped, deleted, in_flight, refused, uncertain],
)
def test_one_that_need_not_be_looked_at_is_left_alone(
    why: Callable[[Session], None], session: Session, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    why(session)
    redis_client.flushdb()
    assert signal_stranded() == 0
    assert redis_client.dbsize() == 0
    assert caplog.messages == []


@pytest.mark.parametrize("why", PROBED_HOLDS)
def test_one_whose_engine_is_to_be_asked_is_signalled(why: Hold, session: Session, redis_client: redis.Redis) -> None:
    hold(session, why)
    assert signal_stranded() == 1
    assert is_due(redis_client, "alpha")


def test_one_whose_first_message_has_to_wait_is_signalled(session: Session, redis_client: redis.Redis) -> None:
    Message.objects.update(next_attempt_at=in_an_hour())
    assert signal_stranded() == 1


def test_one_whose_first_message_says_sending_and_is_in_no_flight_is_signalled(session: Session) -> None:
    become(Message.objects.order_by("seq")[0], Status.SENDING)
    assert signal_stranded() == 1


def test_the_first_message_in_order_counts(session: Session, redis_client: redis.Redis) -> None:
    submit(session, "urgent", priority=Priority.HIGH)
    redis_client.flushdb()
    assert signal_stranded() == 0
    strand(session, redis_client)
    assert signal_stranded() == 1


def test_the_stranded_are_found_among_others(redis_client: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("alpha", "beta", "gamma", "delta"):
        session = make_session(name)
        submit(session, *["text"] * len(name))
        strand(session, redis_client)
    redis_client.zadd(keys.DUE, {"beta": 0})
    assert signal_stranded() == 3
    assert sorted(redis_client.zrange(keys.DUE, 0, -1)) == [b"alpha", b"beta", b"delta", b"gamma"]
    assert len(caplog.messages) == 3
    assert "session gamma had 5 messages" in caplog.text


def test_what_was_put_while_redis_was_away_is_put_at_its_place(redis_client: redis.Redis) -> None:
    session = make_session()
    made = submit(session, *"abcdef")
    redis_client.lrem(keys.queue_key("alpha"), 1, str(made[2].pk))
    redis_client.lrem(keys.queue_key("alpha"), 1, str(made[5].pk))
    redis_client.delete(keys.job_key(made[2].pk), keys.job_key(made[5].pk), keys.DUE)
    Message.objects.update(queued_at=timezone.now() - timedelta(seconds=6))
    assert signal_stranded() == 1
    assert job_ids(redis_client, "alpha") == line(session)


def test_a_long_queue_that_was_lost_is_written_anew(quiet_redis: redis.Redis) -> None:
    session = make_session()
    submit(session, *["text"] * 1200)
    quiet_redis.delete(keys.queue_key("alpha"), keys.DUE)
    Message.objects.update(queued_at=timezone.now() - timedelta(seconds=6))
    quiet_redis.config_resetstat()
    assert signal_stranded() == 1
    assert job_ids(quiet_redis, "alpha") == line(session)
    # Not one by one: each would be looked for in all of the queue.
    assert "cmdstat_lpos" not in quiet_redis.info("commandstats")
