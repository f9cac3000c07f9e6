"""A stand-in for WAHA, in a process of its own, that accepts every text at once: the engine of both sides."""

import json
import sys
import urllib.request
from typing import Any

from aiohttp import web

from benchmarks.stores import Stores
from waqueue.embedded.system import find_free_port


def start(stores: Stores) -> str:
    """Start it; return its address."""
    port = find_free_port()
    stub = stores.run([sys.executable, "-m", "benchmarks.peers.waha_stub", str(port)])
    stub.wait_for_line("ready", 60)
    return f"http://127.0.0.1:{port}"


def accepted(address: str) -> int:
    """How many texts it has accepted so far."""
    with urllib.request.urlopen(f"{address}/accepted", timeout=10) as answer:
        return int(json.load(answer)["accepted"])


def application() -> web.Application:
    """It reads each text whole and answers with an id, in the shape of WAHA's own."""
    last = 0

    async def send_text(request: web.Request) -> web.Response:
        nonlocal last
        await request.read()
        last += 1
        return web.json_response({"id": f"true_51930246633@c.us_3EB0{last:016X}"}, status=201)

    async def say_accepted(_request: web.Request) -> web.Response:
        return web.json_response({"accepted": last})

    app = web.Application()
    app.add_routes([web.post("/api/sendText", send_text), web.get("/accepted", say_accepted)])
    return app


def _say_ready(*_what: Any, **_how: Any) -> None:
    print("ready", flush=True)


if __name__ == "__main__":
    # What it prints, it prints once it listens.
    web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=_say_ready)
