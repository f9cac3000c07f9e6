"""The worker's sign of life in PostgreSQL: by it, and by nothing else, is a worker judged dead."""

import os
import socket
import uuid
from typing import Any

import psycopg

from sessions_app.models.worker import SILENCE

_REGISTER = """
INSERT INTO wa_worker (id, name, hostname, pid, concurrency, started_at, heartbeat_at, steady_since, in_flight, settled)
VALUES (%s, %s, %s, %s, %s, clock_timestamp(), clock_timestamp(), clock_timestamp(), 0, 0)
ON CONFLICT (id) DO NOTHING
"""
# A worker that was silent for so long that others may have judged it dead begins anew to be a judge itself.
_BEAT = """
UPDATE wa_worker
SET steady_since = CASE WHEN heartbeat_at < clock_timestamp() - %s THEN clock_timestamp() ELSE steady_since END,
    heartbeat_at = clock_timestamp(), in_flight = %s, settled = %s, missed_at = NULL
WHERE id = %s
"""
_STOP = (
    "UPDATE wa_worker SET stopped_at = clock_timestamp(), heartbeat_at = clock_timestamp(), in_flight = 0 WHERE id = %s"
)
# Whoever falls silent is told of once, by whichever living worker sees it first.
_MISS = """
WITH missed AS (
    UPDATE wa_worker SET missed_at = clock_timestamp()
    WHERE stopped_at IS NULL AND missed_at IS NULL AND heartbeat_at < clock_timestamp() - %s AND id <> %s
    RETURNING id, name, hostname, in_flight
),
told AS (
    INSERT INTO wa_event (kind, data)
    SELECT 'worker.gone', jsonb_build_object('worker', name, 'host', hostname, 'in_flight', in_flight) FROM missed
)
SELECT id, name, hostname, in_flight FROM missed
"""


async def register(connection: psycopg.AsyncConnection[Any], worker: uuid.UUID, name: str, concurrency: int) -> None:
    """Write this process's row."""
    await connection.execute(_REGISTER, [worker, name, socket.gethostname(), os.getpid(), concurrency])


async def beat(connection: psycopg.AsyncConnection[Any], worker: uuid.UUID, in_flight: int, settled: int) -> bool:
    """Say that this worker is alive, and what it is doing; False when its row is gone: a backup was restored."""
    return (await connection.execute(_BEAT, [SILENCE, in_flight, settled, worker])).rowcount > 0


async def stop(connection: psycopg.AsyncConnection[Any], worker: uuid.UUID) -> None:
    """Say goodbye: nothing of this worker is in flight any more."""
    await connection.execute(_STOP, [worker])


async def missed(connection: psycopg.AsyncConnection[Any], worker: uuid.UUID) -> list[tuple[uuid.UUID, str, str, int]]:
    """Mark the workers that fell silent; return id, name, host and last known flights of each not told of yet."""
    return await (await connection.execute(_MISS, [SILENCE, worker])).fetchall()
