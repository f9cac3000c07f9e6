"""Commits that do not wait for the disk: only those of parts of an act, and nobody is told before it is there."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import connection, transaction

from sessions_app.database import await_disk, connect, part_of_an_act
from sessions_app.models import Event
from tests.processes import Process
from tests.servers import Servers

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


def test_commits_wait_for_the_disk_whatever_the_database_was_told_and_a_stricter_choice_stays() -> None:
    name = connection.settings_dict["NAME"]
    for chosen, kept in (("off", "on"), ("remote_apply", "remote_apply")):
        with connection.cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {chosen}')
        try:
            connection.close()
            connection.close_pool()
            assert asked("SHOW synchronous_commit") == kept
            assert asyncio.run(asked_by_a_worker("SHOW synchronous_commit")) == kept
        finally:
            with connection.cursor() as cursor:
                cursor.execute(f'ALTER DATABASE "{name}" RESET synchronous_commit')
            connection.close()
            connection.close_pool()


async def asked_by_a_worker(question: str) -> str:
    async with await connect() as its_own:
        row = await (await its_own.execute(question)).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.acceptance
@pytest.mark.parametrize(("fsync", "told"), [("off", 1), ("on", 0)])
def test_a_server_that_does_not_wait_for_its_disk_is_told_of_by_the_check(
    fsync: str, told: int, servers: Servers, process: Callable[..., Process]
) -> None:
    def check(log: Path, environ: dict[str, str]) -> Process:
        return Process([sys.executable, "manage.py", "check", "--deploy"], environ, log)

    checked = process(check, {"DATABASE_URL": servers.postgres(fsync=fsync).url})
    assert checked.wait(60) == 0
    assert checked.output.count("waqueue.W005") == told
