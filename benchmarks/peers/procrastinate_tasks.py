"""The task, as procrastinate's own processes import it: it runs in procrastinate's environment.

`python procrastinate_tasks.py SESSIONS EACH` makes procrastinate's tables and submits that many.
"""

import os
import sys

import procrastinate
import psycopg_pool

_CONCURRENCY = int(os.environ["PEER_CONCURRENCY"])
# Its tables are in the schema that is dropped between two rounds.
_OPTIONS = {"conninfo": os.environ["DATABASE_URL"], "kwargs": {"options": "-c search_path=peer"}}

app = procrastinate.App(connector=procrastinate.PsycopgConnector(**_OPTIONS, max_size=_CONCURRENCY + 1))
pool = psycopg_pool.AsyncConnectionPool(
    os.environ["DATABASE_URL"], kwargs={"autocommit": True}, min_size=_CONCURRENCY, open=False
)


@app.task(name="peer.job")
async def job(row: int) -> None:
    """One message: the same two updates as in `rows`."""
    await pool.open()
    async with pool.connection() as connection:
        await connection.execute("UPDATE peer.row SET started_at = clock_timestamp() WHERE id = %s", [row])
        await connection.execute("UPDATE peer.row SET done_at = clock_timestamp() WHERE id = %s", [row])


if __name__ == "__main__":
    sessions, each = int(sys.argv[1]), int(sys.argv[2])
    with app.open():
        app.schema_manager.apply_schema()
        for row in range(sessions * each):
            job.configure(lock=f"s{row % sessions}").defer(row=row)
