"""A bare aiohttp loop in a process of its own: it posts, reads the answers and looks at the clock, nothing else."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.report import Run
from benchmarks.stores import Stores


def post(
    stores: Stores, requests: Sequence[tuple[str, Any]], *, connections: int, status: int,
    headers: Mapping[str, str] | None = None, warm_up_s: float = 0, seconds: float = 0, renew_s: float = 3600,
) -> Run:  # fmt: skip
    """Post documents to addresses, `connections` at once, and expect `status` of each.

    All of them once, or with `seconds` over and over for so long, after `warm_up_s` in which nothing is counted. Each
    connection is made anew after `renew_s`: which process of a web server gets it is chance, and none may keep all.
    """
    plan = stores.folder / "plan.json"
    with plan.open("w") as file:
        json.dump({
            "requests": [(url, json.dumps(document)) for url, document in requests], "connections": connections,
            "status": status, "headers": dict(headers or {}), "warm_up_s": warm_up_s, "seconds": seconds,
            "renew_s": renew_s,
        }, file)  # fmt: skip
    client = stores.run([sys.executable, "-m", "benchmarks.posting", plan])
    client.wait(warm_up_s + seconds + 300)
    found = json.loads(client.log.read_text().splitlines()[-1])
    return Run(found.pop("answers"), found.pop("seconds"), found)


async def _work(plan: dict[str, Any]) -> dict[str, float]:
    requests = [(url, body.encode()) for url, body in plan["requests"]]
    endless = itertools.cycle(requests)
    warming = await _all(plan, _until(plan["warm_up_s"], endless)) if plan["warm_up_s"] else []
    begin = time.monotonic()
    took = await _all(plan, _until(plan["seconds"], endless) if plan["seconds"] else iter(requests))
    seconds = time.monotonic() - begin
    took.sort()
    return {
        "answers": len(took), "seconds": seconds, "answers_before": len(warming),
        "p50_ms": 1000 * took[len(took) // 2], "p99_ms": 1000 * took[int(len(took) * 0.99)],
    }  # fmt: skip


def _until(seconds: float, requests: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    end = time.monotonic() + seconds
    return itertools.takewhile(lambda _request: time.monotonic() < end, requests)


async def _all(plan: dict[str, Any], requests: Iterator[tuple[str, bytes]]) -> list[float]:
    """Each connection takes the next request when it has its answer. Return how long each took."""
    took: list[float] = []
    headers = {"Content-Type": "application/json", **plan["headers"]}

    async def until_renewed(client: aiohttp.ClientSession) -> bool:
        end = time.monotonic() + plan["renew_s"]
        for url, body in requests:
            asked = time.monotonic()
            async with client.post(url, data=body) as answer:
                content = await answer.read()
            took.append(time.monotonic() - asked)
            if answer.status != plan["status"]:
                raise SystemExit(f"{url} answered {answer.status}: {content[:500]!r}")
            if time.monotonic() > end:
                return True
        return False

    async def one_connection() -> None:
        more = True
        while more:
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), headers=headers) as client:
                more = await until_renewed(client)

    await asyncio.gather(*(one_connection() for _ in range(plan["connections"])))
    return took


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_work(json.loads(Path(sys.argv[1]).read_text())))))
