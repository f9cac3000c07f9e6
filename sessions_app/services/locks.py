"""Locks that are held to the end of a transaction."""

from django.db import connection

from sessions_app.database import LONGEST_SECONDS


def lock_name(session_name: str) -> None:
    """Let nobody else create, archive or adopt under this name until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('waqueue name ' || %s, 0))", [session_name])


def lock_restores() -> None:
    """Let nobody else restore anything until the transaction ends. Taken before any row: nobody waits for it with one.

    What is in no line yet is found by looking: it has to be the same when it is placed. Whoever stands still with the
    lock loses it, and what was not committed; so does whoever waits with it for a row that somebody else keeps.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('waqueue restore', 0)), "
            "set_config('idle_in_transaction_session_timeout', %s, true), set_config('lock_timeout', %s, true)",
            [f"{LONGEST_SECONDS}s"] * 2,
        )
