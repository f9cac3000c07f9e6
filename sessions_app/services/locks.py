"""Locks that are held to the end of a transaction."""

from django.db import connection


def lock_name(session_name: str) -> None:
    """Let nobody else create, archive or adopt under this name until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('waqueue name ' || %s, 0))", [session_name])
