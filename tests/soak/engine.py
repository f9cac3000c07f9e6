"""The soak's engine: WAHA's simulator with moods and a ledger. The monkey never kills it."""

import asyncio
import hashlib
import time
from collections import defaultdict

from aiohttp import web

from tests.soak.facts import NOT_CONNECTED, Answer, Entry
from tests.waha_stub import WORKING, Sent, WahaStub, accepted, wrong_state

KEY = "k3y-0f-the-soaks-engine"
_DISCONNECTED = "SCAN_QR_CODE"
# Longer than any attempt: who hangs up first is the worker.
_HANG_SECONDS = 90.0
_POLL_SECONDS = 0.01

# Of a thousand hand-overs, so many are met in this way; the rest is accepted within 60 ms.
_MOODS = (
    ("slow", 40), ("hang", 6), ("502", 6), ("502 unheard", 4), ("reset", 6), ("429", 10), ("400", 6),
)  # fmt: skip


class Engine:
    """One WAHA for all sessions. What meets a hand-over depends on the seed, its text and how often it came."""

    def __init__(self, seed: int) -> None:
        self.entries: list[Entry] = []
        self.hanging: set[str] = set()
        self._seed = seed
        self._came: defaultdict[str, int] = defaultdict(int)
        self._under_way: defaultdict[str, list[tuple[Entry, web.Request]]] = defaultdict(list)
        self._stub = WahaStub(api_key=KEY, on_send=self._send, sessions={})

    @property
    def url(self) -> str:
        """Its address."""
        return self._stub.url

    def start(self, sessions: list[str]) -> None:
        """Listen, with these sessions connected."""
        self._stub.sessions |= dict.fromkeys(sessions, WORKING)
        self._stub.start()

    def stop(self) -> None:
        """Go away."""
        self._stub.stop()

    def disconnect(self, sessions: list[str]) -> None:
        """Have these say that they are not connected."""
        self._stub.sessions |= dict.fromkeys(sessions, _DISCONNECTED)

    def connect(self, sessions: list[str]) -> None:
        """Have these work again."""
        self._stub.sessions |= dict.fromkeys(sessions, WORKING)

    def has_accepted(self, text: str) -> bool:
        """Whether it took a message: what its recipient would say."""
        return any(entry.accepted for entry in list(self.entries) if entry.text == text)

    async def _send(self, stub: WahaStub, request: web.Request) -> web.StreamResponse:
        sent = await Sent.of(request)
        name = str(sent.body["session"])
        # Whoever hung up before this arrived is heard before it.
        await asyncio.sleep(0)
        entry = Entry(name, sent.text, time.time(), chat=str(sent.body["chatId"]))
        self._close_those_who_left(name, entry.arrived_at)
        self.entries.append(entry)
        self._under_way[name].append((entry, request))
        try:
            response = await self._answer(entry, request)
            if _has_left(request):
                entry.answer = Answer.UNCLEAR
            return response
        finally:
            self._under_way[name] = [each for each in self._under_way[name] if each[0] is not entry]
            if entry.ended_at is None:
                entry.ended_at = time.time()

    async def _answer(self, entry: Entry, request: web.Request) -> web.StreamResponse:
        if self._stub.sessions.get(entry.session) != WORKING:
            return _refusal(entry, int(NOT_CONNECTED), wrong_state(entry.session, _DISCONNECTED))
        self._came[entry.text] += 1
        number = int.from_bytes(
            hashlib.sha256(f"{self._seed} {entry.text} {self._came[entry.text]}".encode()).digest()[:4], "big"
        )
        mood = "hang" if entry.session in self.hanging else _mood(number % 1000)
        entry.said = mood
        match mood:
            case "429":
                return _refusal(entry, 429, {"message": "Too Many Requests"})
            case "400":
                return _refusal(entry, 400, {"message": "the chat does not exist", "statusCode": 400})
            case "502" | "502 unheard":
                entry.accepted = mood == "502"
                return web.Response(status=502)
        # From here on the message is out, and what happens to the answer changes nothing.
        entry.accepted = True
        if mood == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        await self._wait(entry, request, (number >> 10) % 1000 / 1000, mood)
        entry.answer = Answer.ACCEPTED
        return web.json_response(accepted(entry.chat, f"3EB0{len(self.entries):08d}"), status=201)

    async def _wait(self, entry: Entry, request: web.Request, fraction: float, mood: str) -> None:
        seconds = {"slow": 0.3 + 1.7 * fraction, "hang": _HANG_SECONDS}.get(mood, 0.005 + 0.055 * fraction)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not _has_left(request):
            await asyncio.sleep(min(left, _POLL_SECONDS))

    def _close_those_who_left(self, session: str, now: float) -> None:
        for entry, request in self._under_way[session]:
            if entry.ended_at is None and _has_left(request):
                entry.ended_at = now


def _mood(number: int) -> str:
    for name, share in _MOODS:
        number -= share
        if number < 0:
            return name
    return "quick"


def _refusal(entry: Entry, status: int, body: dict[str, object]) -> web.Response:
    entry.answer, entry.said = Answer.REFUSED, str(status)
    return web.json_response(body, status=status)


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
