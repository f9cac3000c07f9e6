"""What the web, people and commands do in Redis: put jobs, signal sessions, take jobs out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from sessions_app.models import Message
from sessions_app.queues import keys, scripts
from sessions_app.queues.connection import deployment_id, run, web_client
from sessions_app.queues.jobs import job_fields

# Jobs in one script call: Redis serves nobody else while it runs.
_CHUNK = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """A message for the mirror. `before` is the id of the job that it must stand in front of, if any."""

    message: Message
    before: str = ""


def put(
    session_name: str, entries: Sequence[Entry], *, urgent: bool = False, client: redis.Redis | None = None
) -> int | None:
    """Put `entries` into the mirror of a session and let workers look at it; return the length of its queue.

    Only what is committed may be put. `urgent` looks at the session now even when it has a due time: for a message
    that may go before the one it waits for.

    Raises QueueUnavailable when Redis cannot be reached: the rows are safe, and reconciliation puts them later.
    """
    length: int | None = None
    for start in range(0, len(entries), _CHUNK):
        args: list[Any] = [
            deployment_id(), keys.WAKE, session_name, keys.queue_name(session_name), "1" if urgent else "0",
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
        args: list[Any] = [deployment_id(), keys.WAKE, 0, len(chunk)]
        for message_id in chunk:
            args += (keys.queue_key(session_name), keys.job_key(message_id), str(message_id))
        run(client or web_client(), scripts.GIVE_BACK, [keys.DUE, keys.VERSIONS, keys.META], args)
