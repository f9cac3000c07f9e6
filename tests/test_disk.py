"""Commits that do not wait for the disk: only those of parts of an act, and nobody is told before it is there."""

import pytest
from django.db import connection, transaction

from sessions_app.database import await_disk, part_of_an_act
from sessions_app.models import Event

pytestmark = pytest.mark.django_db(transaction=True)


def asked(question: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(question)
        return str(cursor.fetchone()[0])


def test_the_commit_of_a_part_does_not_wait_for_the_disk_and_the_next_one_does() -> None:
    with part_of_an_act():
        assert asked("SHOW synchronous_commit") == "off"
    with transaction.atomic():
        assert asked("SHOW synchronous_commit") == "on"


def test_a_part_within_a_larger_transaction_leaves_its_commit_as_it_was() -> None:
    with transaction.atomic():
        with part_of_an_act():
            Event.objects.create(kind="message.queued")
        assert asked("SHOW synchronous_commit") == "on"


def test_what_was_committed_is_on_disk_when_it_was_waited_for() -> None:
    for _ in range(20):
        with part_of_an_act():
            Event.objects.bulk_create(Event(kind="message.queued") for _ in range(100))
        written = asked("SELECT pg_current_wal_insert_lsn()")
        await_disk()
        assert asked(f"SELECT pg_current_wal_flush_lsn() >= '{written}'") == "True"
