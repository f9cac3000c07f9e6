"""What the worker does in Redis: claim due sessions, give them back. One round trip each, for any number."""

import contextlib
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError, RedisError

from sessions_app.exceptions import OtherDeployment, QueueUnavailable
from sessions_app.queues import keys, scripts
from sessions_app.queues.connection import worker_client
from sessions_app.queues.scripts import Script

# How far a claim pushes a session's due time: a worker that dies leaves its sessions due again by themselves.
AGAIN_MS = 15_000
_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class ClaimedSession:
    """One session of a claim. Generation and version say, when it is given back, whether anything came between.

    `at` is when it was claimed, in seconds of `time.monotonic()`.
    """

    name: str
    generation: str
    version: int
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim got.

    `next_due_ms` is the time until it is worth looking again, None when no session is due at any time. `others_wait`
    says that some are due which this claim did not get.
    """

    generation: str
    mark: int
    is_suspended: bool
    next_due_ms: int | None
    others_wait: bool
    sessions: list[ClaimedSession]


@dataclass(frozen=True, slots=True)
class GiveBack:
    """A claimed session with the time until it is to be looked at again, None for not at all until signalled."""

    session: ClaimedSession
    delay_ms: int | None


@dataclass(frozen=True, slots=True)
class SettledJob:
    """A job whose message is no longer open."""

    session_name: str
    message_id: str


@dataclass(slots=True)
class DispatchQueues:
    """The worker's side of Redis.

    Every method raises QueueUnavailable when Redis does not answer, and OtherDeployment, having touched nothing, when
    it belongs to another database.
    """

    deployment: str
    worker: str = ""
    client: "redis.asyncio.Redis" = field(default_factory=worker_client)

    async def claim(self, limit: int, in_flight: int = 0) -> Claim:
        """Take up to `limit` due sessions, oldest first; with 0 only see when the next one is due.

        A worker that has `in_flight` messages in flight gets no more than its share of all that is due and in flight.
        """
        reply = await self._run(
            scripts.CLAIM,
            [keys.DUE, keys.VERSIONS, keys.META, keys.RQ_SUSPENDED, keys.LOADS, keys.CALLED],
            [self.deployment, limit, AGAIN_MS, uuid.uuid4().hex, self.worker, in_flight, keys.WAKE],
        )
        generation = reply[0].decode()
        at_s = time.monotonic()
        sessions: list[ClaimedSession] = []
        for at in range(5, len(reply), 2):
            if _NAME.fullmatch(reply[at]):
                sessions.append(ClaimedSession(reply[at].decode(), generation, reply[at + 1], at_s))
            else:
                await self._forget(reply[at])
        return Claim(
            generation=generation,
            mark=int(reply[1]),
            is_suspended=bool(reply[2]),
            next_due_ms=None if reply[3] < 0 else reply[3],
            others_wait=bool(reply[4]),
            sessions=sessions,
        )

    async def give_back(self, sessions: Sequence[GiveBack], jobs: Sequence[SettledJob] = (), mark: int = 0) -> None:
        """Take `jobs` out of the mirror, raise the mark to `mark`, and give `sessions` back."""
        # A claim of another Redis than the newest one's has a version that fits nothing: its session is signalled.
        generation = sessions[-1].session.generation if sessions else ""
        args: list[Any] = [self.deployment, keys.WAKE, mark, generation, len(jobs)]
        for job in jobs:
            args += (job.session_name, job.message_id)
        for back in sessions:
            claimed = back.session
            version = claimed.version if claimed.generation == generation else 0
            args += (claimed.name, version, -1 if back.delay_ms is None else back.delay_ms)
        await self._run(scripts.GIVE_BACK, [keys.DUE, keys.VERSIONS, keys.META], args)

    async def signal(self, names: Sequence[str]) -> None:
        """Have these sessions looked at now."""
        if names:
            args = [self.deployment, keys.WAKE, *names]
            await self._run(scripts.SIGNAL, [keys.DUE, keys.VERSIONS, keys.META], args)

    async def close(self) -> None:
        """Leave the shares to the other workers, and close the connections."""
        with contextlib.suppress(RedisError, OSError):
            await self.client.hdel(keys.LOADS, self.worker)
        await self.client.aclose()

    async def _forget(self, garbage: bytes) -> None:
        """Something that cannot be the name of a session is due: it must not keep those behind it from their turn."""
        try:
            await self.client.zrem(keys.DUE, garbage)
            await self.client.hdel(keys.VERSIONS, garbage)
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"Redis cannot be reached: {error}") from error

    async def _run(self, script: Script, where: list[str], args: list[Any]) -> Any:
        try:
            try:
                reply = await self.client.evalsha(script.sha, len(where), *where, *args)
            except NoScriptError:
                reply = await self.client.eval(script.text, len(where), *where, *args)
        except (TimeoutError, RedisError, OSError) as error:
            raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
        if isinstance(reply, bytes):
            raise OtherDeployment(
                f"this Redis belongs to the waqueue database {reply.decode()}: nothing in it is touched"
            )
        return reply
