"""After Redis was wiped, everybody is looked at and the mirror is written anew, whatever happens meanwhile."""

import logging
from collections.abc import Callable

import pytest
import redis
from django.utils import timezone
from rq.job import Job
from rq.serializers import JSONSerializer

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Deployment, Event, EventKind, Message, Priority, Session, Status
from sessions_app.queues import keys, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.queues.replacement import Replacements
from sessions_app.reconciliation import rebuild as module
from sessions_app.reconciliation.rebuild import rebuild, rebuild_session
from sessions_app.services import messages, sessions
from sessions_app.worker.promotion import promote
from tests.factories import (
    ACTOR,
    at_once,
    become,
    in_an_hour,
    is_due,
    job_ids,
    line,
    make_session,
    observer,
    submit,
)

pytestmark = pytest.mark.django_db(transaction=True)


def assert_readable(client: redis.Redis, name: str) -> None:
    for job_id in job_ids(client, name):
        job = Job.fetch(job_id, connection=client, serializer=JSONSerializer)
        message = Message.objects.get(pk=job_id)
        assert list(job.args) == [job_id]
        assert job.kwargs == message.content() | message.terms() | {"seq": message.seq}
        assert job.origin == f"wa:{name}"


# All of it


def test_all_sessions_with_open_messages_are_due_and_have_their_queues_in_order(redis_client: redis.Redis) -> None:
    names = ["alpha", "beta", "paused"]
    made = {name: make_session(name) for name in [*names, "nothing open", "deleted"] if " " not in name}
    for name in names:
        submit(made[name], "one", "two")
        submit(made[name], "high", priority=Priority.HIGH)
        submit(made[name], "later", scheduled_at=in_an_hour())
        become(submit(made[name], "sent")[0], Status.SENT)
    become(Message.objects.filter(session=made["beta"]).in_order()[0], Status.SENDING)
    sessions.act(made["paused"], "pause", actor=ACTOR)
    make_session("empty")
    submit(made["deleted"], "cancelled")
    sessions.delete(made["deleted"], actor=ACTOR, unsent="cancel")
    redis_client.flushdb()

    assert rebuild("g1") == 9
    assert sorted(redis_client.zrange(keys.DUE, 0, -1)) == [name.encode() for name in names]
    for name in names:
        assert is_due(redis_client, name)
        assert job_ids(redis_client, name) == line(made[name])
        assert len(line(made[name])) == 3
        assert_readable(redis_client, name)
    assert redis_client.smembers(keys.RQ_QUEUES) == {keys.queue_key(name).encode() for name in names}
    assert not list(redis_client.scan_iter("waqueue:replacement:*"))


def test_a_long_line_is_rebuilt_in_order(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, *["text"] * 600)
    submit(session, *["high"] * 3, priority=Priority.HIGH)
    submit(session, *["text"] * 600)
    redis_client.flushdb()
    assert rebuild("g1") == 1203
    assert job_ids(redis_client, "alpha") == line(session)


