"""A simulator of WAHA: a real HTTP server with a ledger, whose answers can be switched to each that is documented.

It was written from WAHA's documentation, not from a WAHA: what it does right proves nothing about the real one. It runs
in a thread of its own, so that a worker process and the test itself can both speak to it.
"""

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Behaviour = Callable[["WahaStub", web.Request], Awaitable[web.StreamResponse]]

WORKING = "WORKING"


@dataclass(frozen=True)
class Sent:
    """One request to send that arrived whole, whatever it was answered."""

    body: dict[str, Any]
    api_key: str | None
    headers: dict[str, str]
    text: str = ""

    @classmethod
    async def of(cls, request: web.Request) -> "Sent":
        """Read it whole."""
        body = await request.json()
        return cls(body, request.headers.get("X-Api-Key"), dict(request.headers), body.get("text", ""))


@dataclass
class WahaStub:
    """One WAHA. `on_send` and `on_status` say what it answers; by default it does as a healthy one does."""

    port: int = 0
    # Whoever asks at another address takes it for another engine.
    hosts: tuple[str, ...] = ("127.0.0.1",)
    api_key: str = ""
    # WAHA runs on Node, which closes connections that rested for so long.
    idle_seconds: float = 5.0
    # The worst that can come of that: a request on a connection that rested for longer is reset without an answer.
    reset_after_idle_seconds: float | None = None
    tls: ssl.SSLContext | None = None
    sessions: dict[str, str] = field(default_factory=lambda: {"default": WORKING})
    me: dict[str, Any] | None = field(default_factory=lambda: {"id": "5511999990001@c.us", "pushName": "School"})
    on_send: Behaviour | None = None
    on_status: Behaviour | None = None
    on_look_up: Behaviour | None = None
    # Whether it uses the ids that it is given. By default it makes its own, which are easier to tell apart.
    takes_ids: bool = False
    # The acks of messages that it was sent, by bare id: as far as they have come.
    acks: dict[str, int] = field(default_factory=dict)
    looked_up: list[str] = field(default_factory=list)
    arrived: list[Sent] = field(default_factory=list)
    accepted: list[Sent] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None
        self._rested: dict[Any, float] = {}
        self._failed: BaseException | None = None
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def url(self) -> str:
        """Its address."""
        return self.url_at(self.hosts[0])

    def url_at(self, host: str) -> str:
        """Its address at one of its hosts."""
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections have brought a request so far."""
        return len(self._rested)

    def __enter__(self) -> "WahaStub":
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> "WahaStub":
        """Listen; a second start takes the port of the first."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="waha stub")
        self._thread.start()
        assert ready.wait(10), "the stub does not start"
        assert self._failed is None, self._failed
        return self

    def stop(self) -> None:
        """Go away, with all that is under way."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the stub does not stop"
        self._thread = None

    async def _serve(self, ready: threading.Event) -> None:
        try:
            self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
            application = web.Application(middlewares=[self._watched], client_max_size=2**20)
            application.router.add_post("/api/sendText", self._send)
            application.router.add_get("/api/sessions/{name}", self._status)
            application.router.add_get("/api/{session}/chats/{chat}/messages/{id}", self._look_up)
            runner = web.AppRunner(
                application, access_log=None, keepalive_timeout=self.idle_seconds, shutdown_timeout=0.1,
            )  # fmt: skip
            await runner.setup()
            for host in self.hosts:
                site = web.TCPSite(runner, host, self.port, ssl_context=self.tls, backlog=2048)
                await site.start()
                self.port = runner.addresses[0][1]
        except BaseException as error:
            self._failed = error
            raise
        finally:
            ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    @web.middleware
    async def _watched(self, request: web.Request, handler: Any) -> web.StreamResponse:
        transport, now = request.transport, time.monotonic()
        idle = now - self._rested.get(transport, now)
        self._rested[transport] = now
        if self.reset_after_idle_seconds is not None and idle > self.reset_after_idle_seconds:
            transport.abort()
        self.paths.append(request.raw_path)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await handler(request)  # type: ignore[no-any-return]
        finally:
            self.in_flight -= 1
            self._rested[transport] = time.monotonic()

    async def _send(self, request: web.Request) -> web.StreamResponse:
        return await (self.on_send or healthy)(self, request)

    async def _look_up(self, request: web.Request) -> web.StreamResponse:
        self.looked_up.append(request.match_info["id"])
        return await (self.on_look_up or remembering)(self, request)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        if self.on_status is not None:
            return await self.on_status(self, request)
        if self.api_key and request.headers.get("X-Api-Key") != self.api_key:
            return web.json_response({"message": "Unauthorized", "statusCode": 401}, status=401)
        name = request.match_info["name"]
        if name not in self.sessions:
            return web.json_response(
                {"message": "Session not found", "error": "Not Found", "statusCode": 404}, status=404
            )
        status = self.sessions[name]
        return web.json_response(
            {"name": name, "status": status, "config": {}, "me": self.me if status == WORKING else None, "engine": {}}
        )


# What a healthy one does.


async def healthy(stub: WahaStub, request: web.Request) -> web.StreamResponse:
    """Look at the key and the session; accept, as NOWEB answers it."""
    sent = await Sent.of(request)
    stub.arrived.append(sent)
    if stub.api_key and sent.api_key != stub.api_key:
        return web.json_response({"message": "Unauthorized", "statusCode": 401}, status=401)
    name = sent.body["session"]
    if name not in stub.sessions:
        return web.json_response(unknown_session(name), status=404)
    if stub.sessions[name] != WORKING:
        return web.json_response(wrong_state(name, stub.sessions[name]), status=422)
    stub.accepted.append(sent)
    bare = sent.body["id"] if stub.takes_ids else f"3EB0{len(stub.accepted):08d}"
    stub.acks.setdefault(bare, 0)
    return web.json_response(accepted(sent.body["chatId"], bare), status=201)


async def remembering(stub: WahaStub, request: web.Request) -> web.StreamResponse:
    """Tell of a message that it has, and of one that it has not as Nest sends null: an empty 200."""
    chat, serialized = request.match_info["chat"], request.match_info["id"]
    if stub.api_key and request.headers.get("X-Api-Key") != stub.api_key:
        return web.json_response({"message": "Unauthorized", "statusCode": 401}, status=401)
    bare = serialized.removeprefix(f"true_{chat}_")
    if bare not in stub.acks:
        return web.Response(status=200)
    return web.json_response(accepted(chat, bare) | {"ack": stub.acks[bare]})


def accepted(chat: str, bare: str) -> dict[str, Any]:
    """The body of a 201."""
    return {
        "id": f"true_{chat}_{bare}", "timestamp": 1758083503, "from": "5511999990001@c.us", "fromMe": True,
        "source": "api", "to": chat, "ack": 0, "ackName": "PENDING", "_data": {"key": {"id": bare}},
    }  # fmt: skip


def unknown_session(name: str) -> dict[str, Any]:
    """The body of a 404 to a send."""
    start = f"Please start it first by using POST /api/sessions/{name}/start request"
    message = f"We didn't find a session with name '{name}'.\n{start}"
    return {"message": message, "error": "Not Found", "statusCode": 404}


def wrong_state(name: str, status: str) -> dict[str, Any]:
    """The body of a 422 to a send."""
    return {
        "error": "Session status is not as expected. Try again later or restart the session",
        "session": name, "status": status, "expected": ["WORKING"],
    }  # fmt: skip


# What else it can do.


def answering(status: int, body: Any = None, *, raw: bytes | None = None, **headers: str) -> Behaviour:
    """Answer so, having read the request. Headers by name, with `_` for `-`."""

    async def act(stub: WahaStub, request: web.Request) -> web.StreamResponse:
        if request.can_read_body:
            stub.arrived.append(await Sent.of(request))
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = "text/html" if raw is not None else "application/json"
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        return web.Response(status=status, body=content, headers=names, content_type=kind)

    return act


def failing(message: str) -> Behaviour:
    """A 500 as WAHA gives it: with the whole request and a stack."""

    async def act(stub: WahaStub, request: web.Request) -> web.StreamResponse:
        sent = await Sent.of(request)
        stub.arrived.append(sent)
        body = {
            "statusCode": 500, "timestamp": "2026-07-28T10:00:00.000Z",
            "exception": {"message": message, "name": "Error", "stack": f"Error: {message}\n    at {sent.text}"},
            "request": {"path": "/api/sendText", "method": "POST", "body": sent.body, "headers": sent.headers},
            "version": {"version": "2026.7.1", "engine": "NOWEB", "tier": "PLUS"},
        }  # fmt: skip
        return web.json_response(body, status=500)

    return act


def delayed(seconds: float) -> Behaviour:
    """Accept after a while."""

    async def act(stub: WahaStub, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await healthy(stub, request)

    return act


async def silent(stub: WahaStub, request: web.Request) -> web.StreamResponse:
    """Accept and never answer."""
    await healthy(stub, request)
    await asyncio.sleep(3600)
    raise AssertionError


async def resetting_unread(stub: WahaStub, request: web.Request) -> web.StreamResponse:
    """Break the connection before the body is read."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def resetting(stub: WahaStub, request: web.Request) -> web.StreamResponse:
    """Accept, then break the connection in the place of an answer."""
    await healthy(stub, request)
    return await resetting_unread(stub, request)


