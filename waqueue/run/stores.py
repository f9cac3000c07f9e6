"""PostgreSQL and Redis for a run: the ones that the environment names, or embedded ones under WAQUEUE_HOME."""

import psycopg
import redis

from waqueue.embedded import EmbeddedPostgres, EmbeddedValkey

from .configuration import Configuration, RunError
from .console import Console
from .loop import Loop


def embedded_servers(configuration: Configuration, loop: Loop) -> tuple[EmbeddedPostgres | None, EmbeddedValkey | None]:
    """Return the servers that this run has to start itself; None stands for one that the environment names."""
    home = configuration.home
    return (
        None if configuration.database_url else EmbeddedPostgres(home / "postgres", sleep=loop.wait),
        None if configuration.redis_url else EmbeddedValkey(home / "valkey", sleep=loop.wait),
    )


def check_named_stores(configuration: Configuration, console: Console) -> None:
    """Say early and plainly when a store that the environment names does not answer."""
    if configuration.database_url:
        try:
            psycopg.connect(configuration.database_url, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[0]
            raise RunError(
                f"DATABASE_URL does not lead to a PostgreSQL that lets us in ({reason}): "
                "start it, correct the address, or unset DATABASE_URL to use the embedded one"
            ) from error
        except psycopg.Error:
            # An address may carry options that Django understands and psycopg does not: Django will tell.
            return
    if configuration.redis_url:
        try:
            with redis.Redis.from_url(configuration.redis_url, socket_timeout=5, retry=None) as client:
                client.ping()
        except (redis.RedisError, ValueError) as error:
            # Without it messages are accepted and wait: that is no reason not to run.
            console.say(f"REDIS_URL does not answer ({error}): messages will wait until it does.")
