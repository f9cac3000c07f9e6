"""While Redis cannot be reached, what is submitted is kept, and nobody waits for long to be told so."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta

import pytest
import redis
from django.db import transaction
from django.utils import timezone
from pytest_django import Settings

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Message, Status
from sessions_app.queues import inspect, mirror
from sessions_app.queues.connection import bulk_client, upkeep_client, web_client, worker_client
from sessions_app.queues.dispatch import ClaimedSession, DispatchQueues, GiveBack
from sessions_app.reconciliation import rebuild
from sessions_app.services import messages, sessions
from sessions_app.worker import expiry, promotion
from tests.factories import ACTOR, job_ids, line, make_session, now, submit
from tests.processes import find_free_port
from waqueue.embedded import EmbeddedValkey

pytestmark = pytest.mark.django_db(transaction=True)


def forget_clients() -> None:
    for make in (web_client, bulk_client, upkeep_client):
        if make.cache_info().currsize:
            make().close()
        make.cache_clear()


@pytest.fixture
def valkey(own_redis: EmbeddedValkey, settings: Settings) -> Iterator[EmbeddedValkey]:
    """Return a Redis that waqueue uses during the test, and that the test may stop."""
    forget_clients()
    settings.REDIS_URL = own_redis.url
    yield own_redis
    forget_clients()


def refuse(valkey: EmbeddedValkey) -> None:
    valkey.kill()


def hang(valkey: EmbeddedValkey) -> None:
    assert valkey.pid
    os.kill(valkey.pid, signal.SIGSTOP)


def fastest(act: Callable[[], object]) -> float:
    """How many seconds the fastest of three calls takes: the machine may be busy with other things."""
    taken = []
    for _ in range(3):
        began = time.monotonic()
        act()
        taken.append(time.monotonic() - began)
    return min(taken)


@pytest.fixture(params=[refuse, hang])
def away(request: pytest.FixtureRequest, valkey: EmbeddedValkey) -> Callable[[], None]:
    """Return what makes Redis go away: the port is closed, or whoever listens does not answer."""
    return lambda: request.param(valkey)


@pytest.mark.parametrize("is_warm", [True, False], ids=["connected before", "never connected"])
def test_a_put_gives_up_within_300_ms(away: Callable[[], None], is_warm: bool) -> None:
    (message,) = submit(make_session(), "one")
    if not is_warm:
        forget_clients()
    away()

    def put() -> None:
        with pytest.raises(QueueUnavailable, match="Redis cannot be reached"):
            mirror.put("alpha", [mirror.Entry(message)])

    assert fastest(put) < 0.3


@pytest.mark.fault(11)
def test_a_submit_is_kept_all_the_same_and_says_so_once(
    away: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    session = make_session()
    away()
    with caplog.at_level(logging.WARNING):
        assert fastest(lambda: submit(session, "one", "two")) < 0.4
    assert Message.objects.filter(status=Status.QUEUED).count() == 6
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3
    assert warnings[0].startswith("2 messages of alpha are kept and wait for reconciliation: Redis cannot be reached")


def test_acts_of_people_are_kept_all_the_same(away: Callable[[], None]) -> None:
    session = make_session()
    one, two, three = submit(session, "one", "two", "three")
    Message.objects.filter(pk=two.pk).update(status=Status.FAILED)
    Message.objects.filter(pk=three.pk).update(status=Status.UNCERTAIN)
    away()
    assert messages.cancel(one.pk, actor=ACTOR).status == Status.CANCELLED
    assert messages.retry(two.pk, actor=ACTOR).status == Status.QUEUED
    assert messages.resolve(three.pk, outcome="sent", actor=ACTOR).status == Status.SENT
    assert sessions.act(session, "pause", actor=ACTOR).desired_state == "paused"
    assert sessions.delete(session, actor=ACTOR, unsent="cancel").cancelled == 1


@pytest.mark.parametrize("what", [expiry.expire, promotion.promote], ids=["expiry", "promotion"])
def test_upkeep_of_many_sessions_asks_a_silent_redis_once(
    what: Callable[[], int], valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    past = timezone.now() - timedelta(seconds=1)
    for number in range(5):
        submit(make_session(f"s{number}"), "one", "two")
    if what is expiry.expire:
        Message.objects.update(expires_at=past)
    else:
        Message.objects.update(status=Status.SCHEDULED, scheduled_at=past)
    caplog.clear()
    with transaction.atomic():
        assert what() == 10
        hang(valkey)
    said = [record.getMessage() for record in caplog.records if "Redis cannot be reached" in record.getMessage()]
    # Each of them is a time-out.
    assert len(said) == 1
    assert not Message.objects.filter(status=Status.SCHEDULED).exists()


def test_what_expires_while_redis_is_away_waits_and_expires_when_it_is_back(valkey: EmbeddedValkey) -> None:
    (message,) = submit(make_session(), "one")
    Message.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    valkey.kill()
    with pytest.raises(QueueUnavailable):
        expiry.expire()
    assert now(message).status == Status.QUEUED
    valkey.start()
    assert expiry.expire() == 1
    assert now(message).status == Status.EXPIRED


def test_whoever_looks_into_redis_is_told(away: Callable[[], None]) -> None:
    assert inspect.is_reachable()
    away()
    assert not inspect.is_reachable()
    looks: list[Callable[[], object]] = [
        lambda: inspect.depths(["alpha"]),
        lambda: inspect.due_times(["alpha"]),
        inspect.session_queue_names,
        lambda: mirror.signal(["alpha"]),
        lambda: mirror.take_out("alpha", ["x"]),
    ]
    for look in looks:
        with pytest.raises(QueueUnavailable):
            look()


@pytest.mark.fault(11)
def test_when_redis_is_back_everything_goes_on(valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture) -> None:
    session = make_session()
    submit(session, "one")
    valkey.kill()
    submit(session, "two")
    valkey.start()
    submit(session, "three")
    rebuild.rebuild_session(session, upkeep_client())
    with redis.Redis.from_url(valkey.url) as client:
        assert job_ids(client, "alpha") == line(session)
    assert len(line(session)) == 3
    assert "1 messages of alpha are kept" in caplog.text


def test_the_worker_is_told_whatever_it_asks(settings: Settings) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{find_free_port()}"
    calls: list[Callable[[DispatchQueues], Awaitable[object]]] = [
        lambda queues: queues.claim(1),
        lambda queues: queues.give_back([GiveBack(ClaimedSession("a", "g", 1), 0)]),
        lambda queues: queues.signal(["a"]),
    ]

    async def run() -> None:
        queues = DispatchQueues("ours")
        for call in calls:
            with pytest.raises(QueueUnavailable, match="Redis cannot be reached"):
                await call(queues)
        await queues.close()

    asyncio.run(run())


def test_the_worker_waits_longer_for_an_answer_than_the_web_does() -> None:
    timeouts = [
        client.connection_pool.connection_kwargs["socket_timeout"] for client in (worker_client(), web_client())
    ]
    assert timeouts[0] > 10 * timeouts[1]
