"""The queues are shown with what PostgreSQL says of them and when Redis looks at them next."""

from datetime import UTC, datetime, timedelta

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions_app.models import Hold, Message, Session, Status
from sessions_app.queues import inspect, keys
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from sessions_app.services.queue_overview import orphans, views
from tests.factories import ACTOR, become, fly, hold, in_an_hour, make_session, submit

pytestmark = pytest.mark.django_db


def all_views() -> dict[str, object]:
    return {view.session: view for view in views(list(Session.objects.alive().select_related("dispatch")))}


def test_a_queue_shows_what_waits_what_flies_and_since_when(redis_client: redis.Redis) -> None:
    session = make_session(pacing=Pacing(min_interval_ms=60_000, max_interval_ms=60_000))
    first, *_ = submit(session, "one", "two", "three")
    Message.objects.filter(pk=first.pk).update(queued_at=timezone.now() - timedelta(hours=1))
    fly(first)
    become(submit(session, "sent")[0], Status.SENT)
    submit(session, "later", scheduled_at=in_an_hour())
    redis_client.zadd(keys.DUE, {"alpha": 1_900_000_000_500})
    before = timezone.now()
    (view,) = views([sessions.get("alpha")])
    first.refresh_from_db()
    assert (view.queue, view.session, view.state, view.source) == ("wa:alpha", "alpha", "serving", "rq")
    assert (view.depth, view.in_flight) == (3, 1)
    assert view.oldest_queued_at == first.queued_at
    assert view.next_due_at == datetime.fromtimestamp(1_900_000_000.5, UTC)
    assert view.estimated_done_at is not None
    assert before + timedelta(minutes=2) <= view.estimated_done_at <= timezone.now() + timedelta(minutes=2)


def test_an_empty_queue_shows_nothing_that_is_not_there() -> None:
    make_session()
    (view,) = views([sessions.get("alpha")])
    assert (view.depth, view.in_flight) == (0, 0)
    assert (view.oldest_queued_at, view.next_due_at, view.estimated_done_at) == (None, None, None)


def test_what_keeps_a_queue_from_moving_is_said_in_one_word() -> None:
    make_session("serving")
    make_session("paused", desired_state="paused")
    make_session("stopped", desired_state="stopped")
    hold(make_session("held"), Hold.REFUSED)
    hold(make_session("both", desired_state="paused"), Hold.REFUSED)
    states = {name: view.state for name, view in all_views().items()}  # type: ignore[attr-defined]
    assert states == {"serving": "serving", "paused": "paused", "stopped": "paused", "held": "held", "both": "paused"}


def test_the_views_come_in_the_order_of_the_sessions() -> None:
    made = [make_session(name) for name in ("beta", "alpha", "gamma")]
    assert [view.session for view in views(made)] == ["beta", "alpha", "gamma"]
    assert views([]) == []


def test_without_redis_everything_but_the_due_time_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    submit(make_session(), "one")

    def away(*args: object, **kwargs: object) -> None:
        raise inspect.QueueUnavailable

    monkeypatch.setattr(inspect, "due_times", away)
    (view,) = views([sessions.get("alpha")])
    assert (view.depth, view.next_due_at) == (1, None)


def test_it_asks_as_often_for_many_as_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    send = redis.Connection.send_packed_command

    def count(self: redis.Connection, *args: object, **kwargs: object) -> None:
        sent.append(args)
        send(self, *args, **kwargs)

    def round_trips() -> tuple[int, int]:
        chosen = list(Session.objects.alive().select_related("dispatch"))
        sent.clear()
        with CaptureQueriesContext(connection) as queries:
            assert len(views(chosen)) == len(chosen)
        return len(queries), len(sent)

    inspect.is_reachable()
    monkeypatch.setattr(redis.Connection, "send_packed_command", count)
    submit(make_session(), "one")
    assert round_trips() == (2, 1)
    for at in range(30):
        submit(make_session(f"beta-{at}"), "one", "two")
    assert round_trips() == (2, 1)


def test_a_queue_of_no_session_is_an_orphan(redis_client: redis.Redis) -> None:
    make_session("alpha")
    sessions.delete(make_session("deleted"), actor=ACTOR)
    for name, depth in (("alpha", 1), ("deleted", 2), ("unknown", 9), ("zero", 0)):
        if depth:
            redis_client.rpush(keys.queue_key(name), *["job"] * depth)
        redis_client.sadd(keys.RQ_QUEUES, keys.queue_key(name))
    redis_client.rpush("rq:queue:default", "job")
    redis_client.sadd(keys.RQ_QUEUES, "rq:queue:default")
    found = orphans()
    assert [(view.queue, view.state, view.depth) for view in found] == [
        ("wa:deleted", "orphan", 2),
        ("wa:unknown", "orphan", 9),
    ]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a b", b"a\x00b", b"*?[", "ñ".encode(), b"a" * 10_000])
def test_a_queue_of_an_odd_name_does_not_keep_the_others_from_being_shown(
    name: bytes, redis_client: redis.Redis
) -> None:
    for queue in (b"rq:queue:wa:" + name, b"rq:queue:wa:plain"):
        redis_client.rpush(queue, "job")
        redis_client.sadd(keys.RQ_QUEUES, queue)
    assert "wa:plain" in [view.queue for view in orphans()]


def test_a_key_of_another_type_does_not_keep_the_others_from_being_shown(redis_client: redis.Redis) -> None:
    redis_client.set(keys.queue_key("foreign"), "a string")
    redis_client.rpush(keys.queue_key("plain"), "job")
    redis_client.sadd(keys.RQ_QUEUES, keys.queue_key("foreign"), keys.queue_key("plain"))
    assert [view.session for view in orphans()] == ["plain"]
