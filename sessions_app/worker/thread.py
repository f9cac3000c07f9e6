"""Django's own, synchronous code beside the loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import close_old_connections

T = TypeVar("T")


class Thread:
    """Runs Django's own, synchronous code beside the loop: one thread a chore, so that none waits for another's."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, act: Callable[..., T], *args: Any) -> T:
        """Call `act` in the thread, with database connections that are known to work."""

        def call() -> T:
            close_old_connections()
            try:
                return act(*args)
            finally:
                close_old_connections()

        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Let the thread end after what it is doing; nobody waits for it."""
        self._executor.shutdown(wait=False, cancel_futures=True)
