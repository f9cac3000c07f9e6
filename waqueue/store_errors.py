"""What a command says when it ends because a store is away, instead of a traceback."""

import psycopg
import redis.exceptions
from django.db import OperationalError


def said_of_a_store(error: Exception) -> str:
    """What a person needs to know when a store is away or not set up; nothing if the program is wrong.

    One line: the others of PostgreSQL's messages quote rows.
    """
    first_line = str(error).strip().partition("\n")[0]
    if isinstance(error.__cause__, psycopg.errors.UndefinedTable):
        return f"PostgreSQL lacks a table: {first_line}. Run `manage.py migrate` first."
    cause = error.__cause__ if isinstance(error, OperationalError) else error
    # Of what PostgreSQL itself answers, only that it is closing, starting or full: the rest are faults of ours.
    if isinstance(cause, psycopg.OperationalError) and (cause.sqlstate or "08")[:2] in ("08", "28", "3D", "53", "57"):
        return f"PostgreSQL could not be asked: {first_line}"
    if isinstance(error, (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)):
        return f"Redis could not be asked: {first_line}"
    return ""
