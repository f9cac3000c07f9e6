"""The table of reconciliation: what is found and what is done, one row of it at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
import redis
from django.utils import timezone

from sessions_app.models import Deployment, FindingKind, Message, Orphan, OrphanEntry, OrphanState, Session, Status
from sessions_app.queues import keys, reading
from sessions_app.queues.lists import replaced_key
from sessions_app.reconciliation import compare, long_queues, mirrors
from sessions_app.reconciliation.repair import Policy
from tests.factories import become, is_due, job_ids, line, make_session, submit
from tests.reconciliation_lab import (
    found,
    in_order,
    legacy_list,
    newest_token,
    picture_of_postgres,
    picture_of_redis,
    run,
    stock_queue,
    texts_in_line,
    texts_of,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("without_pause", "any_length")]


@pytest.fixture(params=["short", "long"])
def any_length(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have queues compared as short ones are, and as ones that memory does not hold."""
    if request.param == "long":
        monkeypatch.setattr(mirrors, "_HELD", 0)
        monkeypatch.setattr(reading, "_ENTRIES", 2)
        monkeypatch.setattr(long_queues, "_PART", 3)


QUEUE = keys.queue_key("alpha")


@pytest.fixture
def alpha(redis_client: redis.Redis) -> Session:
    """Return a session with four messages, all as it should be."""
    session = make_session()
    submit(session, *"abcd")
    in_order()
    assert found(run()) == []
    return session


def is_mirrored(session: Session, client: redis.Redis) -> bool:
    """Whether the queue is what the rows say, with all its contents."""
    queue = job_ids(client, session.name)
    return queue == line(session) and all(client.exists(keys.job_key(job)) for job in queue)


def ids(session: Session) -> list[str]:
    return line(session)


# Each makes one thing wrong in a world that is right, and checks afterwards that it is right again.


def queue_of_no_session(session: Session, client: redis.Redis) -> Callable[[], None]:
    stock_queue(client, "gone", "xyz")

    def check() -> None:
        orphan = Orphan.objects.get()
        assert (orphan.state, orphan.source, orphan.messages) == (OrphanState.ARCHIVED, "rq", 3)
        assert texts_of(orphan) == ["x", "y", "z"]
        assert not list(client.scan_iter("*gone*"))
        assert set(client.scan_iter("rq:job:*")) == {keys.job_key(job).encode() for job in ids(session)}
        assert not client.sismember(keys.RQ_QUEUES, "rq:queue:wa:gone")

    return check


def young_list_of_the_old_service(session: Session, client: redis.Redis) -> Callable[[], None]:
    legacy_list(client, "alpha", "xyz")

    def check() -> None:
        assert texts_in_line(session) == list("abcdxyz")
        assert Orphan.objects.get().state == OrphanState.RESTORED
        assert not client.exists("queue:alpha")
        assert Message.objects.filter(attempts=0).count() == 7

    return check


def old_list_of_the_old_service(session: Session, client: redis.Redis) -> Callable[[], None]:
    legacy_list(client, "alpha", "xyz", hours_ago=25)

    def check() -> None:
        assert texts_in_line(session) == list("abcd")
        assert texts_of(Orphan.objects.get(state=OrphanState.ARCHIVED, session=session)) == list("xyz")
        assert not client.exists("queue:alpha")

    return check


def list_of_an_act_that_broke_off(session: Session, client: redis.Redis) -> Callable[[], None]:
    done = Message.objects.in_order()[0]
    stock_queue(client, "alpha", "x")
    unknown = client.rpop(QUEUE)
    old = replaced_key(QUEUE.encode())
    client.rpush(old, str(done.pk), unknown)

    def check() -> None:
        assert texts_of(Orphan.objects.get(source="unknown_jobs", session=session)) == ["x"]
        assert not client.exists(old)

    return check


def open_row_without_a_job(session: Session, client: redis.Redis) -> Callable[[], None]:
    lost = ids(session)[1]
    client.lrem(QUEUE, 1, lost)
    client.delete(keys.job_key(lost))
    return lambda: None


def jobs_in_the_wrong_order(session: Session, client: redis.Redis) -> Callable[[], None]:
    client.rpush(QUEUE, client.lpop(QUEUE))
    return lambda: None


def another_redis(session: Session, client: redis.Redis) -> Callable[[], None]:
    client.hdel(keys.META, "generation")

    def check() -> None:
        assert Deployment.current().redis_generation == client.hget(keys.META, "generation").decode()
        assert is_due(client, "alpha")

    return check


def older_database(session: Session, client: redis.Redis) -> Callable[[], None]:
    mark = newest_token() + 1000
    client.hset(keys.META, "mark", mark)
    client.zrem(keys.DUE, "alpha")
    sent_in_the_lost_future = ids(session)[0]
    client.lrem(QUEUE, 1, sent_in_the_lost_future)
    client.delete(keys.job_key(sent_in_the_lost_future))

    def check() -> None:
        assert newest_token() == mark
        assert str(Message.objects.get(status=Status.UNCERTAIN).pk) == sent_in_the_lost_future
        assert texts_in_line(session) == list("bcd")

    return check


