"""What the web, people and commands do in Redis: put jobs, signal sessions, take jobs out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Message, Mirrored
from sessions_app.queues import inspect, keys, scripts
from sessions_app.queues.connection import (
    Call,
    bulk_client,
    deployment_id,
    run,
    run_each,
    run_known,
    web_client,
)
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

    message: Message | Mirrored
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
    where: list[str | bytes] = [keys.DUE, keys.VERSIONS, keys.META, keys.RQ_QUEUES, keys.queue_key(session_name)]
    about: list[Any] = [
        deployment_id(), keys.WAKE, session_name, "1" if urgent else "0", "1" if recheck else "0",
    ]  # fmt: skip
    length: int | None = None
    calls: list[Call] = []
    at = size = 0
    while at < len(entries):
        stand = _UNKNOWN_LENGTH if length is None else length + at
        jobs, at, weight = _one_call(session_name, entries, at, stand, recheck=recheck)
        if length is None:
            # By itself: Redis gets to know the script, and says how long the line is.
            client = client or (web_client() if at == len(entries) else bulk_client())
            length = run(client, scripts.PUT, where, about + jobs)
            continue
        calls.append((where, about + jobs))
        size += weight
        # With a look through the queue for each, a call takes so long that others must be served before the next.
        if recheck or size >= _ROUND_TRIP_BYTES or at == len(entries):
            length = run_known(client or bulk_client(), scripts.PUT, calls)[-1]
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
    is_one_call = len(message_ids) <= _CHUNK
    take_out_each({session_name: message_ids}, client=client or (web_client() if is_one_call else bulk_client()))


def take_out_each(jobs: Mapping[str, Sequence[object]], *, client: redis.Redis | None = None) -> None:
    """As `take_out`, of many sessions by their names, in few round trips. Raises QueueUnavailable."""
    client = client or bulk_client()
    left: dict[str, set[str]] = {}

    def take(parts: Sequence[tuple[str, list[str]]], run_calls: Callable[..., list[Any]]) -> None:
        calls: list[Call] = [([keys.META, keys.queue_key(name)], [deployment_id(), *ids]) for name, ids in parts]
        for (name, ids), count in zip(parts, run_calls(client, scripts.TAKE_OUT, calls), strict=True):
            if ids[count:]:
                left.setdefault(name, set()).update(ids[count:])

    chunks = {
        name: [[str(pk) for pk in ids[start : start + _CHUNK]] for start in range(0, len(ids), _CHUNK)]
        for name, ids in jobs.items()
    }
    take([(name, parts[0]) for name, parts in chunks.items() if parts], run_each)
    # Where the first of a session stand far from each other, so do the others: they are not looked for one by one.
    for name in left:
        left[name].update(*chunks.pop(name)[1:])
    take([(name, part) for name, parts in chunks.items() for part in parts[1:]], run_known)
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
