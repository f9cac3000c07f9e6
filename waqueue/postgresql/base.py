"""Connections from the pool, looked at without a round trip."""

import select
from typing import Any

from django.db.backends.postgresql import base


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


def _has_something_to_read(connection: Any) -> bool:
    looked = select.poll()
    looked.register(connection.fileno(), select.POLLIN)
    return bool(looked.poll(0))
