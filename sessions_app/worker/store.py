"""A connection to PostgreSQL that is opened again when it has broken, one statement batch at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg

from sessions_app.database import connect

P = ParamSpec("P")
T = TypeVar("T")


class Store:
    """One connection for one purpose: what waits for a lock on it does not delay the others."""

    def __init__(self) -> None:
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    async def run(
        self,
        act: Callable[Concatenate[psycopg.AsyncConnection[Any], P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `act` with the connection. Raises psycopg.Error; the next call then opens a new one."""
        async with self._lock:
            if self._connection is None or self._connection.closed or self._connection.broken:
                self._connection = await connect()
            try:
                return await act(self._connection, *args, **kwargs)
            except BaseException:
                # Also when cancelled in the middle: what the connection still has to say belongs to nobody.
                await self._drop()
                raise

    async def close(self) -> None:
        """Close the connection, if there is one."""
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
