"""A Redis that another waqueue database has claimed is left alone by everybody."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from sessions_app.exceptions import OtherDeployment
from sessions_app.models import Deployment, Message, Status
from sessions_app.queues import chores, keys, mirror
from sessions_app.queues.connection import deployment_id
from sessions_app.queues.dispatch import Claim, ClaimedSession, DispatchQueues, GiveBack, SettledJob
from sessions_app.reconciliation import rebuild, stranded
from sessions_app.services import messages
from tests.factories import ACTOR, make_session, submit

pytestmark = pytest.mark.django_db(transaction=True)

THEIRS = "0b5b1a1e-0000-7000-8000-000000000000"


def snapshot(client: redis.Redis) -> dict[bytes, Any]:
    return {key: client.dump(key) for key in client.scan_iter()}


def with_queues(act: Callable[[DispatchQueues], Awaitable[Any]]) -> Any:
    deployment = deployment_id()

    async def run() -> Any:
        queues = DispatchQueues(deployment)
        try:
            return await act(queues)
        finally:
            await queues.close()

    return asyncio.run(run())


@pytest.fixture
def made(redis_client: redis.Redis) -> list[Message]:
    """Return two messages of `alpha`; Redis is theirs, and has a session of that name too."""
    messages = submit(make_session(), "one", "two")
    redis_client.hset(keys.META, "deployment", THEIRS)
    return messages


CLAIMED = ClaimedSession("alpha", "generation", 1)
IN_REDIS: dict[str, Callable[[list[Message]], Any]] = {
    "put": lambda made: mirror.put("alpha", [mirror.Entry(message) for message in made]),
    "urgent put": lambda made: mirror.put("beta", [mirror.Entry(made[0])], urgent=True),
    "signal": lambda made: mirror.signal(["alpha", "beta"]),
    "take out": lambda made: mirror.take_out("alpha", [message.pk for message in made]),
    "claim": lambda made: with_queues(lambda queues: queues.claim(10)),
    "give back": lambda made: with_queues(
        lambda queues: queues.give_back([GiveBack(CLAIMED, 0)], [SettledJob("alpha", str(made[0].pk))], 99)
    ),
    "rebuild": lambda made: rebuild.rebuild("another generation"),
    "task": lambda made: chores.enqueue(str(made[0].pk)),
}


@pytest.mark.fault("14b")
@pytest.mark.parametrize("act", IN_REDIS.values(), ids=IN_REDIS)
def test_it_touches_nothing_and_says_whose_it_is(
    act: Callable[[list[Message]], Any], made: list[Message], redis_client: redis.Redis
) -> None:
    before = snapshot(redis_client)
    assert len(before) >= 5
    with pytest.raises(OtherDeployment, match=f"belongs to the waqueue database {THEIRS}"):
        act(made)
    assert snapshot(redis_client) == before


@pytest.mark.fault("14b")
def test_a_signal_of_the_worker_touches_nothing(made: list[Message], redis_client: redis.Redis) -> None:
    before = snapshot(redis_client)
    with pytest.raises(OtherDeployment):
        with_queues(lambda queues: queues.signal(["alpha"]))
    assert snapshot(redis_client) == before


@pytest.mark.fault("14b")
def test_looking_for_stranded_sessions_touches_nothing(made: list[Message], redis_client: redis.Redis) -> None:
    redis_client.delete(keys.DUE)
    Message.objects.update(queued_at="2020-01-01T00:00:00Z")
    before = snapshot(redis_client)
    with pytest.raises(OtherDeployment):
        stranded.signal_stranded()
    assert snapshot(redis_client) == before


def test_a_rebuild_that_was_refused_is_not_taken_for_done(made: list[Message]) -> None:
    with pytest.raises(OtherDeployment):
        rebuild.rebuild("another generation")
    assert Deployment.current().redis_generation == ""


@pytest.mark.fault("14b")
def test_what_is_submitted_is_kept_and_touches_nothing(
    made: list[Message], redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    before = snapshot(redis_client)
    with caplog.at_level(logging.WARNING):
        (message,) = submit(made[0].session, "three")
        messages.cancel(made[0].pk, actor=ACTOR)
    assert Message.objects.filter(status=Status.QUEUED).count() == 2
    assert message.status == Status.QUEUED
    assert snapshot(redis_client) == before
    assert caplog.text.count(f"belongs to the waqueue database {THEIRS}") == 2


def test_a_redis_without_an_owner_is_taken_by_the_first_claim(redis_client: redis.Redis) -> None:
    submit(make_session(), "one")
    assert redis_client.hget(keys.META, "deployment") is None
    claim: Claim = with_queues(lambda queues: queues.claim(10))
    assert [session.name for session in claim.sessions] == ["alpha"]
    assert redis_client.hget(keys.META, "deployment") == deployment_id().encode()