async def closing(stub: WahaStub, request: web.Request) -> web.StreamResponse:
    """Accept, then close the connection in good order without an answer."""
    await healthy(stub, request)
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def writing(raw: bytes) -> Behaviour:
    """Accept, then write these bytes in the place of an answer, and close."""

    async def act(stub: WahaStub, request: web.Request) -> web.StreamResponse:
        await healthy(stub, request)
        assert request.transport is not None
        request.transport.write(raw)
        request.transport.close()
        return web.Response()

    return act


def huge(size: int) -> Behaviour:
    """Accept, with an answer of so many bytes, of which the first are the right ones."""

    async def act(stub: WahaStub, request: web.Request) -> web.StreamResponse:
        sent = await Sent.of(request)
        stub.arrived.append(sent)
        response = web.StreamResponse(status=201, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            await response.write(json.dumps(accepted(sent.body["chatId"], "3EB0HUGE")).encode())
            for _ in range(size // 65536):
                await response.write(b" " * 65536)
        except ConnectionError:
            pass
        return response

    return act


async def dripping_head(stub: WahaStub, request: web.Request) -> web.StreamResponse:
    """Accept, and answer one byte of a header at a time, for ever."""
    stub.arrived.append(await Sent.of(request))
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 201 Created\r\nX-Long: ")
    while not request.transport.is_closing():
        request.transport.write(b"x")
        await asyncio.sleep(0.02)
    return web.Response()


async def dripping(stub: WahaStub, request: web.Request) -> web.StreamResponse:
    """Accept, and answer one byte at a time, for ever."""
    stub.arrived.append(await Sent.of(request))
    response = web.StreamResponse(status=201, headers={"Content-Type": "application/json"})
    await response.prepare(request)
    try:
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)
    except ConnectionError:
        return response
