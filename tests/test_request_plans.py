"""Statements of every request are planned once: what is planned while tables are small stays right when they grow."""

from collections.abc import Callable

import pytest
from django.db import connection, transaction

from sessions_app.models import Message, Session, Status, read_mirrored
from tests.factories import make_session, submit

pytestmark = pytest.mark.django_db(transaction=True)


def rows_read() -> int:
    """How many rows of messages this connection has read, by whichever way, since it said so last."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'wa_message'")
        return int(cursor.fetchone()[0])


def small_then_large(act: Callable[[Session], object]) -> int:
    """Do it often while there are few messages, then once behind 3,000 that were sent; return how many rows it read."""
    session = make_session()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE wa_message")
    submit(session, "planned")
    for _ in range(12):
        act(session)
    sent = submit(session, *["text"] * 3000)
    Message.objects.filter(pk__in=[message.pk for message in sent]).update(status=Status.SENT)
    with transaction.atomic():
        before = rows_read()
        act(session)
        return rows_read() - before


def accept(session: Session) -> object:
    return submit(session, "one more")


def read_for_the_mirror(session: Session) -> object:
    line = Message.objects.open().filter(session_id__lte=session.pk).order_by("session_id", "priority", "seq")
    return read_mirrored(line.extra(where=["(session_id, priority, seq) > (%s, -1, 0)"], params=[session.pk])[:1000])


@pytest.mark.parametrize("act", [accept, read_for_the_mirror])
def test_what_is_done_often_reads_by_the_line_also_when_its_table_has_grown(act: Callable[[Session], object]) -> None:
    assert small_then_large(act) < 300
