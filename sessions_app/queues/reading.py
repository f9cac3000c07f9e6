"""The mirror as reconciliation reads it: queues with the jobs in them, in parts that do not hold Redis up."""

from collections.abc import Iterator, Sequence
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.queues import keys

# Queues of one round trip, entries of one read of one queue, and jobs of one question: what comes in one piece, Redis
# works off before it serves anybody else.
_QUEUES = 100
_ENTRIES = 1000
_JOB = keys.RQ_JOB_PREFIX.encode()
# To find the few that are not there: all by the thousand, then what stands with one of them by fewer.
_ASKED_AT_ONCE = (1000, 30, 1)


def queues(session_names: Sequence[str], *, most: int, client: redis.Redis) -> list[list[bytes] | None]:
    """The job ids in the queues of these sessions, no more than about `most` of one; None for a key that is no list.

    Raises QueueUnavailable.
    """
    found: list[list[bytes] | None] = [[] for _ in session_names]
    pending = list(range(len(session_names)))
    start = 0
    try:
        while pending and start < most:
            replies: list[Any] = []
            for first in range(0, len(pending), _QUEUES):
                with client.pipeline(transaction=False) as pipe:
                    for at in pending[first : first + _QUEUES]:
                        pipe.lrange(keys.queue_key(session_names[at]), start, start + _ENTRIES - 1)
                    replies += pipe.execute(raise_on_error=False)
            unfinished = []
            for at, reply in zip(pending, replies, strict=True):
                if isinstance(reply, ResponseError):
                    found[at] = None
                    continue
                if isinstance(reply, Exception):
                    raise reply
                found[at] += reply
                if len(reply) == _ENTRIES:
                    unfinished.append(at)
            pending, start = unfinished, start + _ENTRIES
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    return found


def parts(session_name: str, *, client: redis.Redis) -> Iterator[list[bytes]] | None:
    """The job ids in the queue of a session, part by part; None for a key that is no list. Raises QueueUnavailable."""
    key = keys.queue_key(session_name)
    try:
        kind = client.type(key)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    return _parts(key, client) if kind in (b"list", b"none") else None


def _parts(key: str, client: redis.Redis) -> Iterator[list[bytes]]:
    start = 0
    try:
        while True:
            part: Any = client.lrange(key, start, start + _ENTRIES - 1)
            if not part:
                return
            yield part
            start += len(part)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def without_content(job_ids: Sequence[bytes], *, client: redis.Redis) -> set[bytes]:
    """Those of these jobs that have no hash. Raises QueueUnavailable."""
    names = [_JOB + job for job in job_ids]
    try:
        for size in _ASKED_AT_ONCE:
            names = _lacking(names, size, client)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    return {name.removeprefix(_JOB) for name in names}


def _lacking(names: list[bytes], size: int, client: redis.Redis) -> list[bytes]:
    """Those of `names` that stand with one that is not there, asked for `size` at a time."""
    chunks = [names[start : start + size] for start in range(0, len(names), size)]
    if not chunks:
        return []
    with client.pipeline(transaction=False) as pipe:
        for chunk in chunks:
            pipe.exists(*chunk)
        return [
            name for chunk, count in zip(chunks, pipe.execute(), strict=True) if count < len(chunk) for name in chunk
        ]
