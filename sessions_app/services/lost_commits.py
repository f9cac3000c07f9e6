"""A COMMIT whose answer is lost: the row itself is looked for, before the caller is told anything.

Only what may have been committed is looked for, and only once nobody can commit it any more: the server may have the
COMMIT before it, unread, when its client already knows that the connection is broken. So that server is ended first.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, OperationalError, connection, models, transaction

log = logging.getLogger(__name__)

_END = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE pid = %s AND pid <> pg_backend_pid() AND datname = current_database() AND usename = current_user
"""


def server() -> int:
    """The number of the server that our connection speaks to. Raises OperationalError when there is none to be had."""
    connection.ensure_connection()
    return int(connection.connection.info.backend_pid)


def may_be_kept(server_pid: int) -> bool:
    """Whether our connection to this server broke, so that what it was to commit has to be looked for.

    Afterwards it commits nothing any more. False when it answered, when a transaction was open, which ended with the
    connection, and when PostgreSQL cannot be asked.
    """
    current = connection.connection
    if connection.in_atomic_block or (current and not current.closed and current.info.backend_pid == server_pid):
        return False
    try:
        connection.close()
        # What broke one has broken those that rest beside it, and not all of them know it yet.
        if pool := getattr(connection, "pool", None):
            pool.drain()
        with connection.cursor() as cursor:
            cursor.execute(_END, [server_pid])
            return all(ended for (ended,) in cursor.fetchall())
    except DatabaseError:
        return False


@contextmanager
def looked_up() -> Iterator[list[models.Model]]:
    """Run a transaction as `atomic` does. If the answer to its COMMIT is lost, the row that it put into the list tells.

    When the row is there, all goes on as after any commit. Raises the errors of django.db.
    """
    if connection.in_atomic_block:
        # Whoever began it commits it.
        with transaction.atomic():
            yield []
        return
    written: list[models.Model] = []
    server_pid, is_whole, then = server(), False, []
    try:
        with transaction.atomic():
            yield written
            is_whole, then = True, [act for _, act, *_ in connection.run_on_commit]
    except OperationalError:
        if not (is_whole and written and may_be_kept(server_pid) and _is_there(written[-1])):
            raise
        for act in then:
            act()


def _is_there(row: models.Model) -> bool:
    # Also by its time: after a crash, a sequence may give a number once more.
    made_at = getattr(row, "created_at")  # noqa: B009 (every row that is looked for has it, models.Model has not)
    if not type(row)._default_manager.filter(pk=row.pk, created_at=made_at).exists():
        return False
    log.warning("the answer to a COMMIT was lost: %s %s is kept", row._meta.verbose_name, row.pk)
    return True
