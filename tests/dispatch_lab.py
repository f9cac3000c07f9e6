"""Two workers' connections on one table, for tests that put fence and settle into one another's way."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from django.db import connections

from sessions_app.database import connect
from sessions_app.models import Message, Session
from sessions_app.queues.connection import deployment_id
from sessions_app.queues.dispatch import ClaimedSession
from sessions_app.services import messages, sessions
from sessions_app.services.audit import Actor
from sessions_app.worker.dispatcher import Dispatcher
from sessions_app.worker.fence import Fenced, fence
from sessions_app.worker.outcomes import Flight, Settlement
from sessions_app.worker.settle import Settled, settle
from tests.processes import until

ACTOR = Actor("the test")

T = TypeVar("T")


def session_with(*texts: str, name: str = "s", **options: Any) -> tuple[Session, list[Message]]:
    """Make a session with one queued message per text."""
    session, _ = sessions.create(name=name, actor=ACTOR, **options)
    drafts = [messages.Draft(to="+51930246633", text=text) for text in texts]
    return session, messages.submit(session, drafts) if drafts else []


def claimed(*names: str) -> list[ClaimedSession]:
    """Claims as Redis would give them."""
    return [ClaimedSession(name, "generation", 1) for name in names]


async def in_thread(act: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run Django's synchronous code beside the loop, and give its connection back to the pool."""

    def call() -> T:
        try:
            return act(*args, **kwargs)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


class LabWorker:
    """One worker's side of PostgreSQL: a connection, and an id of its own."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection
        self.id = uuid.uuid4()

    async def fence(self, *names: str) -> Fenced:
        """Fence these sessions, as after a claim."""
        return await fence(self.connection, self.id, claimed(*names or ("s",)))

    async def fence_one(self, *names: str) -> Flight:
        """Fence these sessions, of which one has something to send."""
        (flight,) = (await self.fence(*names)).flights
        return flight

    async def settle(self, *settlements: Settlement) -> list[Settled]:
        """Write these outcomes."""
        return await settle(self.connection, settlements)

    async def execute(self, statement: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement; return its rows."""
        cursor = await self.connection.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


async def make_dispatcher(worker: LabWorker) -> Dispatcher:
    """A dispatcher that nobody has claim; its fences are called by the test."""
    return Dispatcher(worker=worker.id, deployment=await in_thread(deployment_id), concurrency=100)


@asynccontextmanager
async def workers(count: int = 2) -> AsyncIterator[list[LabWorker]]:
    """Connections for `count` workers, closed at the end."""
    made = [LabWorker(await connect()) for _ in range(count)]
    try:
        yield made
    finally:
        for worker in made:
            await worker.connection.close()


async def until_blocked(observer: LabWorker, blocked: LabWorker, deadline_s: float = 10) -> None:
    """Wait until PostgreSQL itself says that `blocked` waits for a lock."""
    pid = blocked.connection.info.backend_pid

    async def is_blocked() -> bool:
        return bool((await observer.execute("SELECT pg_blocking_pids(%s) <> '{}'", [pid]))[0][0])

    await until(is_blocked, deadline_s, "it waits for a lock")
