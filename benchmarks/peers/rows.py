"""The peers' own table: a row per message, updated when its job begins and when it ends."""

from typing import Any

from benchmarks.processes import Process
from benchmarks.report import Run
from benchmarks.stores import Stores

_MADE = """
CREATE SCHEMA peer;
CREATE TABLE peer.row (id integer PRIMARY KEY, started_at timestamptz, done_at timestamptz);
"""
_DONE = "SELECT count(done_at) FROM peer.row"
_SECONDS = "SELECT extract(epoch FROM max(done_at) - min(started_at)) FROM peer.row"
BEGIN = "UPDATE peer.row SET started_at = clock_timestamp() WHERE id = %s"
END = "UPDATE peer.row SET done_at = clock_timestamp() WHERE id = %s"


def make(stores: Stores, count: int) -> None:
    """Make the table with rows 0 to `count` - 1, none of them begun."""
    stores.database.execute(_MADE)
    stores.database.execute("INSERT INTO peer.row SELECT generate_series(0, %s - 1)", [count])
    stores.database.execute("VACUUM (ANALYZE) peer.row")


def wait(stores: Stores, worker: Process, count: int, deadline_s: float) -> Run:
    """Wait until all are done; return how long it took from the first beginning to the last end, by the rows."""
    # Looked at seldom, so that looking costs the peer nothing.
    worker.wait_until(lambda: stores.value(_DONE) >= count, deadline_s, f"{count} jobs are done", pause_s=0.5)
    return Run(count, float(stores.value(_SECONDS)))


def two_updates(connection: Any, row: int) -> None:
    """The work of one job."""
    connection.execute(BEGIN, [row])
    connection.execute(END, [row])
