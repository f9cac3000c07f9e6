"""What a session finds under its name when it is made; and a deleted session's messages, there and back."""

from datetime import timedelta
from typing import Any

import pytest
import redis

from sessions_app.models import Message, Orphan, OrphanState, Session, Status
from sessions_app.queues import keys, lists
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import messages, orphans, sessions
from sessions_app.services.orphans import adopting
from sessions_app.services.orphans.adopting import Adopted
from tests.factories import ACTOR, in_an_hour, job_ids, line, make_session, submit
from tests.reconciliation_lab import (
    found,
    legacy_entry,
    legacy_list,
    run,
    stock_queue,
    texts_in_line,
    texts_of,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ready")]


def mixed(client: redis.Redis) -> None:
    """Let there be young messages, old ones and one without a date, in Redis and in an archived orphan."""
    stock_queue(client, "gone", "ab")
    run()
    stock_queue(client, "gone", "cd", hours_ago=25)
    for text, hours in (("e", 25), ("f", 2), ("g", None), ("h", 1)):
        client.rpush("queue:gone", legacy_entry(text, hours_ago=hours))


def create(name: str = "gone") -> tuple[Session, Adopted]:
    session, adopted = sessions.create(name=name, actor=ACTOR)
    assert adopted is not None
    return session, adopted


def test_the_young_go_back_in_order_and_the_old_and_the_undated_wait(redis_client: redis.Redis) -> None:
    mixed(redis_client)
    session, adopted = create()
    assert texts_in_line(session) == ["a", "b", "f", "h"]
    assert adopted.restored == 4
    assert [texts_of(orphan)[:2] for orphan in adopted.waiting] == [["c", "d"], ["e", "f"]]
    assert [orphan.messages for orphan in adopted.waiting] == [2, 2]
    assert line(session) == job_ids(redis_client, "gone")
    assert not redis_client.exists("queue:gone")
    assert found(run()) == []


@pytest.mark.parametrize(
    ("age", "in_line"),
    [(timedelta.max, list("abcdefgh")), (None, []), (timedelta(hours=26), list("abcdefh")), (timedelta(0), [])],
)
def test_how_old_is_too_old_is_a_setting_with_always_and_ask(
    age: timedelta | None, in_line: list[str], redis_client: redis.Redis, settings: Any
) -> None:
    settings.WAQUEUE_RESTORE_MAX_AGE = age
    mixed(redis_client)
    session, adopted = create()
    assert (texts_in_line(session), adopted.restored) == (in_line, len(in_line))
    assert sum(orphan.messages for orphan in adopted.waiting) == 8 - len(in_line)


def test_the_queue_of_no_session_is_archived_when_its_session_is_made_not_left_among_its_jobs(
    redis_client: redis.Redis,
) -> None:
    stock_queue(redis_client, "gone", "abc", hours_ago=48)
    _, adopted = create()
    assert [texts_of(orphan) for orphan in adopted.waiting] == [["a", "b", "c"]]
    assert not redis_client.exists("rq:queue:wa:gone")
    assert list(redis_client.scan_iter("rq:job:*")) == []
    assert found(run()) == []


@pytest.mark.fault(17)
def test_what_is_submitted_while_its_session_is_being_made_stays_in_its_line_and_in_redis(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock_queue(redis_client, "gone", "abc", hours_ago=48)

    def submit_first(orphan: Orphan, **options: Any) -> Orphan:
        submit(Session.objects.get(name="gone"), "new", "newer")
        return orphans.archive(orphan, **options)

    monkeypatch.setattr(adopting, "archive", submit_first)
    session, adopted = create()
    assert texts_in_line(session) == ["new", "newer"]
    assert line(session) == job_ids(redis_client, "gone")
    assert all(redis_client.exists(keys.job_key(job)) for job in line(session))
    assert [texts_of(orphan) for orphan in adopted.waiting] == [["a", "b", "c"]]
    assert found(run()) == []


@pytest.mark.fault(17)
def test_the_queue_of_a_session_that_exists_is_no_orphan_whatever_was_seen_before(redis_client: redis.Redis) -> None:
    stock_queue(redis_client, "gone", "abc")
    run(policy=Policy.REPORT)
    orphan = Orphan.objects.get()
    Session.objects.create(name="gone")
    before = redis_client.lrange("rq:queue:wa:gone", 0, -1)
    with pytest.raises(orphans.archiving.Conflict, match="exists now"):
        orphans.archive(orphan)
    assert redis_client.lrange("rq:queue:wa:gone", 0, -1) == before


def test_without_a_prefix_for_the_old_service_no_list_is_its(redis_client: redis.Redis, settings: Any) -> None:
    settings.WAQUEUE_LEGACY_PREFIX = ""
    redis_client.rpush("gone", legacy_entry("a"))
    create()
    run()
    assert redis_client.llen("gone") == 1


def test_a_session_is_made_also_when_redis_cannot_be_asked_and_finds_its_messages_later(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> int:
        raise adopting.QueueUnavailable("away")

    legacy_list(redis_client, "gone", "abc")
    monkeypatch.setattr(lists, "length", away)
    session, adopted = create()
    assert (adopted.restored, adopted.waiting) == (0, [])
    monkeypatch.undo()
    run()
    assert texts_in_line(session) == ["a", "b", "c"]


def test_a_list_that_comes_to_a_session_is_adopted_by_the_next_run(redis_client: redis.Redis) -> None:
    session = make_session("gone")
    legacy_list(redis_client, "gone", "ab")
    legacy_list(redis_client, "gone", "cd", hours_ago=30)
    run()
    assert texts_in_line(session) == ["a", "b"]
    orphan = Orphan.objects.get()
    assert (orphan.state, orphan.messages, orphan.session) == ("archived", 2, session)


@pytest.mark.fault(19)
def test_a_deleted_sessions_messages_wait_in_an_orphan_and_move_with_their_ids(redis_client: redis.Redis) -> None:
    alpha = make_session()
    made = submit(alpha, *"abc")
    (scheduled,) = submit(alpha, "later", scheduled_at=in_an_hour())
    Message.objects.filter(pk=made[0].pk).update(attempts=2)
    assert sessions.delete(alpha, actor=ACTOR, unsent="orphan").orphaned == 4
    assert set(Message.objects.values_list("status", flat=True)) == {Status.ORPHANED}
    assert not redis_client.exists(keys.queue_key("alpha"))
    assert list(redis_client.scan_iter("rq:job:*")) == []
    orphan = Orphan.objects.get()
    assert (orphan.source, orphan.messages) == ("deleted_session", 4)
    assert texts_of(orphan) == ["a", "b", "c", "later"]
    beta = make_session("beta")
    assert orphans.restore(orphan, beta, actor=ACTOR).restored == 4
    assert line(beta) == [str(message.pk) for message in made] == job_ids(redis_client, "beta")
    assert Message.objects.get(pk=scheduled.pk).status == Status.SCHEDULED
    assert Message.objects.count() == 4
    moved = Message.objects.get(pk=made[0].pk)
    assert (moved.session, moved.orphan, moved.max_attempts - moved.attempts) == (beta, None, 5)
    assert [kind for kind, *_ in found(run())] == ["empty_name"]


@pytest.mark.fault(19)
def test_a_deleted_session_that_is_made_again_has_its_young_messages_back(redis_client: redis.Redis) -> None:
    alpha = make_session()
    made = submit(alpha, *"abc")
    Message.objects.filter(pk=made[1].pk).update(created_at=in_an_hour() - timedelta(days=2))
    sessions.delete(alpha, actor=ACTOR, unsent="orphan")
    again, adopted = create("alpha")
    assert again.pk != alpha.pk
    assert texts_in_line(again) == ["a", "c"]
    assert (adopted.restored, adopted.waiting[0].messages) == (2, 1)


def test_alike_messages_of_a_deleted_session_are_all_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans.restoring, "CHUNK", 2)
    alpha = make_session()
    submit(alpha, *["the same"] * 5, client_ref="the same")
    sessions.delete(alpha, actor=ACTOR, unsent="orphan")
    assert orphans.restore(Orphan.objects.get(), make_session("beta"), actor=ACTOR).restored == 5


def test_what_is_purged_of_a_deleted_session_is_cancelled_and_never_sent() -> None:
    alpha = make_session()
    made = submit(alpha, *"abc")
    sessions.delete(alpha, actor=ACTOR, unsent="orphan")
    orphan = Orphan.objects.get()
    orphans.purge(orphan, expected=1, actor=ACTOR, selection=orphans.Selection(indexes=(1,)))
    assert messages.get(made[1].pk).status == Status.CANCELLED
    orphans.restore(orphan, make_session("beta"), actor=ACTOR)
    assert [messages.get(one.pk).status for one in made] == [Status.QUEUED, Status.CANCELLED, Status.QUEUED]


def test_unknown_jobs_of_a_session_are_never_given_back_by_a_machine(redis_client: redis.Redis) -> None:
    session = make_session("gone")
    stock_queue(redis_client, "gone", "abc")
    run()
    assert texts_in_line(session) == []
    orphan = Orphan.objects.get(state=OrphanState.ARCHIVED)
    sessions.delete(session, actor=ACTOR)
    again, adopted = create()
    assert (texts_in_line(again), adopted.restored, adopted.waiting) == ([], 0, [orphan])
    assert orphans.restore(orphan, again, actor=ACTOR).restored == 3
