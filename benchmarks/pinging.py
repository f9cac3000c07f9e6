"""`python -m benchmarks.pinging`: a client that pings Redis every millisecond, and says how long it had to wait."""

import json
import os
import select
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import redis

from benchmarks.stores import Stores

T = TypeVar("T")


def beside(stores: Stores, act: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """Do something while the client pings; return what came of it, and the client's waits in milliseconds."""
    client = stores.run([sys.executable, "-m", "benchmarks.pinging"])
    client.wait_for_line("pinging", 30)
    result = act()
    client.say("enough")
    client.wait(30)
    return result, json.loads(client.log.read_text().splitlines()[-1])


def main() -> None:
    """Ping until a line comes in."""
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    client.ping()
    print("pinging", flush=True)
    waits: list[float] = []
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        begin = time.perf_counter()
        client.ping()
        waits.append(1000 * (time.perf_counter() - begin))
    waits.sort()
    print(json.dumps({"p50": waits[len(waits) // 2], "p999": waits[int(len(waits) * 0.999)], "most": waits[-1]}))


if __name__ == "__main__":
    main()