def job_of_a_final_message(session: Session, client: redis.Redis) -> Callable[[], None]:
    sent = Message.objects.in_order()[1]
    become(sent, Status.SENT)

    def check() -> None:
        assert Message.objects.get(pk=sent.pk).status == Status.SENT
        assert not client.exists(keys.job_key(sent.pk))

    return check


def job_without_a_row(session: Session, client: redis.Redis) -> Callable[[], None]:
    stock_queue(client, "alpha", "xy")

    def check() -> None:
        orphan = Orphan.objects.get()
        assert (orphan.source, orphan.state, orphan.session) == ("unknown_jobs", OrphanState.ARCHIVED, session)
        assert texts_of(orphan) == ["x", "y"]

    return check


def job_twice(session: Session, client: redis.Redis) -> Callable[[], None]:
    client.rpush(QUEUE, ids(session)[2])
    return lambda: None


def job_without_its_content(session: Session, client: redis.Redis) -> Callable[[], None]:
    client.delete(keys.job_key(ids(session)[-1]))
    return lambda: None


def unreadable_entry(session: Session, client: redis.Redis) -> Callable[[], None]:
    stock_queue(client, "gone", "x")
    client.rpush("rq:queue:wa:gone", b"\xff\x00 no id")

    def check() -> None:
        orphan = Orphan.objects.get()
        assert (orphan.messages, orphan.unreadable) == (2, 1)
        assert bytes(OrphanEntry.objects.get(readable=False).raw) == b"\xff\x00 no id"

    return check


def session_that_nobody_would_look_at(session: Session, client: redis.Redis) -> Callable[[], None]:
    Message.objects.update(queued_at=timezone.now() - timedelta(seconds=6))
    client.zrem(keys.DUE, "alpha")
    return lambda: _assert(is_due(client, "alpha"))


def name_of_an_empty_queue(session: Session, client: redis.Redis) -> Callable[[], None]:
    client.sadd(keys.RQ_QUEUES, "rq:queue:wa:empty", "rq:queue:default")

    def check() -> None:
        assert client.smembers(keys.RQ_QUEUES) == {b"rq:queue:default", QUEUE.encode()}

    return check


def orphan_that_others_took_away(session: Session, client: redis.Redis) -> Callable[[], None]:
    legacy_list(client, "gone", "xyz")
    run(policy=Policy.REPORT)
    client.delete("queue:gone")

    def check() -> None:
        orphan = Orphan.objects.get()
        assert (orphan.state, orphan.resolution) == (OrphanState.VANISHED, "it left Redis by other hands")
        assert orphan.resolved_at is not None

    return check


def _assert(is_right: bool) -> None:
    assert is_right


@dataclass(frozen=True)
class Row:
    """One row of the table: how it comes to be, and which finding says so with which action."""

    make: Callable[[Session, redis.Redis], Callable[[], None]]
    finding: tuple[FindingKind, str, int, str]


K = FindingKind
ROWS = [
    Row(queue_of_no_session, (K.ORPHAN_QUEUE, "gone", 3, "archived")),
    Row(young_list_of_the_old_service, (K.LEGACY_QUEUE, "alpha", 3, "adopted")),
    Row(old_list_of_the_old_service, (K.LEGACY_QUEUE, "alpha", 3, "archived")),
    Row(list_of_an_act_that_broke_off, (K.LEFTOVER_LIST, "alpha", 1, "put right")),
    Row(open_row_without_a_job, (K.MISSING_JOB, "alpha", 1, "put right")),
    Row(jobs_in_the_wrong_order, (K.WRONG_ORDER, "alpha", 0, "put right")),
    Row(another_redis, (K.GENERATION_LOST, "", 0, "rebuilt")),
    Row(older_database, (K.OLDER_DATABASE, "", 0, "made uncertain")),
    Row(job_of_a_final_message, (K.FINAL_JOB, "alpha", 1, "put right")),
    Row(job_without_a_row, (K.UNKNOWN_JOB, "alpha", 2, "archived")),
    Row(job_twice, (K.DUPLICATE_JOB, "alpha", 1, "put right")),
    Row(job_without_its_content, (K.MISSING_HASH, "alpha", 1, "put right")),
    Row(unreadable_entry, (K.UNREADABLE_ENTRY, "gone", 1, "set aside")),
    Row(session_that_nobody_would_look_at, (K.STRANDED_SESSION, "alpha", 0, "signalled")),
    Row(name_of_an_empty_queue, (K.EMPTY_NAME, "", 0, "forgotten")),
    Row(orphan_that_others_took_away, (K.VANISHED_ORPHAN, "gone", 3, "closed")),
]
# Those that are left as they are stand in `tests/test_reconciliation_run.py`.
LEFT = {K.FOREIGN_KEY, K.OTHER_DEPLOYMENT}
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.make.__name__)


def test_the_table_is_whole() -> None:
    assert {row.finding[0] for row in ROWS} | LEFT == set(FindingKind)


