"""A network between a server and its clients, to break: slow, cut, torn in the middle of a command, silent.

It runs in a thread of its own, so that worker processes and the test itself can speak through it, and knows neither
PostgreSQL nor Redis: what to wait for is given as bytes.
"""

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from waqueue.embedded.system import find_free_port

# PostgreSQL's last word on what it was asked to do, when no transaction is open: it is committed, or rolled back.
READY = b"Z\x00\x00\x00\x05I"


@dataclass(eq=False)
class _Link:
    """One client with its connection to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_cut: bool = False
    # What the server has said to the one thing whose answer is to be lost.
    answer: bytes | None = None


class Proxy:
    """Hands on what clients say to the server at `host` (a folder is one with its socket) and `port`, and its answers.

    Each piece that a client sends waits `latency_s`; while it `is_silent`, nothing is handed on and nobody notices.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = find_free_port()
        self.latency_s = 0.0
        self.is_silent = False
        # How many connections were broken on purpose in the middle of something.
        self.broken = 0
        self._server = (host, port)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._torn: bytes | None = None
        self._unanswered: bytes | None = None
        self._answered = READY
        self._times = 0
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> "Proxy":
        self._thread.start()
        assert self._listening.wait(10), "the proxy does not start"
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the proxy does not stop"
        self._loop.close()

    @property
    def address(self) -> dict[str, Any]:
        """Where it listens, as parameters of a connection."""
        return {"host": "127.0.0.1", "port": self.port}

    def instead_of(self, url: str) -> str:
        """The address `url`, by way of this proxy."""
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}").geturl()

    def cut(self, *, server_hears: bool = False) -> None:
        """Clients find their connections closed, and can make new ones.

        The server goes on with what it was asked to do and waits for more, unless it is to hear of it too.
        """
        done = threading.Event()

        def cut() -> None:
            for link in list(self._links):
                link.is_cut = True
                link.client.transport.abort()
                if server_hears:
                    link.server.transport.abort()
            done.set()

        self._loop.call_soon_threadsafe(cut)
        assert done.wait(10), "the proxy does not cut"

    def tear(self, within: bytes) -> None:
        """Hand on one half of the next piece in which a client says this, and close both ends."""
        self._torn = within

    def lose_answer(self, to: bytes, answered: bytes = READY, *, times: int = 1) -> None:
        """Cut the connection of the next clients that say `to`, when the server has said `answered` to it."""
        self._unanswered, self._answered, self._times = to, answered, times

    @property
    def is_armed(self) -> bool:
        """Whether what was asked for by `tear` or `lose_answer` has yet to happen."""
        losing = any(link.answer is not None for link in list(self._links))
        return losing or self._torn is not None or self._unanswered is not None

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)
        self._listening.set()
        await self._stopping.wait()
        server.close()
        for task in (joining := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*joining, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: one of asyncio's would say at the end that it was cancelled.
        task = asyncio.create_task(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, server = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server)
        self._links.add(link)
        ways = [
            asyncio.create_task(self._hand_on(link, *way)) for way in ((reader, server, True), (answers, writer, False))
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if link.is_cut:
                # The end of one is the end of the other, but a server that was cut off hears nothing of it.
                await asyncio.wait(ways)
        finally:
            for way in ways:
                way.cancel()
            self._links.discard(link)
            for end in (server, writer):
                end.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._server
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _hand_on(
        self, link: _Link, source: asyncio.StreamReader, target: asyncio.StreamWriter, to_server: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(65536):
                if to_server and self.latency_s:
                    await asyncio.sleep(self.latency_s)
                while self.is_silent:
                    await asyncio.sleep(0.02)
                if link.is_cut:
                    continue
                if to_server:
                    if self._torn is not None and self._torn in piece:
                        self._torn = None
                        self.broken += 1
                        target.write(piece[: len(piece) // 2])
                        return
                    if self._unanswered is not None and self._unanswered in piece:
                        link.answer = b""
                        self._times -= 1
                        self._unanswered = self._unanswered if self._times else None
                elif link.answer is not None:
                    link.answer += piece
                    if self._answered in link.answer:
                        link.answer = None
                        self.broken += 1
                        return
                    continue
                target.write(piece)
                await target.drain()


def through(parameters: dict[str, Any]) -> Proxy:
    """A proxy to the PostgreSQL of these parameters of a connection."""
    return Proxy(str(parameters.get("host") or "localhost"), int(parameters.get("port") or 5432))
