"""Statements of every request are planned once: what is planned while tables are small stays right when they grow."""

import pytest
from django.db import connection, transaction

from tests.factories import make_session, submit

pytestmark = pytest.mark.django_db(transaction=True)


def whole_reads() -> dict[str, int]:
    """How many rows of each table this connection has read by walking through all of it, since it said so last."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables WHERE seq_tup_read > 0")
        return dict(cursor.fetchall())


def test_a_message_is_accepted_without_a_walk_through_a_table_that_was_small_once() -> None:
    session = make_session()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE wa_message")
    for _ in range(10):
        submit(session, "planned")
    submit(session, *["text"] * 3000)
    with transaction.atomic():
        before = whole_reads()
        submit(session, "one more")
        assert whole_reads() == before
