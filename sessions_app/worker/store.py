"""A connection to PostgreSQL that is opened again when it has broken, one statement batch at a time."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg

from sessions_app.database import connect, plan
from sessions_app.worker import clock

# Statements of ours take milliseconds; what takes longer than this waits for a peer that is not there.
_STATEMENT_SECONDS = 20
_CONNECT_SECONDS = 10
_CLOSE_SECONDS = 2
_PLANNED_FOR_SECONDS = 5.0
_GIVEN_UP_AT_MOST = 100
# Up to so many rows, plans that are kept are the faster ones.
FEW_ROWS = 100

P = ParamSpec("P")
T = TypeVar("T")


def name_of(worker: uuid.UUID) -> str:
    """How the names begin by which PostgreSQL knows the connections of a worker."""
    return f"waqueue {worker}"


class Store:
    """One connection for one purpose: what waits for a lock on it does not delay the others."""

    def __init__(self, worker: uuid.UUID, *, lock_timeout_ms: int = 0) -> None:
        self._worker = worker
        self._lock_timeout_ms = lock_timeout_ms
        self._plans_once = False
        self._planned_at = 0.0
        self._name = ""
        # Connections that were given up in the middle of something, which their server may still finish.
        self.given_up: list[str] = []
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Connect now, so that the first batch need not wait for it. Raises psycopg.Error."""
        await self.run(_nothing)

    async def run(
        self,
        act: Callable[Concatenate[psycopg.AsyncConnection[Any], P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `act` with the connection. Raises psycopg.Error; the next call then opens a new one."""
        return await self.run_for(0, act, *args, **kwargs)

    async def run_for(
        self,
        rows: int,
        act: Callable[Concatenate[psycopg.AsyncConnection[Any], P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As `run`, with the plans that suit a batch of so many rows."""
        async with self._lock:
            if self._connection is None or self._connection.closed or self._connection.broken:
                self._name = f"{name_of(self._worker)} {uuid.uuid4().hex[:8]}"
                async with _limit(_CONNECT_SECONDS):
                    self._connection = await connect(lock_timeout_ms=self._lock_timeout_ms, name=self._name)
                self._plans_once = False
            try:
                async with _limit(_STATEMENT_SECONDS):
                    if rows:
                        await self._plan(self._connection, once=rows <= FEW_ROWS)
                    return await act(self._connection, *args, **kwargs)
            except BaseException as error:
                if not isinstance(error, psycopg.errors.LockNotAvailable):
                    self.given_up.append(self._name)
                    # Not everybody asks for them.
                    del self.given_up[:-_GIVEN_UP_AT_MOST]
                # Also when cancelled in the middle: what the connection still has to say belongs to nobody. And when
                # only a lock was taken: psycopg then counts statements as prepared that its pipeline has skipped.
                await self._drop()
                raise

    async def _plan(self, connection: psycopg.AsyncConnection[Any], *, once: bool) -> None:
        if once != self._plans_once:
            await plan(connection, once=once)
            self._plans_once = once
        if once and clock.now() - self._planned_at > _PLANNED_FOR_SECONDS:
            # Made while the tables were small, a plan may read all of what they are now.
            await connection.execute("DISCARD PLANS")
            self._planned_at = clock.now()

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


async def _nothing(connection: psycopg.AsyncConnection[Any]) -> None:
    pass


@contextlib.asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    """Let a peer that has vanished look like any other broken connection."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise psycopg.OperationalError(f"PostgreSQL has not answered for {seconds:g} seconds") from error
