"""Django's own, synchronous code beside the loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

from django.db import close_old_connections

T = TypeVar("T")


class Thread:
    """Runs Django's own, synchronous code beside the loop: one thread a chore, so that none waits for another's."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._last: Future[Any] | None = None

    async def run(self, act: Callable[..., T], *args: Any) -> T:
        """Call `act` in the thread, with database connections that are known to work."""

        def call() -> T:
            close_old_connections()
            try:
                return act(*args)
            finally:
                close_old_connections()

        self._last = self._executor.submit(call)
        return cast(T, await asyncio.wrap_future(self._last))

    def close(self) -> None:
        """Let the thread end after what it is doing; nobody waits for it."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def end(self) -> None:
        """Let it end, and return once it has: what it is doing may begin threads, and a process that ends has none."""
        self.close()
        if self._last is not None:
            await asyncio.gather(asyncio.wrap_future(self._last), return_exceptions=True)
