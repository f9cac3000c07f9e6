"""A database that was restored from a backup is seen as older than Redis, and sends nothing again."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.db import connection
from django.utils import timezone

from sessions_app.database import connect
from sessions_app.exceptions import OlderDatabase, QueueUnavailable
from sessions_app.models import Deployment, Event, Message, Session, Status
from sessions_app.queues import keys, mirror
from sessions_app.reconciliation import older_database, rebuild
from sessions_app.reconciliation.stranded import signal_stranded
from sessions_app.worker.fence import newest_token as newest_token_of_the_fence
from tests.factories import job_ids, line, make_session, submit
from tests.reconciliation_lab import found, in_order, newest_token, picture_of_redis, run

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("without_pause"), pytest.mark.fault(14)]

QUEUE = keys.queue_key("alpha")


@pytest.fixture
def alpha(redis_client: redis.Redis) -> Session:
    """Return a session with four messages, all as it should be."""
    session = make_session()
    submit(session, *"abcd")
    in_order()
    return session


def test_a_database_that_was_recovered_from_a_base_backup_is_seen_as_older_once(redis_client: redis.Redis) -> None:
    """A sequence is logged 32 numbers ahead: what is recovered says more than was ever given out."""
    session = make_session()
    submit(session, "one", "two")
    in_order()
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('wa_attempt_token', 37)")
    redis_client.hset(keys.META, "mark", 15)
    redis_client.delete(keys.queue_key("alpha"), *(keys.job_key(pk) for pk in line(session)), keys.DUE)
    assert newest_token() == fence_says() == 0
    assert ("older_database", "", 0, "made uncertain") in found(run())
    assert set(Message.objects.values_list("status", flat=True)) == {Status.UNCERTAIN}
    assert newest_token() == fence_says() == 15
    assert not older_database.is_older(15)
    assert found(run()) == []
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('wa_attempt_token')")
        # Never back to tokens that were given out.
        assert cursor.fetchone() == (38,)


def fence_says() -> int:
    async def ask() -> int:
        async with await connect() as asked:
            return await newest_token_of_the_fence(asked)

    return asyncio.run(ask())


def test_what_was_promoted_and_sent_in_the_lost_future_is_uncertain_too(
    alpha: Session, redis_client: redis.Redis
) -> None:
    (due,) = submit(alpha, "due", scheduled_at=timezone.now() + timedelta(hours=1))
    (later,) = submit(alpha, "later", scheduled_at=timezone.now() + timedelta(hours=1))
    Message.objects.filter(pk=due.pk).update(scheduled_at=timezone.now() - timedelta(seconds=1))
    redis_client.zrem(keys.DUE, "alpha")
    redis_client.hset(keys.META, "mark", newest_token() + 1000)
    run()
    assert set(Message.objects.exclude(status=Status.QUEUED).values_list("pk", "status")) == {
        (due.pk, "uncertain"), (later.pk, "scheduled"),
    }  # fmt: skip


def test_nobody_puts_jobs_while_the_database_is_older_and_so_hides_what_was_sent(
    alpha: Session, redis_client: redis.Redis
) -> None:
    Message.objects.update(queued_at=timezone.now() - timedelta(seconds=6))
    redis_client.delete(QUEUE, keys.DUE, *(keys.job_key(job) for job in line(alpha)))
    redis_client.hset(keys.META, "mark", newest_token() + 1000)
    before = picture_of_redis(redis_client)
    assert signal_stranded() == 0
    assert picture_of_redis(redis_client) == before
    run()
    assert Message.objects.filter(status=Status.UNCERTAIN).count() == 4


def test_when_it_cannot_be_found_what_was_sent_no_job_is_put_before_it_is(
    alpha: Session, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_client.delete(QUEUE, keys.DUE, *(keys.job_key(job) for job in line(alpha)))
    redis_client.hset(keys.META, "mark", newest_token() + 1000)
    read, failures = mirror.job_ids, iter([QueueUnavailable("Redis takes too long")])

    def fail_once(*arguments: Any, **options: Any) -> Any:
        for failure in failures:
            raise failure
        return read(*arguments, **options)

    monkeypatch.setattr(older_database.mirror, "job_ids", fail_once)
    with pytest.raises(QueueUnavailable):
        run()
    assert not redis_client.exists(QUEUE)
    run()
    assert Message.objects.filter(status=Status.UNCERTAIN).count() == 4


def test_no_queue_is_written_anew_from_a_database_that_is_older(alpha: Session, redis_client: redis.Redis) -> None:
    redis_client.delete(QUEUE, keys.DUE, *(keys.job_key(job) for job in line(alpha)))
    redis_client.hset(keys.META, "mark", newest_token() + 1000)
    for write in (lambda: rebuild.rebuild("another"), lambda: rebuild.rebuild_session(alpha, redis_client)):
        with pytest.raises(OlderDatabase):
            write()
    assert not redis_client.exists(QUEUE)
    assert Deployment.current().redis_generation != "another"


def test_the_first_that_is_mirrored_still_may_have_been_in_hand_behind_those_that_had_landed(
    alpha: Session, redis_client: redis.Redis
) -> None:
    (landed, *_) = line(alpha)
    redis_client.lrem(QUEUE, 1, landed)
    redis_client.delete(keys.job_key(landed))
    seconds, _ = redis_client.time()
    redis_client.zadd(keys.DUE, {"alpha": seconds * 1000 + 10_000})
    redis_client.hset(keys.META, "mark", newest_token() + 1000)
    run()
    uncertain = Message.objects.filter(status=Status.UNCERTAIN).order_by("seq").values_list("text", flat=True)
    assert list(uncertain) == ["a", "b"]


def test_what_lands_while_it_is_looked_at_is_not_told_as_uncertain(
    alpha: Session, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_client.delete(QUEUE, keys.DUE, *(keys.job_key(job) for job in line(alpha)))
    redis_client.hset(keys.META, "mark", newest_token() + 1000)
    read = mirror.job_ids

    def land_meanwhile(*arguments: Any, **options: Any) -> Any:
        Message.objects.filter(text="a").update(status=Status.SENT)
        return read(*arguments, **options)

    monkeypatch.setattr(older_database.mirror, "job_ids", land_meanwhile)
    run()
    told = Event.objects.filter(kind="message.uncertain").values_list("message__text", flat=True)
    assert sorted(told) == ["b", "c", "d"]
    assert Message.objects.get(text="a").status == Status.SENT


@pytest.mark.parametrize(("due_in_ms", "doubted"), [(10_000, 1), (60_000, 0)])
def test_the_first_row_that_somebody_may_have_had_in_hand_is_uncertain_although_it_is_mirrored(
    due_in_ms: int, doubted: int, alpha: Session, redis_client: redis.Redis
) -> None:
    seconds, _ = redis_client.time()
    redis_client.zadd(keys.DUE, {"alpha": seconds * 1000 + due_in_ms})
    redis_client.hset(keys.META, "mark", newest_token() + 1000)
    run()
    assert list(Message.objects.filter(status=Status.UNCERTAIN).values_list("text", flat=True)) == ["a"] * doubted
    assert job_ids(redis_client, "alpha") == line(alpha)
