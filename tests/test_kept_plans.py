"""Plans that are kept for small batches: made while the tables were small, they do not stay when these grow."""

import asyncio
import uuid
from typing import Any

import psycopg
import pytest
from django.db import connection

from sessions_app.worker import store as stores
from sessions_app.worker.fence import fence
from sessions_app.worker.store import Store
from tests.dispatch_lab import claimed, in_thread, session_with, workers

pytestmark = pytest.mark.django_db(transaction=True)

_MANY = 20_000


def fill() -> None:
    """Many sessions at once, as an import makes them; nobody analyses the table."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE wa_session SET (autovacuum_enabled = off)")
        cursor.execute("CREATE TEMPORARY TABLE one AS SELECT * FROM wa_session")
        cursor.execute(
            "UPDATE one SET name = 'x'; "
            "INSERT INTO wa_session SELECT (one).* FROM (SELECT jsonb_populate_record(one, jsonb_build_object("
            "'id', 1000000 + n, 'name', 'other' || n)) AS one FROM one, generate_series(1, %s) n) made",
            [_MANY],
        )
        cursor.execute("DROP TABLE one")


async def rows_read(asked: psycopg.AsyncConnection[Any]) -> int:
    """How many rows of sessions this connection has read, by whichever way, since it said so last."""
    rows = await asked.execute(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'wa_session'"
    )
    return int((await rows.fetchall())[0][0])


def test_a_fence_planned_on_an_empty_database_looks_up_by_key_after_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_PLANNED_FOR_SECONDS", 0)
    session_with("one", "two", "three", "four")
    worker = uuid.uuid4()

    async def counted_fence(asked: psycopg.AsyncConnection[Any]) -> int:
        before = await rows_read(asked)
        await fence(asked, worker, claimed("s"))
        return await rows_read(asked) - before

    async def act() -> int:
        store = Store(worker)

        async def once() -> int:
            return await store.run_for(1, counted_fence)

        try:
            for _ in range(3):
                await once()
            await in_thread(fill)
            return await once()
        finally:
            await store.close()

    try:
        assert asyncio.run(act()) < 100
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE wa_session RESET (autovacuum_enabled)")


def test_no_statement_is_compiled_on_servers_that_can() -> None:
    async def explained() -> str:
        async with workers(1) as (own,):
            # What has no index is read whole, which counts as dear.
            rows = await own.execute("EXPLAIN ANALYZE SELECT max(known_token) FROM wa_deployment")
            return "\n".join(row[0] for row in rows)

    assert "JIT" not in asyncio.run(explained())
