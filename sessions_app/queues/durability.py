"""What is wrong with how Redis is set up, by its own words.

Losing it loses no message, but each loss costs a rebuild, and keys that it drops by itself nobody hears of.
"""

from enum import StrEnum
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.queues.connection import web_client

_NEVER_DROPS = "noeviction"


class Weakness(StrEnum):
    """One thing that is wrong."""

    FULL = "redis_full"
    EVICTS = "redis_evicts"
    FORGETS = "redis_forgets"


def weaknesses(*, client: redis.Redis | None = None) -> list[Weakness]:
    """All of them, in one round trip. Where CONFIG is forbidden, what only it can tell is not found.

    Raises QueueUnavailable.
    """
    try:
        with (client or web_client()).pipeline(transaction=False) as pipe:
            pipe.info("memory")
            pipe.info("persistence")
            pipe.config_get("save")
            memory, persistence, snapshots = replies = pipe.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
                    raise reply
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached: {error}") from error
    if isinstance(memory, ResponseError) or isinstance(persistence, ResponseError):
        return []
    found = []
    if _is_full(memory, persistence):
        found.append(Weakness.FULL)
    if memory.get("maxmemory_policy", _NEVER_DROPS) != _NEVER_DROPS:
        found.append(Weakness.EVICTS)
    if persistence.get("aof_enabled") == 0 and not isinstance(snapshots, ResponseError) and not snapshots.get("save"):
        found.append(Weakness.FORGETS)
    return found


def _is_full(memory: dict[str, Any], persistence: dict[str, Any]) -> bool:
    """Whether it refuses what is new: no memory, or no room on the disk for its log."""
    counted = int(memory.get("used_memory", 0)) - int(memory.get("mem_not_counted_for_evict", 0))
    has_memory = not (limit := int(memory.get("maxmemory", 0))) or counted < limit
    return not has_memory or persistence.get("aof_last_write_status", "ok") != "ok"
