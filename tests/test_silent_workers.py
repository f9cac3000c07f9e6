"""What becomes of a worker that says nothing any more, though its process is still there."""

import asyncio
import contextlib
import uuid
from typing import Any

import psycopg
import pytest

from sessions_app.worker import heartbeat
from sessions_app.worker.store import Store
from sessions_app.worker.upkeep import Upkeep
from tests.dispatch_lab import make_dispatcher, session_with, workers

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_worker_that_is_frozen_in_the_middle_of_a_fence_loses_its_hold_on_the_sessions() -> None:
    session_with("one")
    frozen = uuid.uuid4()
    holds = asyncio.Event()

    async def half_a_fence(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute("BEGIN")
        await connection.execute(
            "INSERT INTO wa_in_flight (session_id, slot, token, worker_id, fenced_at, deadline_at) "
            "SELECT id, 0, 1, %s, now(), now() FROM wa_session",
            [frozen],
        )
        holds.set()
        # Here it is frozen, until the test is over.
        await asyncio.Event().wait()

    async def act() -> list[str]:
        store = Store(frozen)
        async with workers(1) as (own,):
            await store.run(heartbeat.register, frozen, "frozen", 1)
            await own.execute("UPDATE wa_worker SET heartbeat_at = now() - interval '1 hour'")
            fencing = asyncio.create_task(store.run(half_a_fence))
            await holds.wait()
            loop = await make_dispatcher(own)
            upkeep = Upkeep(loop, "judge")
            await own.execute("SET lock_timeout = '1s'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await own.fence()
            await upkeep._judge()
            fenced = await own.fence()
            with contextlib.suppress(psycopg.Error, asyncio.CancelledError):
                fencing.cancel()
                await fencing
            await store.close()
            await upkeep.stop()
            await loop.close()
            return [flight.session_name for flight in fenced.flights]

    assert asyncio.run(act()) == ["s"]
