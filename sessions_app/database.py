"""Connections to PostgreSQL for code that runs in an asyncio loop, outside Django's own handling."""

from typing import Any

import psycopg
from django.db import connections

# What Django's parameters hold for its own cursors and pool, and an async connection must not get.
_DJANGO_ONLY = ("cursor_factory", "context", "pool", "prepare_threshold")


async def connect() -> psycopg.AsyncConnection[Any]:
    """Open one autocommit connection with the parameters of Django's default database. Raises psycopg.Error."""
    parameters = connections["default"].get_connection_params()
    for name in _DJANGO_ONLY:
        parameters.pop(name, None)
    # Statements are few and hot: prepared at their second use.
    return await psycopg.AsyncConnection.connect(**parameters, autocommit=True, prepare_threshold=1)
