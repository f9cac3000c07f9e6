"""Lists as such, whoever made them: found with SCAN, renamed away, read in parts, deleted. Names are bytes here."""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis
from redis.exceptions import RedisError, ResponseError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.queues import keys, scripts
from sessions_app.queues.connection import deployment_id, run, upkeep_client
from sessions_app.queues.entries import WHOLE_BYTES, ParsedEntry, parse_job, parse_legacy, too_large_job

# Keys of one SCAN step, entries of one read: Redis serves nobody else meanwhile.
_SCAN = 1000
CHUNK = 500
# A list of no more bytes is read by its entries alone, a larger one by few at a time until so many bytes are there.
_SMALL_BYTES = 64 * 1024 * 1024
_READ_BYTES = 4 * 1024 * 1024
# A job that is larger is read by itself.
_LARGE_BYTES = 256 * 1024
_FEW = 16
STAGING_PREFIX = b"waqueue:archive:"
REPLACED_PREFIX = b"waqueue:replaced:"


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key that a scan met. `length` is None for a key that is no list."""

    key: bytes
    length: int | None


def scan(*prefixes: bytes, client: redis.Redis | None = None) -> Iterator[FoundKey]:
    """All keys that begin with one of `prefixes`, each at least once, with their lengths, in one walk through all keys.

    Raises QueueUnavailable.
    """
    client = client or upkeep_client()
    pattern = _pattern(prefixes)
    cursor: Any = None
    names: list[bytes] = []
    while cursor != 0 or names:
        try:
            with client.pipeline(transaction=False) as pipe:
                for key in names:
                    pipe.llen(key)
                if cursor != 0:
                    pipe.scan(cursor or 0, match=pattern, count=_SCAN)
                replies: list[Any] = pipe.execute(raise_on_error=False)
            if cursor != 0 and isinstance(replies[-1], Exception):
                raise replies[-1]
        except RedisError as error:
            raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
        for key, length in zip(names, replies, strict=False):
            if isinstance(length, ResponseError):
                yield FoundKey(key, None)
            elif length:
                yield FoundKey(key, length)
        names = []
        if cursor != 0:
            cursor, found = replies[-1]
            names = [key for key in found if key.startswith(prefixes)]


def _pattern(prefixes: Sequence[bytes]) -> bytes:
    """What all keys match that begin with one of `prefixes`, and few others: place by place any of their bytes."""
    places = [b"".join(b"\\" + bytes([byte]) for byte in sorted(set(place))) for place in zip(*prefixes, strict=False)]
    return b"".join(b"[" + place + b"]" for place in places) + b"*"


def is_staged(key: bytes) -> bool:
    """Whether this is a list that an archiving renamed."""
    return key.startswith(STAGING_PREFIX)


def is_replaced(key: bytes) -> bool:
    """Whether this is a list that a new one has replaced."""
    return key.startswith(REPLACED_PREFIX)


def replaced_key(key: bytes) -> bytes:
    """A name for a list that is about to be replaced."""
    return REPLACED_PREFIX + uuid.uuid4().hex.encode() + b":" + key


def original_of(renamed: bytes) -> bytes:
    """What a renamed list was called before."""
    return renamed.removeprefix(STAGING_PREFIX).removeprefix(REPLACED_PREFIX).partition(b":")[2]


def read_raw(key: bytes, start: int, count: int = CHUNK, *, client: redis.Redis | None = None) -> list[bytes]:
    """Up to `count` entries of a list from index `start` on, as they are: fewer of large ones, none only at the end.

    Raises QueueUnavailable.
    """
    client = client or upkeep_client()
    found: list[bytes] = []
    size, step = 0, count
    try:
        if int(client.memory_usage(key, samples=0) or 0) > _SMALL_BYTES:
            step = 1
        while len(found) < count and size < _READ_BYTES:
            first = start + len(found)
            part: Any = client.lrange(key, first, min(first + step, start + count) - 1)
            found += part
            size += sum(map(len, part))
            if len(part) < step:
                break
            step = min(4 * step, _FEW)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    return found


def drop_first(
    key: bytes, count: int, jobs: Mapping[bytes, bytes | None], *, client: redis.Redis | None = None
) -> None:
    """Delete the first entries of a list, and the contents of `jobs`, each with what was copied of it.

    A job whose hash says that it belongs to another queue stays, and so does one that was written anew since it was
    copied. Raises QueueUnavailable.
    """
    client = client or upkeep_client()
    stamps = [b"" if raw is None else _stamp(raw) for raw in jobs.values()]
    job_keys: list[str | bytes] = [keys.RQ_JOB_PREFIX.encode() + job_id for job_id in jobs]
    try:
        if jobs:
            run(client, scripts.DROP_JOBS, job_keys, [_origin(key), *stamps])
        client.ltrim(key, count, -1)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def drop_unused(key: bytes, count: int, job_ids: Iterable[bytes], *, client: redis.Redis | None = None) -> None:
    """Delete the first entries of a list that is no queue, and the contents of these jobs. Raises QueueUnavailable."""
    client = client or upkeep_client()
    names = [keys.RQ_JOB_PREFIX.encode() + job_id for job_id in job_ids]
    try:
        with client.pipeline(transaction=False) as pipe:
            if names:
                pipe.unlink(*names)
            pipe.ltrim(key, count, -1)
            pipe.execute()
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def is_there(*names: str, client: redis.Redis | None = None) -> bool:
    """Whether any of these keys is there, a list or not. Raises QueueUnavailable."""
    try:
        return bool((client or upkeep_client()).exists(*names))
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
    """Up to `count` entries of a list from index `start` on, parsed: fewer of large ones, none only at the end.

    Raises QueueUnavailable.
    """
    client = client or upkeep_client()
    raw = read_raw(key, start, count, client=client)
    if not is_rq:
        return [parse_legacy(entry) for entry in raw]
    return _read_part(raw, client) if raw else []


def read_jobs(job_ids: Sequence[bytes], *, client: redis.Redis | None = None) -> list[ParsedEntry]:
    """RQ jobs by their ids, parsed; the content of one that is larger than all bounds is not read.

    Raises QueueUnavailable.
    """
    client = client or upkeep_client()
    parsed: list[ParsedEntry] = []
    while left := job_ids[len(parsed) : len(parsed) + CHUNK]:
        parsed += _read_part(left, client)
    return parsed


def _read_part(job_ids: Sequence[bytes], client: redis.Redis) -> list[ParsedEntry]:
    """The first of these jobs, parsed: as many as one answer should hold, and one at least."""
    names: list[str | bytes] = [keys.RQ_JOB_PREFIX.encode() + job_id for job_id in job_ids]
    found = run(client, scripts.READ_JOBS, names, [_LARGE_BYTES, _READ_BYTES])
    if isinstance(found[0], int):
        return [
            too_large_job(job_ids[0], found[0])
            if found[0] > WHOLE_BYTES
            else parse_job(job_ids[0], _fields(names[0], client))
        ]
    return [
        parse_job(job_id, dict(zip(flat[::2], flat[1::2], strict=True)))
        for job_id, flat in zip(job_ids, found, strict=False)
    ]


def _fields(name: str | bytes, client: redis.Redis) -> dict[bytes, bytes]:
    try:
        return cast(dict[bytes, bytes], client.hgetall(name))
    except ResponseError:
        # A key of another type holds no job.
        return {}
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def delete(
    key: bytes,
    *,
    is_rq: bool,
    copied: Callable[[Sequence[bytes]], Mapping[bytes, bytes]] | None = None,
    client: redis.Redis | None = None,
) -> int:
    """Delete a list and, for RQ's, the jobs in it, in steps that do not hold Redis up; return how many entries it had.

    A job whose hash says that it belongs to another queue stays, and so does one that was written anew since `copied`
    read it: that returns what was copied of jobs, by their ids. Raises QueueUnavailable.
    """
    client = client or upkeep_client()
    deleted = 0
    while raw := read_raw(key, 0, client=client):
        kept = copied(raw) if copied is not None and is_rq else {}
        drop_first(key, len(raw), {job_id: kept.get(job_id) for job_id in raw} if is_rq else {}, client=client)
        deleted += len(raw)
    return deleted


def _stamp(raw: bytes) -> bytes:
    """When a job was written, of what was copied of it: whoever takes its id again writes both times anew."""
    try:
        fields = json.loads(raw)["hash"]
    except (ValueError, KeyError, TypeError):
        # Only its id was left.
        fields = {}
    return f"{fields.get('created_at', '')}|{fields.get('enqueued_at', '')}".encode("latin-1")


def _origin(key: bytes) -> bytes:
    """What the jobs of a list call their queue."""
    origin = original_of(key) if is_staged(key) or is_replaced(key) else key
    return origin.removeprefix(keys.RQ_QUEUE_PREFIX.encode())


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