@every_row
def test_it_is_put_right_and_found_no_more(row: Row, alpha: Session, redis_client: redis.Redis) -> None:
    check = row.make(alpha, redis_client)
    done = run()
    assert row.finding in found(done)
    assert done.outcome == "repaired"
    assert done.counts[row.finding[0]] == 1
    check()
    assert is_mirrored(alpha, redis_client)
    again = run()
    assert (found(again), again.outcome, again.counts) == ([], "clean", {})
    check()


@every_row
def test_a_dry_run_says_it_and_changes_nothing(row: Row, alpha: Session, redis_client: redis.Redis) -> None:
    row.make(alpha, redis_client)
    before = picture_of_redis(redis_client), picture_of_postgres()
    done = run(dry_run=True)
    assert (picture_of_redis(redis_client), picture_of_postgres()) == before
    assert done.dry_run
    # Whether an entry can be read is seen when it is copied.
    kind = K.ORPHAN_QUEUE if row.make is unreadable_entry else row.finding[0]
    assert [finding for finding in found(done) if finding[0] == kind]
    assert all(action == "" for *_, action in found(done))


def everything_at_once(session: Session, client: redis.Redis) -> None:
    for row in ROWS:
        if row.make not in (older_database, young_list_of_the_old_service):
            row.make(session, client)


def test_everything_wrong_at_once_is_put_right_in_one_run(alpha: Session, redis_client: redis.Redis) -> None:
    everything_at_once(alpha, redis_client)
    assert run().outcome == "repaired"
    assert is_mirrored(alpha, redis_client)
    assert texts_in_line(alpha) == list("acd")
    assert found(run()) == []


@pytest.mark.fault(17)
def test_what_is_wrong_in_one_look_only_is_left_alone(
    alpha: Session, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = ids(alpha)[1]
    redis_client.lrem(QUEUE, 1, lost)
    stock_queue(redis_client, "beta", "xyz")
    redis_client.sadd(keys.RQ_QUEUES, "rq:queue:wa:gamma")

    def meanwhile(seconds: float) -> None:
        # The put, the session and the first job that were on their way.
        redis_client.linsert(QUEUE, "BEFORE", ids(alpha)[2], lost)
        Session.objects.create(name="beta")
        redis_client.rpush("rq:queue:wa:gamma", "job")

    monkeypatch.setattr(compare.time, "sleep", meanwhile)
    before = redis_client.lrange("rq:queue:wa:beta", 0, -1)
    assert found(run()) == []
    assert redis_client.lrange("rq:queue:wa:beta", 0, -1) == before
    assert redis_client.sismember(keys.RQ_QUEUES, "rq:queue:wa:gamma")


@pytest.mark.fault(17)
def test_the_two_looks_are_a_second_apart(
    alpha: Session, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    pauses: list[float] = []
    monkeypatch.setattr(compare.time, "sleep", pauses.append)
    run()
    assert pauses == []
    redis_client.rpush(QUEUE, redis_client.lpop(QUEUE))
    run()
    assert pauses == [pytest.approx(1.0)]


def test_what_another_sessions_queue_holds_wrongly_is_taken_out_and_stays_where_it_belongs(
    alpha: Session, redis_client: redis.Redis
) -> None:
    beta = make_session("beta")
    submit(beta, "x")
    redis_client.rpush(QUEUE, *ids(beta))
    assert run().outcome == "repaired"
    assert is_mirrored(alpha, redis_client)
    assert is_mirrored(beta, redis_client)
    assert found(run()) == []


def test_names_that_read_alike_are_two_queues(alpha: Session, redis_client: redis.Redis) -> None:
    for name in (b"\xff", rb"\xff", b"n" * 5000 + b"1", b"n" * 5000 + b"2"):
        redis_client.rpush(b"rq:queue:wa:" + name, name)
    assert run().counts == {"orphan_queue": 4, "unreadable_entry": 4}
    assert Orphan.objects.count() == OrphanEntry.objects.count() == 4
    assert found(run()) == []


def test_a_list_that_was_being_replaced_when_its_session_was_deleted_overwrites_nothing(
    redis_client: redis.Redis,
) -> None:
    in_order()
    stock_queue(redis_client, "gone", "ab")
    redis_client.rename("rq:queue:wa:gone", "waqueue:replaced:0123:rq:queue:wa:gone")
    stock_queue(redis_client, "gone", "xy")
    for _ in range(2):
        run()
    assert sorted(texts_of(orphan) for orphan in Orphan.objects.all()) == [["a", "b"], ["x", "y"]]
    assert found(run()) == []


@pytest.mark.fault(16)
def test_an_archiving_that_was_begun_and_has_not_renamed_its_list_yet_is_one_orphan(redis_client: redis.Redis) -> None:
    in_order()
    stock_queue(redis_client, "gone", "xyz")
    run(policy=Policy.REPORT)
    Orphan.objects.update(staging_key=b"waqueue:archive:1:rq:queue:wa:gone")
    assert found(run()) == [("orphan_queue", "gone", 3, "archived")]
    assert texts_of(Orphan.objects.get()) == ["x", "y", "z"]
