"""What is in Redis now, for pages, the API and reconciliation. Reads only; never `KEYS`, never deserialises."""

import uuid
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from sessions_app.exceptions import OtherDeployment, QueueUnavailable
from sessions_app.queues import keys, scripts
from sessions_app.queues.connection import deployment_id, run, run_each, web_client

_FAR_MS = 2**53
# Names of one step: Redis serves nobody else meanwhile.
_SCAN = 1000
# A page asks for the first entries of a hundred lists at once.
_ENTRY_BYTES = 64 * 1024


def depths(session_names: Sequence[str], *, client: redis.Redis | None = None) -> list[int]:
    """How many jobs each session's queue holds, in one round trip. Raises QueueUnavailable."""
    return [depth or 0 for depth in _pipelined(client, [("LLEN", keys.queue_key(name)) for name in session_names])]


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


def lengths(list_keys: Sequence[bytes], *, client: redis.Redis | None = None) -> list[int]:
    """How many entries each of these lists holds, in one round trip; 0 for none. Raises QueueUnavailable."""
    return [length or 0 for length in _pipelined(client, [("LLEN", key) for key in list_keys])]


def first_entries(lists: Sequence[tuple[bytes, bool]], *, client: redis.Redis | None = None) -> list[bytes | None]:
    """The first entry of each of these lists, or of those that are RQ's when its job was made, in two round trips.

    None for none, and for what is too large to be a message. Raises QueueUnavailable.
    """
    calls: list[tuple[list[str | bytes], list[Any]]] = [
        ([key], [_ENTRY_BYTES, keys.RQ_JOB_PREFIX if is_rq else ""]) for key, is_rq in lists
    ]
    replies = run_each(client or web_client(), scripts.FIRST_ENTRY, calls)
    return [reply[0] if reply else None for reply in replies]


def is_reachable(*, client: redis.Redis | None = None) -> bool:
    """Whether Redis answers at all."""
    try:
        return bool((client or web_client()).ping())
    except RedisError:
        return False


def _pipelined(client: redis.Redis | None, commands: Iterable[tuple[str | bytes, ...]]) -> list:  # type: ignore[type-arg]
    try:
        with (client or web_client()).pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            return [_or_none(reply) for reply in pipe.execute(raise_on_error=False)]
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def _or_none(reply: Any) -> Any:
    """A reply of a pipeline; None for a key of another type than ours, which is foreign and no failure of Redis."""
    if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
        return None
    if isinstance(reply, Exception):
        raise reply
    return reply


def text(raw: bytes | str) -> str:
    """What stands in Redis as text; bytes that are none are shown escaped."""
    return raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw


@dataclass(frozen=True, slots=True)
class Meta:
    """What Redis says of itself. `generation` is empty when it was wiped or restarted since the last claim."""

    generation: str
    mark: int


def meta(*, client: redis.Redis | None = None) -> Meta:
    """Whose Redis this is and how far it has come. Raises OtherDeployment, QueueUnavailable."""
    client = client or web_client()
    try:
        reply: Any = client.hmget(keys.META, "deployment", "generation", "run_id", "mark")
        owner, generation, run_id, mark = reply
        is_same_life = run_id is not None and run_id.decode() == client.info("server")["run_id"]
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    if owner is not None and owner.decode() != deployment_id():
        raise OtherDeployment(f"this Redis belongs to the waqueue database {owner.decode()}: nothing in it is touched")
    return Meta(generation.decode() if generation and is_same_life else "", int(mark or 0))


def used_bytes(*, client: redis.Redis | None = None) -> int:
    """How much memory Redis uses, by whomever; 0 where it does not say. Raises QueueUnavailable."""
    try:
        return int((client or web_client()).info("memory").get("used_memory", 0))
    except ResponseError:
        return 0
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def establish_generation(*, client: redis.Redis | None = None) -> str:
    """The generation of this Redis, made if it has none yet. Raises OtherDeployment, QueueUnavailable."""
    where = [keys.DUE, keys.VERSIONS, keys.META, keys.RQ_SUSPENDED, keys.LOADS, keys.CALLED]
    args = [deployment_id(), 0, 0, uuid.uuid4().hex, "", 0, keys.WAKE]
    reply = run(client or web_client(), scripts.CLAIM, where, args)
    return str(reply[0].decode())


def due_in_ms(session_names: Sequence[str], *, client: redis.Redis | None = None) -> list[int | None]:
    """In how many ms by Redis' own clock each session is looked at, None for not due. Raises QueueUnavailable."""
    (seconds, micros), *scores = _pipelined(
        client, [("TIME",), *(("ZSCORE", keys.DUE, name) for name in session_names)]
    )
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    # Anybody may have written infinity there.
    return [None if score is None else int(max(-_FAR_MS, min(_FAR_MS, float(score)))) - now_ms for score in scores]


def empty_names(*, owned: Container[bytes] = (), client: redis.Redis | None = None) -> set[bytes]:
    """Queues that RQ still lists by name though they hold nothing, but for those `owned`. Raises QueueUnavailable."""
    client = client or web_client()
    prefix = (keys.RQ_QUEUE_PREFIX + keys.QUEUE_PREFIX).encode()
    try:
        known: Any = client.sscan_iter(keys.RQ_QUEUES, count=_SCAN)
        listed: list[bytes] = [key for key in known if key.startswith(prefix) and key not in owned]
        with client.pipeline(transaction=False) as pipe:
            for key in listed:
                pipe.exists(key)
            return {key for key, exists in zip(listed, pipe.execute(), strict=True) if not exists}
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def forget_empty_name(key: bytes, *, client: redis.Redis | None = None) -> None:
    """Have RQ forget the name of a queue that is still empty. Raises QueueUnavailable, OtherDeployment."""
    run(client or web_client(), scripts.FORGET_NAME, [key, keys.META, keys.RQ_QUEUES], [deployment_id()])
