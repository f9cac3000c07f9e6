"""What time it is where the fence decides. The clock of the host that this runs on may be minutes off."""

from datetime import datetime

from django.db import connection


def database_now() -> datetime:
    """The time by PostgreSQL's clock, at this very moment and not at the beginning of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now
