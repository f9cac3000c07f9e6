"""Lists as such, whoever made them: found with SCAN, renamed away, read in parts, deleted. Names are bytes here."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.queues import keys, scripts
from sessions_app.queues.connection import deployment_id, run, upkeep_client
from sessions_app.queues.entries import ParsedEntry, parse_job, parse_legacy

# Keys of one SCAN step, entries of one read: Redis serves nobody else meanwhile.
_SCAN = 500
CHUNK = 500
_STAGING_PREFIX = b"waqueue:archive:"
_REPLACED_PREFIX = b"waqueue:replaced:"


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key that a scan met. `length` is None for a key that is no list."""

    key: bytes
    length: int | None


def scan(prefix: bytes, *, client: redis.Redis | None = None) -> Iterator[FoundKey]:
    """All keys that begin with `prefix`, each at least once, with their lengths. Raises QueueUnavailable."""
    client = client or upkeep_client()
    pattern = b"".join(b"\\" + bytes([byte]) if byte in b"*?[]^\\" else bytes([byte]) for byte in prefix) + b"*"
    cursor: Any = 0
    found: Any
    while True:
        try:
            cursor, found = client.scan(cursor, match=pattern, count=_SCAN)
            with client.pipeline(transaction=False) as pipe:
                for key in found:
                    pipe.llen(key)
                lengths = pipe.execute(raise_on_error=False)
        except RedisError as error:
            raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
        for key, length in zip(found, lengths, strict=True):
            if isinstance(length, ResponseError):
                yield FoundKey(key, None)
            elif length:
                yield FoundKey(key, length)
        if cursor == 0:
            return


def scan_staged(*, client: redis.Redis | None = None) -> Iterator[FoundKey]:
    """Lists that were renamed away by an archiving."""
    return scan(_STAGING_PREFIX, client=client)


def scan_replaced(*, client: redis.Redis | None = None) -> Iterator[FoundKey]:
    """Lists that were replaced by new ones and not looked through yet."""
    return scan(_REPLACED_PREFIX, client=client)


def is_staged(key: bytes) -> bool:
    """Whether this is a list that an archiving renamed."""
    return key.startswith(_STAGING_PREFIX)


def is_replaced(key: bytes) -> bool:
    """Whether this is a list that a new one has replaced."""
    return key.startswith(_REPLACED_PREFIX)


def replaced_key(key: bytes) -> bytes:
    """A name for a list that is about to be replaced."""
    return _REPLACED_PREFIX + uuid.uuid4().hex.encode() + b":" + key


def original_of(renamed: bytes) -> bytes:
    """What a renamed list was called before."""
    return renamed.removeprefix(_STAGING_PREFIX).removeprefix(_REPLACED_PREFIX).partition(b":")[2]


def read_raw(key: bytes, start: int, count: int = CHUNK, *, client: redis.Redis | None = None) -> list[bytes]:
    """Up to `count` entries of a list from index `start` on, as they are. Raises QueueUnavailable."""
    try:
        raw: Any = (client or upkeep_client()).lrange(key, start, start + count - 1)
        return list(raw)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def drop(key: bytes, *, client: redis.Redis | None = None) -> None:
    """Delete a list, and nothing of what it names. Raises QueueUnavailable."""
    try:
        (client or upkeep_client()).unlink(key)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def length(key: bytes, *, client: redis.Redis | None = None) -> int:
    """How many entries a list holds; 0 for none and for a key that is no list. Raises QueueUnavailable."""
    try:
        return int((client or upkeep_client()).llen(key))
    except ResponseError:
        return 0
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def rename_away(key: bytes, staging_key: bytes, *, client: redis.Redis | None = None) -> bool:
    """Rename a list in one step; False when there is none. Raises QueueUnavailable, OtherDeployment."""
    where: list[str | bytes] = [key, staging_key, keys.META, keys.RQ_QUEUES]
    return bool(run(client or upkeep_client(), scripts.RENAME_AWAY, where, [deployment_id()]))


def read(
    key: bytes, start: int, *, is_rq: bool, count: int = CHUNK, client: redis.Redis | None = None
) -> list[ParsedEntry]:
    """Up to `count` entries of a list from index `start` on, parsed. Raises QueueUnavailable."""
    raw = read_raw(key, start, count, client=client)
    return read_jobs(raw, client=client) if is_rq else [parse_legacy(entry) for entry in raw]


def read_jobs(job_ids: Sequence[bytes], *, client: redis.Redis | None = None) -> list[ParsedEntry]:
    """RQ jobs by their ids, parsed. Raises QueueUnavailable."""
    try:
        with (client or upkeep_client()).pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(keys.RQ_JOB_PREFIX.encode() + job_id)
            hashes = pipe.execute(raise_on_error=False)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    return [
        parse_job(job_id, None if isinstance(fields, Exception) else fields)
        for job_id, fields in zip(job_ids, hashes, strict=True)
    ]


def delete(key: bytes, *, is_rq: bool, client: redis.Redis | None = None) -> int:
    """Delete a list and, for RQ's, the jobs in it, in steps that do not hold Redis up; return how many entries it had.

    A job whose hash says that it belongs to another queue stays. Raises QueueUnavailable.
    """
    client = client or upkeep_client()
    deleted = 0
    try:
        while raw := read_raw(key, 0, client=client):
            own = _own_hashes(key, raw, client) if is_rq else []
            with client.pipeline(transaction=False) as pipe:
                if own:
                    pipe.unlink(*own)
                pipe.ltrim(key, len(raw), -1)
                pipe.execute()
            deleted += len(raw)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    return deleted


def remove_jobs(queue_key: bytes, job_ids: Sequence[bytes], *, client: redis.Redis | None = None) -> None:
    """Take jobs out of a queue, and the hashes of those that do not say they are another's. Raises QueueUnavailable."""
    client = client or upkeep_client()
    try:
        own = _own_hashes(queue_key, job_ids, client)
        with client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.execute_command("LREM", queue_key, 0, job_id)  # type: ignore[no-untyped-call]
            if own:
                pipe.unlink(*own)
            pipe.execute()
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def _own_hashes(key: bytes, job_ids: Sequence[bytes], client: redis.Redis) -> list[bytes]:
    """The hashes of these jobs, but for those that say that they belong to another queue."""
    origin = original_of(key) if is_staged(key) or is_replaced(key) else key
    queue = origin.removeprefix(keys.RQ_QUEUE_PREFIX.encode())
    job_keys = [keys.RQ_JOB_PREFIX.encode() + job_id for job_id in job_ids]
    with client.pipeline(transaction=False) as pipe:
        for job_key in job_keys:
            pipe.hget(job_key, "origin")
        owners = pipe.execute(raise_on_error=False)
    return [job for job, owner in zip(job_keys, owners, strict=True) if owner == queue]


def load(
    found: Mapping[bytes, Sequence[bytes]], strings: Mapping[bytes, bytes], *, client: redis.Redis | None = None
) -> list[str]:
    """Write whole lists and strings, if none of them is there; return those that are. Raises RedisError."""
    client = client or upkeep_client()
    taken = [key for key in (*found, *strings) if client.exists(key)]
    if not taken:
        with client.pipeline(transaction=True) as pipe:
            for key, entries in found.items():
                pipe.rpush(key, *entries)
            for key, value in strings.items():
                pipe.set(key, value)
            pipe.execute()
    return [key.decode("utf-8", "backslashreplace") for key in taken]
