"""How the database is emptied after a test that commits: only what the test filled, in a few milliseconds.

Django's own way empties all tables and then makes content types, permissions and groups anew, for each of two thousand
tests. Those stay here, and Django's way is taken only after a test that touched them.
"""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connection
from django.test import TransactionTestCase

_MADE_BY_MIGRATE = ("django_content_type", "auth_permission", "auth_group", "auth_group_permissions")
_TABLES = """
SELECT c.relname FROM pg_class c
WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace AND c.relname <> 'django_migrations'
"""


def _rows(statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def _made_by_migrate() -> list[tuple[Any, ...]]:
    """What tells whether a test has changed what `migrate` made."""
    return _rows(
        "SELECT "
        + ", ".join(f"(SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM {table} t)" for table in _MADE_BY_MIGRATE)
    )


@pytest.fixture(scope="session", autouse=True)
def empty_quickly(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Have every test that commits emptied after in the quick way."""
    if not str(connection.settings_dict["NAME"]).startswith("test_"):
        # None of the chosen tests has a database.
        yield
        return
    with django_db_blocker.unblock():
        tables = [row[0] for row in _rows(_TABLES) if row[0] not in _MADE_BY_MIGRATE]
        made = _made_by_migrate()
        connection.close()
    filled = " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {table})" for table in tables)
    full: Callable[[Any], None] = TransactionTestCase._fixture_teardown

    def empty(case: Any) -> None:
        if _made_by_migrate() != made:
            full(case)
        elif to_empty := [row[0] for row in _rows(filled)]:
            _delete_all(to_empty)

    with patch.object(TransactionTestCase, "_fixture_teardown", empty):
        yield


def _delete_all(tables: list[str]) -> None:
    """Foreign keys are checked at the commit only. To truncate takes ten times as long where there are few rows."""
    with connection.cursor() as cursor:
        cursor.execute("; ".join(f"DELETE FROM {table}" for table in tables))
