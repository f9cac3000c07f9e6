"""Scheduled messages whose time has come are queued at the place that they have had from the start, each once."""

from datetime import timedelta

import pytest
import redis
from django.db import transaction
from django.utils import timezone

from sessions_app.models import Event, EventKind, Message, Priority, Session, Status
from sessions_app.queues import keys
from sessions_app.services import messages, sessions
from sessions_app.services.sessions import Deleted
from sessions_app.worker import promotion
from sessions_app.worker.promotion import promote
from tests.factories import (
    ACTOR,
    Threads,
    at_once,
    in_an_hour,
    is_due,
    job_ids,
    line,
    make_session,
    submit,
    traces,
    wait_until_blocked,
)

pytestmark = pytest.mark.django_db(transaction=True)


def schedule(session: Session, *texts: str, **fields: object) -> list[Message]:
    return submit(session, *texts, scheduled_at=in_an_hour(), **fields)


def let_come_due(*made: Message) -> None:
    Message.objects.filter(pk__in=[message.pk for message in made]).update(
        scheduled_at=timezone.now() - timedelta(seconds=1)
    )


def promote_all() -> int:
    total = 0
    while count := promote():
        total += count
    return total


def test_what_is_due_is_queued_and_what_is_not_waits(redis_client: redis.Redis) -> None:
    session = make_session()
    due, later = schedule(session, "due", "later")
    let_come_due(due)
    before = timezone.now()
    assert promote() == 1
    assert promote() == 0
    due.refresh_from_db()
    later.refresh_from_db()
    assert (due.status, later.status) == (Status.QUEUED, Status.SCHEDULED)
    assert due.queued_at is not None
    assert before <= due.queued_at <= timezone.now()
    assert traces(due)[0] == [EventKind.MESSAGE_SCHEDULED, EventKind.MESSAGE_QUEUED]
    assert Event.objects.filter(message=due).last().data == {"by": "schedule"}
    assert job_ids(redis_client, "alpha") == [str(due.pk)]
    assert is_due(redis_client, "alpha")


def test_it_keeps_its_place_before_what_was_submitted_later(redis_client: redis.Redis) -> None:
    session = make_session()
    a = submit(session, "a")
    b = schedule(session, "b")
    c = submit(session, "c")
    d = schedule(session, "d")
    e = submit(session, "e")
    f = schedule(session, "f")
    high = schedule(session, "high", priority=Priority.HIGH)
    let_come_due(*d, *f, *high)
    assert promote_all() == 3
    let_come_due(*b)
    assert promote_all() == 1
    expected = [str(made[0].pk) for made in (high, a, b, c, d, e, f)]
    assert job_ids(redis_client, "alpha") == line(session) == expected


def test_it_is_looked_at_now_when_it_goes_before_what_its_session_waits_for(redis_client: redis.Redis) -> None:
    session = make_session()
    first = schedule(session, "first")
    submit(session, "second")
    redis_client.zadd(keys.DUE, {"alpha": 4_000_000_000_000})
    let_come_due(*first)
    promote()
    assert is_due(redis_client, "alpha")


def test_one_that_goes_behind_leaves_the_wait_of_its_session_as_it_is(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "first")
    last = schedule(session, "last")
    redis_client.zadd(keys.DUE, {"alpha": 4_000_000_000_000})
    let_come_due(*last)
    promote()
    assert not is_due(redis_client, "alpha")


def test_many_are_promoted_in_batches_and_stand_in_order(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "_BATCH", 40)
    alpha, beta = make_session("alpha"), make_session("beta")
    made = [*schedule(alpha, *["text"] * 70), *schedule(beta, *["text"] * 30)]
    submit(alpha, "now")
    let_come_due(*made)
    assert [promote(), promote(), promote(), promote()] == [40, 40, 20, 0]
    for session, count in ((alpha, 71), (beta, 30)):
        assert job_ids(redis_client, session.name) == line(session)
        assert len(line(session)) == count


