"""How often Redis was asked: counted where our code asks, since the server counts everybody and every handshake."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import redis
from redis.client import Pipeline


@dataclass
class RoundTrips:
    """The round trips so far: single commands, and pipelines as one each."""

    count: int = 0


@contextmanager
def round_trips() -> Iterator[RoundTrips]:
    """Count the round trips of all synchronous clients in this process while the block runs."""
    counted = RoundTrips()

    def counting(asked: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            counted.count += 1
            return asked(*args, **kwargs)

        return ask

    with (
        patch.object(redis.Redis, "execute_command", counting(redis.Redis.execute_command)),
        patch.object(Pipeline, "execute", counting(Pipeline.execute)),
    ):
        yield counted
