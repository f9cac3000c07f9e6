"""What is in Redis now, for pages, the API and reconciliation. Reads only; never `KEYS`, never deserialises."""

from collections.abc import Iterable, Sequence

import redis
from redis.exceptions import RedisError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.queues import keys
from sessions_app.queues.connection import web_client


def depths(session_names: Sequence[str], *, client: redis.Redis | None = None) -> list[int]:
    """How many jobs each session's queue holds, in one round trip. Raises QueueUnavailable."""
    return _pipelined(client, [("LLEN", keys.queue_key(name)) for name in session_names])


def due_times(session_names: Sequence[str], *, client: redis.Redis | None = None) -> list[float | None]:
    """When each session is looked at next, in seconds since the epoch, None for not due. Raises QueueUnavailable."""
    scores = _pipelined(client, [("ZSCORE", keys.DUE, name) for name in session_names])
    return [None if score is None else float(score) / 1000 for score in scores]


def session_queue_names(*, client: redis.Redis | None = None) -> set[str]:
    """The session names of all `wa:` queues that RQ knows and that hold anything. Raises QueueUnavailable."""
    try:
        known = (client or web_client()).smembers(keys.RQ_QUEUES)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    names = [name for queue in known if (name := keys.session_of(text(queue))) is not None]
    return {name for name, depth in zip(names, depths(names, client=client), strict=True) if depth}


def is_reachable(*, client: redis.Redis | None = None) -> bool:
    """Whether Redis answers at all."""
    try:
        return bool((client or web_client()).ping())
    except RedisError:
        return False


def _pipelined(client: redis.Redis | None, commands: Iterable[tuple[str, ...]]) -> list:  # type: ignore[type-arg]
    try:
        with (client or web_client()).pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipe.execute()
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def text(raw: bytes | str) -> str:
    """What stands in Redis as text; bytes that are none are shown escaped."""
    return raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
