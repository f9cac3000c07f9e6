"""Django's own, synchronous code beside the loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import close_old_connections

T = TypeVar("T")


class Thread:
    """Runs Django's own, synchronous code beside the loop: one thread a chore, so that none waits for another's."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._acts: set[Future[Any]] = set()

    async def run(self, act: Callable[..., T], *args: Any) -> T:
        """Call `act` in the thread, with database connections that are known to work."""

        def call() -> T:
            close_old_connections()
            try:
                return act(*args)
            finally:
                close_old_connections()

        act_of_mine = self._executor.submit(call)
        self._acts.add(act_of_mine)
        act_of_mine.add_done_callback(self._acts.discard)
        return await asyncio.wrap_future(act_of_mine)

    def close(self) -> None:
        """Let the thread end after what it is doing; nobody waits for it."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def end(self) -> None:
        """Let it end, and return once it has: what it is doing may begin threads, and a process that ends has none."""
        self.close()
        await asyncio.gather(*map(asyncio.wrap_future, list(self._acts)), return_exceptions=True)
