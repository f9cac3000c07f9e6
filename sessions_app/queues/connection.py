"""The Redis clients. The web's fails fast, since its rows are safe already; the worker's is patient."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import hiredis
import redis
import redis.asyncio
from django.conf import settings
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from sessions_app.exceptions import OtherDeployment, QueueUnavailable
from sessions_app.models import Deployment
from sessions_app.queues.scripts import Script

# An answer to a client of the API must not wait for Redis: 202 within 300 ms, whatever state Redis is in.
_WEB_TIMEOUT_SECONDS = 0.1
# The answer to a batch takes about as long by itself.
_BULK_TIMEOUT_SECONDS = 1.0
# No script of ours runs for longer than milliseconds; a worker that hears nothing for so long reconnects.
_WORKER_TIMEOUT_SECONDS = 5.0


@cache
def web_client() -> redis.Redis:
    """The client of web processes and commands: one short try, no retry."""
    return _client(_WEB_TIMEOUT_SECONDS, connect_timeout=_WEB_TIMEOUT_SECONDS)


@cache
def bulk_client() -> redis.Redis:
    """The client of web processes for thousands of jobs at once: one try, that may take a moment."""
    return _client(_BULK_TIMEOUT_SECONDS, connect_timeout=_WEB_TIMEOUT_SECONDS)


@cache
def upkeep_client() -> redis.Redis:
    """The client of rebuilds and reconciliation: as patient as the worker's."""
    return _client(_WORKER_TIMEOUT_SECONDS, connect_timeout=_WORKER_TIMEOUT_SECONDS)


def _client(timeout: float, *, connect_timeout: float) -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=timeout,
        socket_connect_timeout=connect_timeout,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


def worker_client() -> "redis.asyncio.Redis":
    """A client of the worker's loop. The loop itself waits and tries again."""
    client = redis.asyncio.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=_WORKER_TIMEOUT_SECONDS,
        socket_connect_timeout=_WORKER_TIMEOUT_SECONDS,
        retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
        protocol=2,
    )
    pool = client.connection_pool
    pool.connection_class = _packing(pool.connection_class)
    return client


def _packing(connection_class: type[Any]) -> type[Any]:
    """The same connection, with its commands packed in C: ours have thousands of arguments."""

    def pack_command(_self: Any, *args: Any) -> list[bytes]:
        return [hiredis.pack_command(args)]

    return type(connection_class.__name__, (connection_class,), {"pack_command": pack_command})


# The keys and the arguments of a script.
Call = tuple[Sequence[str | bytes], list[Any]]


@cache
def deployment_id() -> str:
    """Whose database this is: compared with what stands in Redis before anything there is touched."""
    return str(Deployment.current().id)


def run(client: redis.Redis, script: Script, keys: Sequence[str | bytes], args: list[Any]) -> Any:
    """Run `script`; raise QueueUnavailable when Redis cannot, OtherDeployment when it belongs to somebody else."""
    try:
        try:
            reply = client.evalsha(script.sha, len(keys), *keys, *args)
        except NoScriptError:
            reply = client.eval(script.text, len(keys), *keys, *args)
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    return _ours(reply)


def run_each(client: redis.Redis, script: Script, calls: Sequence[Call]) -> list[Any]:
    """Run `script` once for the keys and arguments of each call, in two round trips; raise what `run` raises."""
    # By itself: Redis gets to know the script.
    return [run(client, script, *call) for call in calls[:1]] + run_known(client, script, calls[1:])


def run_known(client: redis.Redis, script: Script, calls: Sequence[Call]) -> list[Any]:
    """As `run_each`, in one round trip: Redis has to know the script already, by a `run` just before.

    It serves others between the calls.
    """
    if not calls:
        return []
    try:
        with client.pipeline(transaction=False) as pipe:
            for keys, args in calls:
                pipe.evalsha(script.sha, len(keys), *keys, *args)
            return [_ours(reply) for reply in pipe.execute()]
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error


def _ours(reply: Any) -> Any:
    if isinstance(reply, bytes):
        raise OtherDeployment(f"this Redis belongs to the waqueue database {reply.decode()}: nothing in it is touched")
    return reply
