"""Promises of reconciliation that hold at moments when something comes between two steps, and at sizes."""

import itertools
import sys
import time
from typing import Any

import pytest
import redis

from sessions_app.exceptions import OtherDeployment
from sessions_app.models import Message, Orphan, OrphanEntry, OrphanState, Session, Status
from sessions_app.queues import inspect, keys, lists, mirror, reading
from sessions_app.queues.connection import upkeep_client
from sessions_app.queues.replacement import Replacements
from sessions_app.reconciliation import compare, long_queues, mirrors
from sessions_app.reconciliation.rebuild import rebuild_session
from tests.factories import job_ids, line, make_session, submit
from tests.lengths import how_many
from tests.reconciliation_lab import found, in_order, run, stock_queue, texts_of
from tests.size_lab import assert_redis_is_never_blocked

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("without_pause")]


def test_unknown_jobs_that_come_between_the_look_and_the_swap_are_in_the_orphan_once(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list that a rebuild replaces is looked through, in all its parts, before it goes."""
    session = make_session()
    submit(session, *["text"] * 1200)
    in_order()
    queue = keys.queue_key("alpha")
    redis_client.rpush(queue, redis_client.lpop(queue))
    swap = Replacements.swap

    def late(replacement: Replacements) -> object:
        monkeypatch.undo()
        texts = stock_queue(redis_client, "alpha", [0, 499, 500, 501])
        redis_client.ltrim(queue, 0, -5)
        for place, job in zip((0, 499, 500, 501), texts, strict=True):
            redis_client.linsert(queue, "BEFORE", redis_client.lindex(queue, place), job)
        assert [redis_client.lpos(queue, job) for job in texts] == [0, 499, 500, 501]
        return swap(replacement)

    monkeypatch.setattr(Replacements, "swap", late)
    assert found(run()) == [("wrong_order", "alpha", 0, "put right")]
    assert sorted(texts_of(Orphan.objects.get()), key=int) == ["0", "499", "500", "501"]
    assert job_ids(redis_client, "alpha") == line(session)
    assert len(list(redis_client.scan_iter("rq:job:*", count=5000))) == 1200
    assert not list(redis_client.scan_iter("waqueue:replaced:*"))
    assert found(run()) == []


def test_a_replaced_list_whose_run_was_killed_doubles_nothing(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "one")
    in_order()
    stock_queue(redis_client, "alpha", "xyz")
    kept = {key: redis_client.dump(key) for key in redis_client.scan_iter("rq:*")}
    run()
    # As if it had been killed after the copy, before and after the contents were deleted.
    for with_contents in (True, False):
        redis_client.restore("waqueue:replaced:1:rq:queue:wa:alpha", 0, kept[keys.queue_key("alpha").encode()])
        if with_contents:
            for key, value in kept.items():
                if key.startswith(b"rq:job:") and not redis_client.exists(key):
                    redis_client.restore(key, 0, value)
        run()
        assert texts_of(Orphan.objects.get()) == ["x", "y", "z"]
        assert len(list(redis_client.scan_iter("rq:job:*"))) == 1


def test_unknown_jobs_are_kept_although_redis_is_another_one(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "one")
    in_order()
    stock_queue(redis_client, "alpha", "xyz")
    redis_client.hdel(keys.META, "generation")
    assert found(run()) == [("generation_lost", "", 0, "rebuilt"), ("unknown_job", "alpha", 3, "archived")]
    assert texts_of(Orphan.objects.get()) == ["x", "y", "z"]
    assert job_ids(redis_client, "alpha") == line(session)
    assert found(run()) == []


def test_a_job_whose_id_is_taken_again_while_it_is_archived_is_kept_too(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    in_order()
    (job,) = stock_queue(redis_client, "alpha", ["october"])
    drop_first = lists.drop_first

    def again(*arguments: Any, **options: Any) -> None:
        monkeypatch.undo()
        (new,) = stock_queue(redis_client, "alpha", ["november"])
        redis_client.rename(f"rq:job:{new}", f"rq:job:{job}")
        redis_client.lset(keys.queue_key("alpha"), -1, job)
        drop_first(*arguments, **options)

    monkeypatch.setattr(lists, "drop_first", again)
    run()
    run()
    assert sorted(texts_of(Orphan.objects.get(session=session))) == ["november", "october"]


def test_what_is_rebuilt_does_not_expire(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "one")
    redis_client.flushdb()
    rebuild_session(session, upkeep_client())
    assert redis_client.ttl(keys.queue_key("alpha")) == -1
    assert redis_client.ttl(keys.job_key(line(session)[0])) == -1


@pytest.mark.fault("14b")
def test_neither_a_swap_nor_a_renaming_touches_the_redis_of_another_database(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "one")
    before = redis_client.lrange(keys.queue_key("alpha"), 0, -1)
    redis_client.hset(keys.META, "deployment", "another")
    replacement = Replacements(["alpha"], upkeep_client())
    replacement.add([("alpha", message) for message in Message.objects.all()])
    with pytest.raises(OtherDeployment):
        replacement.swap()
    with pytest.raises(OtherDeployment):
        lists.rename_away(keys.queue_key("alpha").encode(), b"waqueue:archive:1:x")
    assert redis_client.lrange(keys.queue_key("alpha"), 0, -1) == before
    assert redis_client.sismember(keys.RQ_QUEUES, keys.queue_key("alpha"))


def test_a_name_is_not_forgotten_when_its_queue_holds_something_again(redis_client: redis.Redis) -> None:
    redis_client.sadd(keys.RQ_QUEUES, "rq:queue:wa:empty")
    redis_client.rpush("rq:queue:wa:empty", "job")
    inspect.forget_empty_name(b"rq:queue:wa:empty")
    assert redis_client.sismember(keys.RQ_QUEUES, "rq:queue:wa:empty")
    redis_client.delete("rq:queue:wa:empty")
    inspect.forget_empty_name(b"rq:queue:wa:empty")
    assert not redis_client.sismember(keys.RQ_QUEUES, "rq:queue:wa:empty")


@pytest.mark.fault(17)
@pytest.mark.parametrize("kind", ["archive", "replaced"])
def test_a_renamed_list_that_is_there_in_one_look_only_is_left_alone(
    kind: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody is archiving or rebuilding just now, and brings it to its end."""
    make_session()
    in_order()
    key = f"waqueue:{kind}:1:rq:queue:wa:alpha"
    redis_client.rpush(key, "job")
    monkeypatch.setattr(compare.time, "sleep", lambda _: redis_client.delete(key))
    assert found(run()) == []
    # Something else is wrong, so that there is a second look.
    redis_client.sadd(keys.RQ_QUEUES, "rq:queue:wa:empty")
    monkeypatch.setattr(compare.time, "sleep", lambda _: redis_client.rpush(key, "job"))
    assert found(run()) == [("empty_name", "", 0, "forgotten")]
    assert redis_client.llen(key) == 1
    assert not Orphan.objects.exists()


def test_a_long_queue_is_compared_without_being_held(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    submit(alpha, *["text"] * 90)
    submit(beta, *["text"] * 5)
    in_order()
    monkeypatch.setattr(mirrors, "_HELD", 50)
    monkeypatch.setattr(reading, "_ENTRIES", 20)
    monkeypatch.setattr(long_queues, "_PART", 30)

    def different() -> list[Session]:
        depths = inspect.depths(["alpha", "beta"], client=upkeep_client())
        return [session for session, _ in mirrors.differences([alpha, beta], depths, upkeep_client())]

    assert different() == []
    queue = keys.queue_key("alpha")
    for wrong in (
        lambda: redis_client.lset(queue, 61, "stranger"),
        lambda: redis_client.rpush(queue, "stranger"),
        lambda: redis_client.rpop(queue),
        lambda: redis_client.delete(keys.job_key(line(alpha)[89])),
        lambda: redis_client.delete(queue),
        lambda: Message.objects.filter(pk=line(alpha)[40]).update(status=Status.SENT),
    ):
        wrong()
        assert different() == [alpha]
        run()
        assert different() == []


@pytest.mark.fault(27)
def test_scattered_jobs_are_taken_out_of_a_long_queue_in_short_calls(quiet_redis: redis.Redis) -> None:
    jobs = [f"{at:08}-0000-7000-8000-000000000000" for at in range(50_000)]
    fill(quiet_redis, jobs)
    assert_redis_is_never_blocked(
        quiet_redis,
        lambda: mirror.take_out("alpha", [*jobs[::50], "not-there"], client=upkeep_client()),
        again=lambda: (quiet_redis.delete(keys.queue_key("alpha")), fill(quiet_redis, jobs)),
    )
    gone = set(jobs[::50])
    assert job_ids(quiet_redis, "alpha") == [job for job in jobs if job not in gone]


@pytest.mark.fault(27)
def test_jobs_that_moved_since_the_queue_was_read_are_taken_out_all_the_same(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [f"{at:08}-0000-7000-8000-000000000000" for at in range(20_000)]
    fill(redis_client, jobs)
    read = mirror.job_ids

    def moving(*arguments: Any, **options: Any) -> Any:
        there = read(*arguments, **options)
        redis_client.lpop(keys.queue_key("alpha"), 30)
        return there

    monkeypatch.setattr(mirror, "job_ids", moving)
    mirror.take_out("alpha", jobs[5000::100], client=upkeep_client())
    gone = set(jobs[5000::100])
    assert read("alpha", client=redis_client) == [job for job in jobs[30:] if job not in gone]


def fill(client: redis.Redis, jobs: list[str]) -> None:
    for start in range(0, len(jobs), 5000):
        part = jobs[start : start + 5000]
        with client.pipeline(transaction=False) as pipe:
            pipe.rpush(keys.queue_key("alpha"), *part)
            for job in part:
                pipe.hset(keys.job_key(job), "origin", "wa:alpha")
            pipe.execute()


@pytest.mark.fault(27)
def test_many_orphans_are_archived_and_redis_serves_others_meanwhile(quiet_redis: redis.Redis) -> None:
    in_order()
    rounds = itertools.count()

    def lose_queues() -> None:
        start = next(rounds) * QUEUES
        for number in range(start, start + QUEUES):
            jobs = [f"{number}-{at}" for at in range(JOBS)]
            with quiet_redis.pipeline(transaction=False) as pipe:
                pipe.rpush(f"rq:queue:wa:gone{number}", *jobs)
                pipe.sadd(keys.RQ_QUEUES, f"rq:queue:wa:gone{number}")
                for job in jobs:
                    pipe.hset(f"rq:job:{job}", mapping={"origin": f"wa:gone{number}", "data": CALL})
                pipe.execute()

    def archive() -> None:
        began = time.monotonic()
        done = run()
        sys.stdout.write(f"{QUEUES} orphans in {time.monotonic() - began:.1f} s\n")
        assert (done.outcome, done.counts) == ("repaired", {"orphan_queue": QUEUES})

    lose_queues()
    assert_redis_is_never_blocked(quiet_redis, archive, again=lose_queues)
    lost = next(rounds) * QUEUES
    assert Orphan.objects.filter(state=OrphanState.ARCHIVED, messages=JOBS).count() == lost
    assert OrphanEntry.objects.filter(readable=True).count() == lost * JOBS
    assert not list(quiet_redis.scan_iter("rq:job:*"))
    assert found(run()) == []


QUEUES, JOBS = how_many(200, full=10_000), how_many(100, full=10)
CALL = '["other.app.send",null,[],{"to":"+51930246633","text":"hola"}]'
