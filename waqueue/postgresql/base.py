"""Connections that go by index, and from the pool, looked at without a round trip."""

import select
from typing import Any

from django.db.backends.postgresql import base

# What was committed is on disk before anybody is told, whatever the server, the role or the database says; a stricter
# choice stays.
WAITS_FOR_THE_DISK = """
set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), false)
"""


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection that hands on none that its server has ended.

    psycopg's own check asks the server before each use, and after a restart it tries the ended connections one by one,
    with a pause between them, until the request has waited too long. But a server says goodbye: what rests and has
    something to read is over, and those that rest beside it are as old.
    """

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Take a connection from the pool, or make one where there is no pool. Raises psycopg.Error."""
        connection = super().get_new_connection(conn_params)
        if self.pool is None or not _has_something_to_read(connection):
            return connection
        connection.close()
        self.pool.putconn(connection)
        self.pool.drain()
        return super().get_new_connection(conn_params)

    def _configure_connection(self, connection: Any) -> bool:
        """Prepare a new connection, as Django does; return whether that has to be committed. Raises psycopg.Error.

        Rows are found by key. A plan that is kept since its table was small would read all of it with every request
        until statistics are made, and a planner that has to read all of one compiles that, for a second.
        """
        super()._configure_connection(connection)  # type: ignore[misc]  # the stubs do not know it
        connection.execute(
            f"SELECT set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false), {WAITS_FOR_THE_DISK}"
        )
        return True


def _has_something_to_read(connection: Any) -> bool:
    looked = select.poll()
    looked.register(connection.fileno(), select.POLLIN)
    return bool(looked.poll(0))
