"""A network between waqueue and one of its stores, to slow down and to cut."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.processes import find_free_port

T = TypeVar("T")


class Proxy:
    """Listens on a port of 127.0.0.1 and hands on what it hears to `target`, in a thread of its own."""

    def __init__(self, target: int) -> None:
        self.port = find_free_port()
        # For how long each piece of a request is held back.
        self.delay_seconds = 0.0
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._call(self._listen())

    def cut(self) -> int:
        """Close all connections on both sides; return how many there were. What is on its way may arrive or not."""
        return self._call(self._cut())

    def close(self) -> None:
        """End everything."""
        if self._thread.is_alive():
            self._call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self._loop.close()

    def _call(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=512)

    async def _cut(self) -> int:
        open_now = list(self._writers)
        for writer in open_now:
            writer.transport.abort()
        return len(open_now) // 2

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, server}
        self._writers |= ends
        try:
            requests = _hand_on(reader, server, lambda: self.delay_seconds)
            await asyncio.gather(requests, _hand_on(answers, writer, lambda: 0.0))
        finally:
            self._writers -= ends
            for end in ends:
                end.close()


async def _hand_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: Callable[[], float]) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            if wait := delay():
                await asyncio.sleep(wait)
            target.write(data)
            await target.drain()
    # One side is gone: the other hears it too.
    target.close()
