"""Large orphans take as long for each message as small ones: what an act looks for, it finds by an index."""

import pytest
import redis
from django.db import connection, transaction
from django.db.models import CharField
from django.db.models.functions import Cast, Now
from django.test.utils import CaptureQueriesContext

from sessions_app.models import Message, Orphan, OrphanEntry
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import orphans
from sessions_app.services.orphans import restoring
from tests.factories import ACTOR, make_session, submit
from tests.reconciliation_lab import legacy_list, run, stock_queue
from tests.size_lab import rows_read

pytestmark = pytest.mark.django_db(transaction=True)


def analyze(table: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {table}")


def plan(statement: str) -> str:
    """How PostgreSQL would do it. A table of few rows is read whole all the same: here only where no index would do."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {statement}")
        return "\n".join(row[0] for row in cursor.fetchall())


def asked_for(asked: CaptureQueriesContext, *words: str) -> list[str]:
    found = [query["sql"] for query in asked if all(word in query["sql"] for word in words)]
    assert found, [query["sql"][:100] for query in asked]
    return found


def test_what_was_sent_already_is_looked_for_by_an_index(redis_client: redis.Redis) -> None:
    submit(make_session("beta"), *["text"] * 2000)
    Message.objects.update(client_ref=Cast("id", CharField()))
    analyze("wa_message")
    legacy_list(redis_client, "gone", range(300))
    with CaptureQueriesContext(connection) as asked:
        run(policy=Policy.ARCHIVE)
    (look,) = asked_for(asked, "json_to_recordset", "client_ref =")
    assert "wa_message_client_ref" in plan(look) and "wa_message_pkey" in plan(look), plan(look)
    assert "Seq Scan" not in plan(look), plan(look)


def test_whether_there_is_a_row_of_a_job_is_looked_for_by_an_index(redis_client: redis.Redis) -> None:
    submit(make_session("beta"), *["text"] * 2000)
    analyze("wa_message")
    stock_queue(redis_client, "wa:gone", range(300))
    with CaptureQueriesContext(connection) as asked:
        run(policy=Policy.ARCHIVE)
    for look in asked_for(asked, "json_to_recordset", "WHERE id = wanted.own"):
        assert "Index Cond: (id = wanted.own)" in plan(look) and "Seq Scan" not in plan(look), plan(look)


def test_a_restore_finds_every_row_by_an_index(redis_client: redis.Redis) -> None:
    submit(make_session("alpha"), *["text"] * 2000)
    legacy_list(redis_client, "gone", range(2000))
    run(policy=Policy.ARCHIVE)
    analyze("wa_message, wa_orphan_entry")
    with CaptureQueriesContext(connection) as asked:
        orphans.restore(Orphan.objects.get(), make_session("beta"), actor=ACTOR)
    for look in asked_for(asked, "UPDATE wa_orphan_entry"):
        assert "Seq Scan" not in plan(look), plan(look)


def test_a_restore_goes_on_where_it_was_without_a_look_at_what_it_has_restored(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 50)
    legacy_list(redis_client, "gone", range(2000))
    run(policy=Policy.ARCHIVE)
    orphan, session = Orphan.objects.get(), make_session("beta")
    restoring.restore_chunk(orphan, session, orphans.Selection(), actor=ACTOR)
    # Most of it went before: to walk past that is what no planner may find cheap.
    OrphanEntry.objects.filter(index__lt=1900).update(restored_at=Now())
    analyze("wa_orphan_entry")
    with CaptureQueriesContext(connection) as asked:
        restoring.restore_chunk(orphan, session, orphans.Selection(), actor=ACTOR, done=1900)
    assert OrphanEntry.objects.exclude(restored_at=None).count() == 1950
    for look in asked_for(asked, '"wa_orphan_entry"."index" ASC LIMIT 50'):
        assert "wa_orphan_entry_left" in plan(look), plan(look)


def test_what_was_copied_of_a_job_is_found_by_its_id(redis_client: redis.Redis) -> None:
    legacy_list(redis_client, "gone", range(2000))
    run(policy=Policy.ARCHIVE)
    analyze("wa_orphan_entry")
    orphan = Orphan.objects.get()
    wanted = list(OrphanEntry.objects.order_by("index").values_list("job_id", flat=True)[700:800])
    with rows_read("wa_orphan_entry") as read:
        found = OrphanEntry.objects.raw_of(orphan, wanted)
        assert len(wanted) <= read() <= 2 * len(wanted)
    assert list(found) and set(found) == set(wanted)