def test_it_is_said_and_kept_as_an_event(redis_client: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    submit(make_session("alpha"), "one", "two")
    submit(make_session("beta"), "one")
    with caplog.at_level(logging.WARNING):
        rebuild("g1")
    assert "3 messages of 2 sessions were rebuilt" in caplog.text
    assert Event.objects.get(kind=EventKind.QUEUES_REBUILT).data == {
        "sessions": 2, "messages": 3, "generation": "g1",
    }  # fmt: skip


def test_the_first_redis_of_a_new_deployment_is_nothing_to_tell_of(caplog: pytest.LogCaptureFixture) -> None:
    make_session()
    assert rebuild("g1") == 0
    assert not Event.objects.filter(kind=EventKind.QUEUES_REBUILT).exists()
    assert caplog.text == ""
    assert rebuild("g2") == 0
    assert Event.objects.filter(kind=EventKind.QUEUES_REBUILT).count() == 1


def test_a_generation_is_put_right_once(redis_client: redis.Redis) -> None:
    submit(make_session(), "one")
    assert rebuild("g1") == 1
    redis_client.flushdb()
    assert rebuild("g1") is None
    assert redis_client.dbsize() == 0
    assert rebuild("g2") == 1
    assert Deployment.current().redis_generation == "g2"


def test_of_several_at_once_one_acts(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, *["text"] * 50)
    redis_client.flushdb()
    assert sorted(at_once(*[lambda: rebuild("g1")] * 5), key=str) == [50, None, None, None, None]
    assert job_ids(redis_client, "alpha") == line(session)
    assert Event.objects.filter(kind=EventKind.QUEUES_REBUILT).count() == 1


def test_while_another_process_rebuilds_nothing_is_done(redis_client: redis.Redis) -> None:
    submit(make_session(), "one")
    redis_client.flushdb()
    with observer() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [module._LOCK])
        assert rebuild("g1") is None
        # Given back and not only dropped: PostgreSQL takes a moment to notice a closed connection.
        other.execute("SELECT pg_advisory_unlock(%s)", [module._LOCK])
    assert redis_client.dbsize() == 0
    assert Deployment.current().redis_generation == ""
    assert rebuild("g1") == 1


