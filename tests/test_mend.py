"""The queue of a session is mended in place: what it lacks is put, what is settled goes, what nobody knows stays."""

from itertools import product

import pytest
import redis
from rq.job import Job
from rq.serializers import JSONSerializer

from sessions_app.models import Message, Priority, Session, Status, new_id
from sessions_app.queues import keys, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation.mend import mend
from tests.factories import become, job_ids, line, make_session, submit

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def session(redis_client: redis.Redis) -> Session:
    """Return a session with four normal messages and two of high priority, all in its queue."""
    session = make_session()
    submit(session, *"abcd")
    submit(session, *"ef", priority=Priority.HIGH)
    assert job_ids(redis_client, "alpha") == line(session)
    return session


def test_whatever_is_missing_is_put_at_its_place(session: Session, redis_client: redis.Redis) -> None:
    whole = line(session)
    queue = keys.queue_key("alpha")
    for is_there in product([True, False], repeat=len(whole)):
        redis_client.delete(queue)
        for job, stays in zip(whole, is_there, strict=True):
            if stays:
                redis_client.rpush(queue, job)
            elif is_there[0]:
                # As when the put never came; else the hash is left, as of a list that was replaced or emptied.
                redis_client.delete(keys.job_key(job))
        mend(session, upkeep_client())
        assert job_ids(redis_client, "alpha") == whole
        assert all(redis_client.exists(keys.job_key(job)) for job in whole)


def test_settled_jobs_go_and_unknown_ones_stay_where_they_are(session: Session, redis_client: redis.Redis) -> None:
    whole = line(session)
    unknown = [str(new_id()), "no id at all", b"\xff\xfe"]
    redis_client.linsert(keys.queue_key("alpha"), "BEFORE", whole[2], unknown[0])
    redis_client.rpush(keys.queue_key("alpha"), *unknown[1:])
    (elsewhere,) = submit(make_session("beta"), "elsewhere")
    become(elsewhere, Status.SENT)
    redis_client.rpush(keys.queue_key("alpha"), str(elsewhere.pk))
    Message.objects.filter(pk__in=whole[:2]).update(status=Status.SENT)
    mend(session, upkeep_client())
    assert redis_client.lrange(keys.queue_key("alpha"), 0, -1) == [
        unknown[0].encode(), *(job.encode() for job in whole[2:]), b"no id at all", b"\xff\xfe",
        str(elsewhere.pk).encode(),
    ]  # fmt: skip
    assert not redis_client.exists(keys.job_key(whole[0]))


def test_a_queue_that_is_whole_is_left_as_it_is(session: Session, redis_client: redis.Redis) -> None:
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter("rq:*")}
    mend(session, upkeep_client())
    assert {key: redis_client.dump(key) for key in redis_client.scan_iter("rq:*")} == before


def test_the_queue_of_a_session_without_messages_stays_empty(redis_client: redis.Redis) -> None:
    mend(make_session(), upkeep_client())
    assert redis_client.dbsize() == 0


def test_a_message_that_is_put_while_it_is_mended_is_there_once(
    session: Session, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_client.delete(keys.queue_key("alpha"))
    put = mirror.put

    def put_late(name: str, entries: list[mirror.Entry], **options: object) -> int | None:
        monkeypatch.undo()
        # The web's own put of the same messages comes in between.
        for entry in entries:
            redis_client.delete(keys.job_key(entry.message.pk))
        put(name, entries)
        return put(name, entries, **options)

    monkeypatch.setattr(mirror, "put", put_late)
    mend(session, upkeep_client())
    assert job_ids(redis_client, "alpha") == line(session)


def test_a_message_that_is_settled_while_its_queue_is_mended_is_not_put(
    session: Session, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = line(session)
    redis_client.delete(keys.queue_key("alpha"))
    read = mirror.job_ids

    def read_then_settle(name: str, *, client: redis.Redis) -> list[str]:
        found = read(name, client=client)
        Message.objects.filter(pk__in=whole[:3]).update(status=Status.SENT)
        return found

    monkeypatch.setattr(mirror, "job_ids", read_then_settle)
    mend(session, upkeep_client())
    assert job_ids(redis_client, "alpha") == whole[3:]


def test_a_job_that_is_put_again_can_be_read_and_does_not_expire(session: Session, redis_client: redis.Redis) -> None:
    whole = line(session)
    redis_client.delete(keys.queue_key("alpha"))
    redis_client.expire(keys.job_key(whole[0]), 500)
    redis_client.hset(keys.job_key(whole[0]), "ended_at", "2026-01-01T00:00:00.000000Z")
    mend(session, upkeep_client())
    job = Job.fetch(whole[0], connection=redis_client, serializer=JSONSerializer)
    assert (job.ended_at, job.kwargs["text"]) == (None, "e")
    assert redis_client.ttl(job.key) == -1


def test_a_long_queue_is_mended_in_parts(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_READ_CHUNK", 100)
    session = make_session()
    submit(session, *["text"] * 1250)
    whole = line(session)
    redis_client.ltrim(keys.queue_key("alpha"), 5, 620)
    mend(session, upkeep_client())
    assert job_ids(redis_client, "alpha") == whole
