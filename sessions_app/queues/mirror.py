"""What the web, people and commands do in Redis: put jobs, signal sessions, take jobs out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Message
from sessions_app.queues import inspect, keys, scripts
from sessions_app.queues.connection import bulk_client, deployment_id, run, run_all, run_each, web_client
from sessions_app.queues.jobs import job_fields

# Jobs in one script call, and bytes of them: Redis serves nobody else while it runs.
_CHUNK = 200
_CALL_BYTES = 512 * 1024
# The place of a job that stands before another is looked for from the front, and a job that may be missing from the
# back: so many entries cost what a job costs.
_ENTRIES_A_JOB = 1000
# How long a line is taken to be that was not asked yet.
_UNKNOWN_LENGTH = 100_000
# What is handed to Redis before its answers are read.
_ROUND_TRIP_BYTES = 4 * 1024 * 1024
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

    They go in calls of a few milliseconds each, and in few round trips however many they are.

    Raises QueueUnavailable when Redis cannot be reached: the rows are safe, and reconciliation puts them later.
    """
    where = [keys.DUE, keys.VERSIONS, keys.META, keys.RQ_QUEUES, keys.queue_key(session_name)]
    about: list[Any] = [
        deployment_id(), keys.WAKE, session_name, "1" if urgent else "0", "1" if recheck else "0",
    ]  # fmt: skip
    length: int | None = None
    calls: list[list[Any]] = []
    at = size = 0
    while at < len(entries):
        stand = _UNKNOWN_LENGTH if length is None else length + at
        jobs, at, weight = _one_call(session_name, entries, at, stand, recheck=recheck)
        if length is None:
            # By itself: Redis gets to know the script, and says how long the line is.
            client = client or (web_client() if at == len(entries) else bulk_client())
            length = run(client, scripts.PUT, where, about + jobs)
            continue
        calls.append(about + jobs)
        size += weight
        # With a look through the queue for each, a call takes so long that others must be served before the next.
        if recheck or size >= _ROUND_TRIP_BYTES or at == len(entries):
            length = run_all(client or bulk_client(), scripts.PUT, where, calls)[-1]
            calls, size = [], 0
    return length


def _one_call(
    session_name: str, entries: Sequence[Entry], start: int, length: int, *, recheck: bool
) -> tuple[list[Any], int, int]:
    """The arguments for as many entries from `start` on as one call should take, where the next begin, and the bytes.

    `length` is that of the queue. One entry is taken in any case.
    """
    args: list[Any] = []
    at, cost, size = start, 0, 0
    while at < len(entries) and cost < _CHUNK and size < _CALL_BYTES:
        entry = entries[at]
        fields = job_fields(session_name, entry.message)
        args += (str(entry.message.id), keys.job_key(entry.message.id), entry.before, len(fields), *fields)
        cost += 1 + (length // _ENTRIES_A_JOB if entry.before or recheck else 0)
        size += sum(map(len, fields))
        at += 1
    return args, at, size


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
    """Take the jobs of messages that will not be sent out of the mirror; fastest when those that stand together follow.

    Raises QueueUnavailable.
    """
    where = [keys.META, keys.queue_key(session_name)]
    chunks = [message_ids[start : start + _CHUNK] for start in range(0, len(message_ids), _CHUNK)]
    calls: list[list[Any]] = [[deployment_id(), *map(str, chunk)] for chunk in chunks]
    client = client or (web_client() if len(calls) < 2 else bulk_client())
    dealt_with = [run(client, scripts.TAKE_OUT, where, call) for call in calls[:1]]
    if len(calls) > 1 and dealt_with[0] == len(chunks[0]):
        dealt_with += run_all(client, scripts.TAKE_OUT, where, calls[1:])
    dealt_with += [0] * (len(chunks) - len(dealt_with))
    if left := {str(pk) for chunk, count in zip(chunks, dealt_with, strict=True) for pk in chunk[count:]}:
        _take_out_scattered(session_name, left, client)


def take_out_each(jobs: Mapping[str, Sequence[object]], *, client: redis.Redis | None = None) -> None:
    """As `take_out`, of many sessions by their names, in two round trips. Raises QueueUnavailable."""
    client = client or bulk_client()
    chunks = [(name, ids[start : start + _CHUNK]) for name, ids in jobs.items() for start in range(0, len(ids), _CHUNK)]
    calls: list[tuple[list[str | bytes], list[Any]]] = [
        ([keys.META, keys.queue_key(name)], [deployment_id(), *map(str, chunk)]) for name, chunk in chunks
    ]
    left: dict[str, set[str]] = {}
    for (name, chunk), count in zip(chunks, run_each(client, scripts.TAKE_OUT, calls), strict=True):
        if chunk[count:]:
            left.setdefault(name, set()).update(map(str, chunk[count:]))
    for name, ids in left.items():
        _take_out_scattered(name, ids, client)


def _take_out_scattered(session_name: str, message_ids: set[str], client: redis.Redis) -> None:
    """Take jobs out that stand far from each other in a long queue: it is read for where they are."""
    places = dict.fromkeys(message_ids, -1)
    # None where the key is no list: it is left alone, and only their contents go.
    places |= {job: place for place, job in enumerate(job_ids(session_name, client=client) or ()) if job in message_ids}
    # From the back: what is taken out moves only those behind it.
    ordered = sorted(places.items(), key=lambda item: -item[1])
    for start in range(0, len(ordered), _CHUNK):
        jobs = [text for item in ordered[start : start + _CHUNK] for text in item]
        run(client, scripts.TAKE_OUT_AT, [keys.META, keys.queue_key(session_name)], [deployment_id(), *jobs])


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
