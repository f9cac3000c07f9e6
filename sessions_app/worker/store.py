"""A connection to PostgreSQL that is opened again when it has broken, one statement batch at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg

from sessions_app.database import connect

# Statements of ours take milliseconds; what takes longer than this waits for a peer that is not there.
_STATEMENT_SECONDS = 20
_CONNECT_SECONDS = 10
_CLOSE_SECONDS = 2
# Up to so many rows a connection `for_few_rows` is the faster one.
FEW_ROWS = 100

P = ParamSpec("P")
T = TypeVar("T")


class Store:
    """One connection for one purpose: what waits for a lock on it does not delay the others."""

    def __init__(self, *, lock_timeout_ms: int = 0, for_few_rows: bool = False) -> None:
        self._lock_timeout_ms = lock_timeout_ms
        self._for_few_rows = for_few_rows
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
                async with _limit(_CONNECT_SECONDS):
                    self._connection = await connect(
                        lock_timeout_ms=self._lock_timeout_ms, for_few_rows=self._for_few_rows
                    )
            try:
                async with _limit(_STATEMENT_SECONDS):
                    return await act(self._connection, *args, **kwargs)
            except BaseException:
                # Also when cancelled in the middle: what the connection still has to say belongs to nobody. And when
                # only a lock was taken: psycopg then counts statements as prepared that its pipeline has skipped.
                await self._drop()
                raise

    async def close(self) -> None:
        """Close the connection, if there is one."""
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                async with _limit(_CLOSE_SECONDS):
                    await connection.close()


@contextlib.asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    """Let a peer that has vanished look like any other broken connection."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise psycopg.OperationalError(f"PostgreSQL has not answered for {seconds:g} seconds") from error