def test_the_oldest_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "_BATCH", 2)
    made = schedule(make_session(), *"abcd")
    for message, ago in zip(made, (1, 4, 3, 2), strict=True):
        Message.objects.filter(pk=message.pk).update(scheduled_at=timezone.now() - timedelta(minutes=ago))
    promote()
    queued = Message.objects.filter(status=Status.QUEUED).order_by("text")
    assert list(queued.values_list("text", flat=True)) == ["b", "c"]


def test_several_who_promote_at_once_promote_each_message_once(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "_BATCH", 7)
    session = make_session()
    made = schedule(session, *["text"] * 60)
    let_come_due(*made)
    assert sum(at_once(*[promote_all] * 4)) == 60
    assert Event.objects.filter(kind=EventKind.MESSAGE_QUEUED).count() == 60
    assert sorted(job_ids(redis_client, "alpha")) == sorted(line(session))
    assert len(line(session)) == 60


def test_a_promoter_leaves_to_another_what_that_one_has_begun(redis_client: redis.Redis) -> None:
    made = schedule(make_session(), "one", "two")
    let_come_due(made[0])
    with transaction.atomic():
        assert promote() == 1
        let_come_due(made[1])
        # Of the first it is not known yet whether it is promoted: it is not waited for.
        assert at_once(promote) == [0]
    assert promote() == 1


def test_one_that_is_cancelled_first_is_not_promoted(redis_client: redis.Redis) -> None:
    (message,) = schedule(make_session(), "one")
    let_come_due(message)
    with transaction.atomic():
        messages.cancel(message.pk, actor=ACTOR)
        assert at_once(promote) == [0]
    assert promote() == 0
    assert job_ids(redis_client, "alpha") == []


def test_a_session_that_is_deleted_first_has_nothing_promoted(redis_client: redis.Redis) -> None:
    session = make_session()
    let_come_due(*schedule(session, "one", "two"))
    with transaction.atomic():
        sessions.delete(session, actor=ACTOR, unsent="cancel")
        assert at_once(promote) == [0]
    assert promote() == 0
    assert set(Message.objects.values_list("status", flat=True)) == {Status.CANCELLED}


def test_a_deletion_that_comes_second_cancels_what_was_promoted() -> None:
    session = make_session()
    let_come_due(*schedule(session, "one"))
    with transaction.atomic():
        promote()
        deleting = Threads([lambda: sessions.delete(session, actor=ACTOR, unsent="cancel")])
        wait_until_blocked()
    assert deleting.join() == [Deleted(cancelled=1)]
    assert Message.objects.get().status == Status.CANCELLED


def test_where_the_put_of_one_session_fails_the_others_are_looked_at_all_the_same(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {name: make_session(name) for name in ("alpha", "beta", "gamma")}
    let_come_due(*(schedule(session, "x")[0] for session in made.values()))
    redis_client.delete(keys.DUE)
    tried: list[str] = []

    def fails(name: str, promoted: list[Message]) -> bool:
        tried.append(name)
        return False

    monkeypatch.setattr(messages, "put", fails)
    assert promote() == 3
    # Each would cost its time-out.
    assert len(tried) == 1
    assert {name for name in made if is_due(redis_client, name)} == made.keys() - set(tried)


def test_a_promotion_that_is_rolled_back_leaves_nothing(redis_client: redis.Redis) -> None:
    (message,) = schedule(make_session(), "one")
    let_come_due(message)
    with transaction.atomic():
        promote()
        transaction.set_rollback(True)
    message.refresh_from_db()
    assert message.status == Status.SCHEDULED
    assert traces(message)[0] == [EventKind.MESSAGE_SCHEDULED]
    assert redis_client.dbsize() == 0


def test_a_paused_session_has_its_messages_promoted_all_the_same() -> None:
    session = make_session(desired_state="paused")
    let_come_due(*schedule(session, "one"))
    assert promote() == 1
