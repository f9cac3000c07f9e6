"""Connections to PostgreSQL beside Django's own handling: in an asyncio loop, and for statements that stay planned."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from django.db import connections, transaction

from waqueue.postgresql.base import WAITS_FOR_THE_DISK

# What Django's parameters hold for its own cursors and pool, and an async connection must not get.
_DJANGO_ONLY = ("cursor_factory", "context", "pool", "prepare_threshold")
# No transaction of ours takes longer; one that does belongs to a process that was stopped in the middle of it.
LONGEST_SECONDS = 15
_TRANSACTION_TIMEOUT_SINCE = 170_000
# A statement is planned for the rows that it is given: a plan that was kept since the tables were small would read all
# of a million rows.
_PLANNED_EACH_TIME = {"plan_cache_mode": "force_custom_plan", "enable_hashjoin": "on", "enable_mergejoin": "on"}
# For a few rows, planning costs more than all else. A plan that is kept goes by index alone, at any size of the tables;
# for hundreds of rows it would be the slower one.
_PLANNED_ONCE = {"plan_cache_mode": "force_generic_plan", "enable_hashjoin": "off", "enable_mergejoin": "off"}


async def connect(*, lock_timeout_ms: int = 0, name: str = "waqueue") -> psycopg.AsyncConnection[Any]:
    """Open one autocommit connection with the parameters of Django's default database. Raises psycopg.Error.

    With `lock_timeout_ms`, a statement that waits longer for a lock raises LockNotAvailable. `name` is what PostgreSQL
    shows of it, up to 63 characters.
    """
    parameters = connections["default"].get_connection_params()
    for unknown in _DJANGO_ONLY:
        parameters.pop(unknown, None)
    # Statements are few and hot: prepared at their second use.
    connection = await psycopg.AsyncConnection.connect(
        **(parameters | {"application_name": name}), autocommit=True, prepare_threshold=1
    )
    settings = {
        **_PLANNED_EACH_TIME,
        # To compile a statement takes longer than any of ours, and a plan that has to read a whole table, be it of one
        # row, counts as dear enough for it.
        "jit": "off",
        # Rows are found by key, and those in use are in memory: reading a whole table for a batch never pays, be it by
        # its index, which is what a planner that thinks of disks does for 500 of 20,000 rows.
        "enable_seqscan": "off",
        "random_page_cost": "0.1",
        "seq_page_cost": "0.1",
        "lock_timeout": f"{lock_timeout_ms}ms",
        "idle_in_transaction_session_timeout": f"{LONGEST_SECONDS}s",
    }
    if connection.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
        settings["transaction_timeout"] = f"{LONGEST_SECONDS}s"
    await _set(connection, settings)
    await connection.execute(f"SELECT {WAITS_FOR_THE_DISK}")
    return connection


async def plan(connection: psycopg.AsyncConnection[Any], *, once: bool) -> None:
    """Have statements planned once, which is best for a few rows, or each time. Raises psycopg.Error."""
    await _set(connection, _PLANNED_ONCE if once else _PLANNED_EACH_TIME)


async def end(connection: psycopg.AsyncConnection[Any], names: Sequence[str]) -> None:
    """End the connections whose names begin so; return when what they were doing is undone or done.

    A server goes on with a statement whose client is gone, and waits for the next one of a client that is frozen, with
    the locks of the last. Raises psycopg.Error.
    """
    if names:
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name ^@ ANY(%s)",
            [list(names)],
        )


@contextlib.contextmanager
def kept_cursor() -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
    """A cursor on Django's own connection, for statements that are run with `prepare=True`: each is planned once.

    psycopg plans others once, too, from their sixth time on, unless they say `prepare=False`.

    For what every request of the API does. Django's cursors write the values into the statement, so that PostgreSQL
    never sees the same one twice, and planning it takes longer than all else. Raises the errors of django.db.
    """
    wrapper = connections["default"]
    wrapper.ensure_connection()
    wrapper.validate_no_broken_transaction()
    with wrapper.wrap_database_errors, psycopg.Cursor(wrapper.connection) as cursor:
        yield cursor


@contextlib.contextmanager
def part_of_an_act() -> Iterator[None]:
    """A transaction whose commit does not wait for the disk. Within another one, that one's commit is as it was.

    For one of many parts of an act: a crash of PostgreSQL takes back the last of them, and the act goes on from there.
    Nobody is to be told before `await_disk`, or another commit, has put it on disk. Raises the errors of django.db.
    """
    is_inner = transaction.get_connection().in_atomic_block
    with transaction.atomic():
        if not is_inner:
            with transaction.get_connection().cursor() as cursor:
                cursor.execute("SET LOCAL synchronous_commit = off")
        yield


def await_disk() -> None:
    """Return when all that was committed before is on disk. Raises the errors of django.db."""
    with transaction.get_connection().cursor() as cursor:
        # A commit waits for all before it, but only one that has something of its own to write.
        cursor.execute("SELECT pg_logical_emit_message(true, 'waqueue', '')")


def writable(text: str) -> str:
    """A text as PostgreSQL can take it: an engine may answer anything."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


async def _set(connection: psycopg.AsyncConnection[Any], settings: dict[str, str]) -> None:
    chosen = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
    await connection.execute(f"SELECT {chosen}")
