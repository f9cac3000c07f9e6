"""The worker's calls to Redis, one after the other."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.client import PubSub

from sessions_app.queues import keys
from sessions_app.queues.dispatch import Claim, ClaimedSession, DispatchQueues, GiveBack, SettledJob

OURS = "ours"
FAR = 60_000


class Lab:
    """The worker's calls, one after the other, and what Redis holds between them."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def _call(self, act: Callable[[DispatchQueues], Any], worker: str = "") -> Any:
        async def run() -> Any:
            queues = DispatchQueues(OURS, worker)
            try:
                return await act(queues)
            finally:
                await queues.close()

        return asyncio.run(run())

    def claim(self, limit: int = 100) -> Claim:
        return self._call(lambda queues: queues.claim(limit))

    def claim_as(self, worker: str, limit: int = 100, in_flight: int = 0) -> Claim:
        """As one of several workers, which then goes on."""
        claim = self._call(lambda queues: queues.claim(limit, in_flight), worker)
        self.load(worker, in_flight + len(claim.sessions), room=limit - len(claim.sessions))
        return claim

    def load(self, worker: str, in_flight: int, *, room: int = 100, seconds_ago: float = 0) -> None:
        self.client.hset(keys.LOADS, worker, f"{in_flight} {room} {self.now() - round(1000 * seconds_ago)}")

    def claim_one(self) -> ClaimedSession:
        (session,) = self.claim().sessions
        return session

    def give_back(self, *backs: tuple[ClaimedSession, int | None], jobs: list[SettledJob] | None = None, mark: int = 0):
        self._call(lambda queues: queues.give_back([GiveBack(*back) for back in backs], jobs or [], mark))

    def signal(self, *names: str) -> None:
        self._call(lambda queues: queues.signal(names))

    def now(self) -> int:
        seconds, microseconds = self.client.time()
        return seconds * 1000 + microseconds // 1000

    def due_in(self, **delays: int) -> None:
        now = self.now()
        for name, delay in delays.items():
            self.client.zadd(keys.DUE, {name: now + delay})

    def delay(self, name: str) -> float | None:
        score = self.client.zscore(keys.DUE, name)
        return None if score is None else score - self.now()

    def is_due(self, name: str) -> bool:
        delay = self.delay(name)
        return delay is not None and delay <= 0

    def version(self, name: str) -> int:
        return int(self.client.hget(keys.VERSIONS, name) or 0)

    def meta(self, name: str) -> str:
        return (self.client.hget(keys.META, name) or b"").decode()


@pytest.fixture
def lab(redis_client: redis.Redis) -> Lab:
    return Lab(redis_client)


@pytest.fixture
def wakes(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[PubSub]:
    # Channels are the server's, not the database's: other tests may run beside this one.
    monkeypatch.setattr(keys, "WAKE", f"waqueue:wake:{uuid.uuid4().hex}")
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(keys.WAKE)
        while not pubsub.subscribed:
            pubsub.get_message(timeout=1)
        yield pubsub


def heard(lab: Lab, pubsub: PubSub) -> int:
    """How many wake-ups were published until now."""
    lab.client.publish(keys.WAKE, "the last one")
    count = 0
    while True:
        message = pubsub.get_message(timeout=5)
        if message is None:
            continue
        if message["data"] == b"the last one":
            return count
        count += 1
