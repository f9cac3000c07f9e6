"""Statements of every request are planned once: what is planned while tables are small stays right when they grow."""

from collections.abc import Callable

import pytest
from django.db import connection, transaction

from sessions_app.models import Message, Session, Status, read_mirrored
from tests.factories import make_session, submit
from tests.size_lab import rows_read

pytestmark = pytest.mark.django_db(transaction=True)


def planned_while_small(act: Callable[[Session], object]) -> Session:
    """A session of which this was done often while there were few messages, and that has sent 3,000 since."""
    session = make_session()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE wa_message")
    submit(session, "planned")
    for _ in range(12):
        act(session)
    sent = submit(session, *["text"] * 3000)
    Message.objects.filter(pk__in=[message.pk for message in sent]).update(status=Status.SENT)
    return session


def whole_tables() -> dict[str, int]:
    """How many rows of each table this transaction has read by a walk through all of it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables WHERE seq_tup_read > 0")
        return dict(cursor.fetchall())


def test_a_message_is_accepted_without_a_walk_through_a_table_that_was_small_once() -> None:
    session = planned_while_small(lambda session: submit(session, "one more"))
    with transaction.atomic():
        before = whole_tables()
        submit(session, "one more")
        assert whole_tables() == before


def test_a_line_is_read_for_the_mirror_without_a_look_at_what_was_sent() -> None:
    def read(session: Session) -> object:
        line = Message.objects.open().filter(session_id__lte=session.pk).order_by("session_id", "priority", "seq")
        return read_mirrored(line.extra(where=["(session_id, priority, seq) > (%s, -1, 0)"], params=[session.pk])[:50])

    session = planned_while_small(read)
    with rows_read("wa_message") as rows:
        read(session)
        assert rows() < 100
