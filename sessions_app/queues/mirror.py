"""What the web, people and commands do in Redis: put jobs, signal sessions, take jobs out."""

import contextlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Message
from sessions_app.queues import inspect, keys, scripts
from sessions_app.queues.connection import deployment_id, run, web_client
from sessions_app.queues.jobs import job_fields
from sessions_app.queues.lists import replaced_key

# Jobs in one script call: Redis serves nobody else while it runs.
_CHUNK = 200
_READ_CHUNK = 5000


@dataclass(frozen=True, slots=True)
class Entry:
    """A message for the mirror. `before` is the id of the job that it must stand in front of, if any."""

    message: Message
    before: str = ""


def put(
    session_name: str,
    entries: Sequence[Entry],
    *,
    urgent: bool = False,
    recheck: bool = False,
    client: redis.Redis | None = None,
) -> int | None:
    """Put `entries` into the mirror of a session and let workers look at it; return the length of its queue.

    Only what is committed may be put. `urgent` looks at the session now even when it has a due time: for a message
    that may go before the one it waits for. `recheck` puts what is missing in the queue even when its hash is there.

    Raises QueueUnavailable when Redis cannot be reached: the rows are safe, and reconciliation puts them later.
    """
    length: int | None = None
    for start in range(0, len(entries), _CHUNK):
        args: list[Any] = [
            deployment_id(), keys.WAKE, session_name, "1" if urgent else "0", "1" if recheck else "0",
        ]  # fmt: skip
        for entry in entries[start : start + _CHUNK]:
            fields = job_fields(session_name, entry.message)
            args += (str(entry.message.id), keys.job_key(entry.message.id), entry.before, len(fields), *fields)
        where = [keys.DUE, keys.VERSIONS, keys.META, keys.RQ_QUEUES, keys.queue_key(session_name)]
        length = run(client or web_client(), scripts.PUT, where, args)
    return length


def signal(session_names: Iterable[str], *, client: redis.Redis | None = None) -> None:
    """Have these sessions looked at now. Raises QueueUnavailable."""
    names = list(session_names)
    for start in range(0, len(names), 1000):
        run(
            client or web_client(),
            scripts.SIGNAL,
            [keys.DUE, keys.VERSIONS, keys.META],
            [deployment_id(), keys.WAKE, *names[start : start + 1000]],
        )


def take_out(session_name: str, message_ids: Sequence[object], *, client: redis.Redis | None = None) -> None:
    """Take the jobs of messages that will not be sent out of the mirror. Raises QueueUnavailable."""
    for start in range(0, len(message_ids), _CHUNK):
        chunk = message_ids[start : start + _CHUNK]
        args: list[Any] = [deployment_id(), keys.WAKE, 0, "", len(chunk)]
        for message_id in chunk:
            args += (session_name, str(message_id))
        run(client or web_client(), scripts.GIVE_BACK, [keys.DUE, keys.VERSIONS, keys.META], args)


def job_ids(session_name: str, *, client: redis.Redis) -> list[str] | None:
    """The ids of all jobs in the mirror; None for a key that is no list. Raises QueueUnavailable."""
    found: list[str] = []
    try:
        while chunk := client.lrange(keys.queue_key(session_name), len(found), len(found) + _READ_CHUNK - 1):
            found += map(inspect.text, chunk)
    except ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            return None
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    return found


class Replacement:
    """A new list of jobs for one session, written beside the old one and then swapped in.

    Readers see the old list or the new one, never a part. An unfinished one vanishes by itself.
    """

    _TTL_SECONDS = 600

    def __init__(self, session_name: str, client: redis.Redis) -> None:
        self._session_name = session_name
        self._client = client
        self._key = f"waqueue:replacement:{uuid.uuid4().hex}"

    def __enter__(self) -> "Replacement":
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(RedisError):
            self._client.unlink(self._key)

    def add(self, messages: Sequence[Message]) -> None:
        """Add the next messages of the line. Raises QueueUnavailable."""
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for message in messages:
                    # What is left of an earlier one may be about to expire.
                    pipe.unlink(keys.job_key(message.pk))
                    pipe.hset(keys.job_key(message.pk), items=job_fields(self._session_name, message))
                pipe.rpush(self._key, *(str(message.pk) for message in messages))
                pipe.expire(self._key, self._TTL_SECONDS)
                pipe.execute()
        except RedisError as error:
            raise QueueUnavailable(f"Redis cannot be reached: {error}") from error

    def swap(self) -> bytes | None:
        """Make it the session's queue; return the name under which the old one now waits to be looked through.

        A key of that name that is no list is left alone. Raises QueueUnavailable, OtherDeployment.
        """
        key = keys.queue_key(self._session_name)
        old = replaced_key(key.encode())
        where: list[str | bytes] = [self._key, key, old, keys.META, keys.RQ_QUEUES]
        return old if run(self._client, scripts.SWAP, where, [deployment_id()]) else None
