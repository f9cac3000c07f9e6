#!/usr/bin/env python
"""Run an administrative task of waqueue: `python manage.py help` lists them."""

import os
import sys


def main() -> None:
    """Hand the command line to Django."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "waqueue.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    from waqueue.run.home import environment_of_run

    os.environ |= environment_of_run(os.environ)
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"{error}.")
    except Exception as error:
        said = said_of_a_store(error)
        if not said or "--traceback" in sys.argv:
            raise
        sys.exit(said)


def said_of_a_store(error: Exception) -> str:
    """What a person needs to know when a store is away or not set up; nothing if the program is wrong.

    One line: the others of PostgreSQL's messages quote rows.
    """
    # What a command that ends well need not import.
    import psycopg
    import redis.exceptions
    from django.db import OperationalError

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


if __name__ == "__main__":
    main()
