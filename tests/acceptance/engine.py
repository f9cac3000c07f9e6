"""An engine whose ledger is not in the database: WAHA's simulator, which outlives every worker that a test kills."""

import asyncio
import time
from collections import Counter
from typing import Any

from aiohttp import web

from sessions_app.models import Session
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from tests import waha_stub
from tests.acceptance.stack import ACTOR
from tests.waha_stub import WORKING, WahaStub


class Engine(WahaStub):
    """A WAHA whose texts are numbers, as those of `Stack.submit`."""

    def session(self, name: str, *, pacing: Pacing | None = None, host: str = "", **options: Any) -> Session:
        """Make a session of ours and one of its name here; without WAHA's pace, which takes a minute a message."""
        self.sessions[name] = WORKING
        options |= {
            "transport": "waha",
            "config": {"base_url": self.url_at(host or self.hosts[0])},
            "pacing": pacing or Pacing(),
        }
        return sessions.create(name=name, actor=ACTOR, **options)[0]

    def ledger(self, session: Session | str) -> list[int]:
        """The numbers that were accepted for a session, in order."""
        return [int(sent.text) for sent in list(self.accepted) if sent.body["session"] == str(session)]


class Gate:
    """A behaviour: accept at once, and answer when `is_open` says so."""

    def __init__(self, *, held: int | None = None) -> None:
        self.is_open = False
        # Only this number is held, where one is given.
        self._held = held

    async def __call__(self, stub: WahaStub, request: web.Request) -> web.StreamResponse:
        answer = await waha_stub.healthy(stub, request)
        number = int((await request.json())["text"])
        while not self.is_open and self._held in (None, number):
            await asyncio.sleep(0.01)
        return answer


class Together:
    """A behaviour: accept at once, and answer when `count` sessions have had their first message accepted."""

    def __init__(self, count: int) -> None:
        self._count = count

    async def __call__(self, stub: WahaStub, request: web.Request) -> web.StreamResponse:
        answer = await waha_stub.healthy(stub, request)
        while len({sent.body["session"] for sent in stub.accepted}) < self._count:
            await asyncio.sleep(0.01)
        return answer


class OneByOne:
    """A behaviour: take a while, and note each session that had two messages here at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._here: Counter[str] = Counter()
        self.overlapping: set[str] = set()

    async def __call__(self, stub: WahaStub, request: web.Request) -> web.StreamResponse:
        name = (await request.json())["session"]
        self._here[name] += 1
        if self._here[name] > 1:
            self.overlapping.add(name)
        try:
            answer = await waha_stub.healthy(stub, request)
            await asyncio.sleep(self._seconds)
            return answer
        finally:
            self._here[name] -= 1


class Clocked:
    """A behaviour: note when each message came."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    async def __call__(self, stub: WahaStub, request: web.Request) -> web.StreamResponse:
        self.times.setdefault((await request.json())["session"], []).append(time.monotonic())
        return await waha_stub.healthy(stub, request)
