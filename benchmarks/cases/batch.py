"""Batches of 10,000 messages, beside messages posted one by one over 8 connections: both ours."""

from typing import Any

from benchmarks import web
from benchmarks.posting import post
from benchmarks.report import Line, Result, Run
from benchmarks.rounds import alternate, compared
from benchmarks.seed import TEXT
from benchmarks.stores import Stores

_SIZE = 10_000


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """One connection posts the batches, one after the other."""
    count, seconds = (1, 2) if quick else (3, 6)
    sides = {
        "batches": lambda: _batches(stores, count),
        "single POSTs": lambda: web.measure_ours(stores, seconds),
    }
    found = alternate(sides, rounds)
    return Result(
        "batch",
        [
            *compared(found, "batches", {"single POSTs": 10}),
            Line("one batch, median", [run.extra["p50_ms"] for run in found["batches"]], "ms"),
        ],
        [f"Batches a round: {count}, each into a session of its own. All of both is accepted, kept and put."],
    )


def _batches(stores: Stores, count: int) -> Run:
    server = web.start_ours(stores)
    # Each thread of each process once, so that no batch pays for its first connections.
    warm = [(f"{server.path(number)}/batch", _batch(1)) for number in range(10 * web.CONNECTIONS)]
    post(stores, warm, connections=web.CONNECTIONS, status=202, headers=server.headers)
    requests = [(f"{server.path(number)}/batch", _batch(_SIZE)) for number in range(count)]
    run = post(stores, requests, connections=1, status=202, headers=server.headers)
    server.process.kill()
    web.check_kept(stores, "wa_message", len(warm) + count * _SIZE)
    return Run(count * _SIZE, run.seconds, run.extra)


def _batch(size: int) -> dict[str, Any]:
    return {"messages": [{"to": "+51930246633", "text": TEXT}] * size}
