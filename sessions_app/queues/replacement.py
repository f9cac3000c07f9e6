"""Queues written anew: beside the old ones, then swapped in."""

import uuid
from collections.abc import Iterable, Sequence
from itertools import groupby

import redis
from redis.exceptions import RedisError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Mirrored
from sessions_app.queues import keys, scripts
from sessions_app.queues.connection import deployment_id, run_each
from sessions_app.queues.jobs import job_fields
from sessions_app.queues.lists import replaced_key

PREFIX = b"waqueue:replacement:"
# What is left of one that was not finished is found long before.
_TTL_SECONDS = 24 * 3600
# Each part that is added renews that: after so long without one, nobody goes on with it.
_ABANDONED_SECONDS = 60


def is_abandoned(key: bytes, client: redis.Redis) -> bool:
    """Whether nobody has added to a list of that name for a while. Raises QueueUnavailable."""
    try:
        return int(client.ttl(key)) < _TTL_SECONDS - _ABANDONED_SECONDS
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


class Replacements:
    """New lists of jobs for some sessions, written beside the old ones and then swapped in.

    Readers see the old list or the new one, never a part. Of one that was not finished, its lists say which contents
    were written: `clear_unfinished` looks after them.
    """

    def __init__(self, session_names: Iterable[str], client: redis.Redis) -> None:
        self._client = client
        self._keys = {name: PREFIX.decode() + uuid.uuid4().hex for name in session_names}

    def add(self, messages: Sequence[tuple[str, Mirrored]]) -> None:
        """Add the next messages of the lines, each with the name of its session. Raises QueueUnavailable."""
        try:
            with self._client.pipeline(transaction=False) as pipe:
                # What is left of an earlier one may have fields of its own.
                pipe.unlink(*(keys.job_key(message.pk) for _, message in messages))
                for name, message in messages:
                    pipe.hset(keys.job_key(message.pk), items=job_fields(name, message))
                for name, those in groupby(messages, key=lambda named: named[0]):
                    pipe.rpush(self._keys[name], *(str(message.pk) for _, message in those))
                    pipe.expire(self._keys[name], _TTL_SECONDS)
                pipe.execute()
        except RedisError as error:
            raise QueueUnavailable(f"Redis cannot be reached: {error}") from error

    def swap(self) -> list[bytes]:
        """Make them the sessions' queues; return the names under which the old ones now wait to be looked through.

        A key of such a name that is no list is left alone. Raises QueueUnavailable, OtherDeployment.
        """
        olds = [replaced_key(keys.queue_key(name).encode()) for name in self._keys]
        calls: list[tuple[list[str | bytes], list[str]]] = [
            ([key, keys.queue_key(name), old, keys.META, keys.RQ_QUEUES], [deployment_id()])
            for (name, key), old in zip(self._keys.items(), olds, strict=True)
        ]
        replies = run_each(self._client, scripts.SWAP, calls)
        return [old for old, was_there in zip(olds, replies, strict=True) if was_there]
