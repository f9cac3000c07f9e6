"""Very many rows and keys within seconds, and what a page costs while they are there: counted, never timed."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from django.db import connection, models, transaction
from django.test.utils import CaptureQueriesContext

from sessions_app.models import Message, Orphan, Session, SessionCounter, SessionDispatch
from sessions_app.queues import keys
from tests.round_trips import round_trips

PART = 10_000
# No single command may hold Redis up for so long.
_HELD_UP_MICROS = 10_000
_TRIES = 3
_JOB = keys.job_key("").encode()


def clone(row: models.Model, count: int, *, start: int = 2, **own: str) -> None:
    """Have rows like this one, numbered `n` from `start` to `count`; `own` are the columns that differ, as SQL."""
    table = row._meta.db_table
    columns = [field.column for field in row._meta.concrete_fields if field.column != "id" or "id" in own]
    values = ", ".join(own.get(column, f"t.{column}") for column in columns)
    key = row._meta.pk.column  # type: ignore[union-attr]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table} t, generate_series(%s, %s) n "
            f"WHERE t.{key} = %s",
            [start, count, row.pk],
        )
        cursor.execute(f"ANALYZE {table}")


def clone_session(session: Session, count: int, *, start: int = 2) -> None:
    """Have `count` sessions like this one, called `<name>-<n>`."""
    clone(session, count, start=start, name="t.name || '-' || n")
    for model in (SessionCounter, SessionDispatch):
        columns = [field.column for field in model._meta.concrete_fields if field.column != "session_id"]
        table = model._meta.db_table
        names = "".join(f", {column}" for column in columns)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} (session_id{names}) SELECT s.id{names.replace(', ', ', t.')} "
                f"FROM {table} t, wa_session s WHERE t.session_id = %s AND s.name LIKE %s "
                f"ON CONFLICT DO NOTHING",
                [session.pk, f"{session.name}-%"],
            )
            cursor.execute(f"ANALYZE {table}")


def lengthen(message: Message, count: int, *, start: int = 2) -> None:
    """Have the message's session wait with `count` like it."""
    clone(message, count, start=start, id="gen_random_uuid()", seq="n")
    SessionCounter.objects.filter(session=message.session_id).update(next_seq=count + 1)


def clone_orphan(orphan: Orphan, count: int, *, start: int = 2) -> None:
    """Have `count` orphans like this one, each with a list of its own name."""
    clone(
        orphan, count, start=start, id="gen_random_uuid()", queue="t.queue || '-' || n",
        session_name="t.session_name || '-' || n",
        key="t.key || convert_to('-' || n, 'UTF8')",
    )  # fmt: skip


def fill_list(client: redis.Redis, key: str, count: int) -> None:
    """Put short ids into a list, few calls for very many."""
    for start in range(0, count, PART):
        client.rpush(key, *range(start, min(start + PART, count)))


def make_lists(client: redis.Redis, names: list[str]) -> None:
    """Make a list of one entry for each of these keys; RQ knows of those that are its own."""
    for start in range(0, len(names), PART):
        part = names[start : start + PART]
        with client.pipeline(transaction=False) as pipe:
            for name in part:
                pipe.rpush(name, "1")
            pipe.sadd(keys.RQ_QUEUES, *part)
            pipe.execute()


@dataclass(frozen=True)
class Cost:
    """What one answer took: statements, round trips to Redis, bytes of answer, peak of memory in bytes."""

    statements: int
    trips: int
    size: int
    peak: int


def cost(ask: Callable[[], Any]) -> Cost:
    """Ask and count, then ask again and watch the memory: that alone makes it slow."""
    with CaptureQueriesContext(connection) as statements, round_trips() as trips:
        size = len(ask())
        count = len(statements)
    tracemalloc.start()
    try:
        ask()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return Cost(count, trips.count, size, peak)


@contextmanager
def rows_read(table: str) -> Iterator[Callable[[], int]]:
    """How many rows of a table this connection has read while the block ran, by an index or without.

    What others have read is shown late, and a connection tells its own at the end of a transaction.
    """

    def now() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = %s", [table]
            )
            return int(cursor.fetchone()[0])

    with transaction.atomic():
        before = now()
        yield lambda: now() - before


def assert_redis_is_never_blocked(
    client: redis.Redis, act: Callable[[], Any], *, again: Callable[[], Any] = lambda: None
) -> None:
    """Fail if a command holds Redis up for 10 ms each time that `act` is done; `again` makes it possible once more.

    On a busy machine any command may be slow once, for the server itself is made to wait. One that has too much to do
    is slow every time. Of a million that each write one job some are always met by such a wait, so that it counts
    only when it is the same job each time.
    """
    slow = _slow(client, act)
    for _ in range(_TRIES - 1):
        if not slow:
            return
        again()
        latest = _slow(client, act)
        slow = {kind: [*times, *latest[kind]] for kind, times in slow.items() if kind in latest}
    assert not slow, f"microseconds by command: {slow}"


def _slow(client: redis.Redis, act: Callable[[], Any]) -> dict[bytes, list[int]]:
    """What held Redis up for long while something was done, by the kind of the command."""
    before = client.config_get("slowlog-log-slower-than")["slowlog-log-slower-than"]
    client.config_set("slowlog-log-slower-than", _HELD_UP_MICROS)
    client.slowlog_reset()
    act()
    found: dict[bytes, list[int]] = {}
    for entry in client.slowlog_get(128):
        # A script is called by its hash.
        name, first, *_ = [*entry["command"].split(b" ", 2), b""]
        is_told_apart = name.upper() in (b"EVALSHA", b"EVAL") or first.startswith(_JOB)
        kind = b" ".join([name, first]) if is_told_apart else name
        found.setdefault(kind, []).append(entry["duration"])
    client.config_set("slowlog-log-slower-than", before)
    return found