def test_a_rebuild_that_failed_is_done_by_the_next_one(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    submit(session, "one", "two")
    redis_client.flushdb()

    def away(replacement: Replacements) -> None:
        raise QueueUnavailable

    monkeypatch.setattr(Replacements, "swap", away)
    with pytest.raises(QueueUnavailable):
        rebuild("g1")
    assert Deployment.current().redis_generation == ""
    monkeypatch.undo()
    assert at_once(lambda: rebuild("g1")) == [2]
    assert job_ids(redis_client, "alpha") == line(session)


def test_redis_that_is_wiped_once_more_meanwhile_ends_up_right(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    submit(session, "one", "two")
    swap = Replacements.swap

    def wiped_again(replacement: Replacements) -> object:
        redis_client.flushdb()
        return swap(replacement)

    monkeypatch.setattr(Replacements, "swap", wiped_again)
    rebuild("g1")
    assert job_ids(redis_client, "alpha") == line(session)
    assert_readable(redis_client, "alpha")


# What stood there before


@pytest.mark.parametrize(
    "entries", [[b"\xff\xfe", b"", b"no id", b"a\nb"], [str(at).encode() for at in range(2000)]], ids=["odd", "many"]
)
def test_garbage_in_a_queue_gives_way(entries: list[bytes], redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "one", "two")
    redis_client.flushdb()
    redis_client.rpush(keys.queue_key("alpha"), *entries)
    assert rebuild("g1") == 2
    assert job_ids(redis_client, "alpha") == line(session)
    assert_readable(redis_client, "alpha")


@pytest.mark.fault(26)
def test_a_key_that_is_no_list_is_left_alone_and_its_session_is_looked_at(
    redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    submit(make_session("alpha"), "one", "two")
    beta = make_session("beta")
    submit(beta, "three")
    redis_client.flushdb()
    redis_client.set(keys.queue_key("alpha"), "somebody's")
    assert rebuild("g1") == 3
    assert redis_client.get(keys.queue_key("alpha")) == b"somebody's"
    assert is_due(redis_client, "alpha")
    assert job_ids(redis_client, "beta") == line(beta)
    assert "the key of the queue of alpha is no list" in caplog.text


def test_old_data_give_way_to_what_the_rows_say(redis_client: redis.Redis) -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    made = submit(alpha, "one", "two", "three")
    old = submit(beta, "sent long ago")
    # As after a restart with an old snapshot.
    Message.objects.filter(pk__in=[made[0].pk, old[0].pk]).update(status=Status.SENT)
    redis_client.rpush(keys.queue_key("beta"), "of nobody")
    assert rebuild("g1") == 2
    assert job_ids(redis_client, "alpha") == [str(message.pk) for message in made[1:]]
    assert job_ids(redis_client, "beta") == ["of nobody"]


# What happens meanwhile


def submit_one(session: Session) -> None:
    submit(session, "late")


def submit_high(session: Session) -> None:
    submit(session, "late and urgent", "and another", priority=Priority.HIGH)


def settle_first(session: Session) -> None:
    first = Message.objects.open().filter(session=session).in_order()[0]
    become(first, Status.SENT)
    mirror.take_out(session.name, [first.pk])


def settle_all(session: Session) -> None:
    for _ in range(len(line(session))):
        settle_first(session)


def cancel_one_in_the_middle(session: Session) -> None:
    messages.cancel(Message.objects.get(session=session, text="d").pk, actor=ACTOR)


def retry_the_failed(session: Session) -> None:
    messages.retry(Message.objects.get(session=session, text="b").pk, actor=ACTOR)


def promote_the_scheduled(session: Session) -> None:
    Message.objects.filter(session=session, status=Status.SCHEDULED).update(scheduled_at=timezone.now())
    assert promote() == 1


def all_of_it(session: Session) -> None:
    for act in (
        retry_the_failed,
        submit_one,
        settle_first,
        promote_the_scheduled,
        submit_high,
        cancel_one_in_the_middle,
    ):
        act(session)


ACTS = [
    submit_one, submit_high, settle_first, settle_all, cancel_one_in_the_middle, retry_the_failed,
    promote_the_scheduled, all_of_it,
]  # fmt: skip


@pytest.fixture
def session(redis_client: redis.Redis) -> Session:
    """Return a session with the open messages a, c, d, f, g; b has failed and e is scheduled. Redis is empty."""
    session = make_session()
    submit(session, *"abcd")
    submit(session, "e", scheduled_at=in_an_hour())
    submit(session, *"fg")
    become(Message.objects.get(text="b"), Status.FAILED)
    redis_client.flushdb()
    return session


def once(act: Callable[[], object]) -> Callable[[], None]:
    """`act`, done at the first call only."""
    todo = [act]
    return lambda: todo.pop()() and None if todo else None


@pytest.mark.fault(17)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("when", ["between two reads", "before the swap", "after the swap"])
def test_whatever_happens_meanwhile_the_queue_ends_up_right(
    when: str,
    act: Callable[[Session], None],
    session: Session,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add, swap = Replacements.add, Replacements.swap
    happen = once(lambda: act(session))
    monkeypatch.setattr(module, "_CHUNK", 2)

    def slow_add(replacement: Replacements, chunk: list[tuple[str, Message]]) -> None:
        add(replacement, chunk)
        if when == "between two reads":
            happen()

    def slow_swap(replacement: Replacements) -> object:
        if when == "before the swap":
            happen()
        answer = swap(replacement)
        if when == "after the swap":
            happen()
        return answer

    monkeypatch.setattr(Replacements, "add", slow_add)
    monkeypatch.setattr(Replacements, "swap", slow_swap)
    rebuild_session(session, upkeep_client())
    assert job_ids(redis_client, "alpha") == line(session)
    assert_readable(redis_client, "alpha")
    assert not list(redis_client.scan_iter("waqueue:replacement:*"))


@pytest.mark.fault(17)
def test_clients_that_submit_and_workers_that_settle_all_the_time_leave_it_right(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, *["text"] * 700)
    redis_client.flushdb()

    def client() -> None:
        for _ in range(20):
            submit(session, "one", "two")

    def worker() -> None:
        for _ in range(40):
            settle_first(session)

    def wipe() -> int:
        return sum(rebuild_session(session, upkeep_client()) for _ in range(5))

    results = at_once(client, client, worker, wipe)
    assert results[:3] == [None] * 3
    # Two clients commit in one order and may put in the other: there is no lock between the stores.
    assert sorted(job_ids(redis_client, "alpha")) == sorted(line(session))
    assert len(line(session)) == 740


def test_a_session_without_open_messages_ends_up_without_a_queue(redis_client: redis.Redis) -> None:
    session = make_session()
    redis_client.rpush(keys.queue_key("alpha"), "leftover")
    assert rebuild_session(session, upkeep_client()) == 0
    assert not redis_client.exists(keys.queue_key("alpha"))
