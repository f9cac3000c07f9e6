"""What is wrong with one finding, one run or one store keeps nothing else from being put right, and is told."""

import asyncio
import json
import logging
import random
import zlib
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import (
    Event,
    Orphan,
    OrphanEntry,
    OrphanState,
    Reconciliation,
    ReconciliationFinding,
    Session,
    Trigger,
)
from sessions_app.queues import keys, lists
from sessions_app.reconciliation import rebuild
from sessions_app.reconciliation import repair as repair_module
from sessions_app.reconciliation import run as run_module
from sessions_app.reconciliation.repair import Policy
from sessions_app.reconciliation.run import reconcile_in_time
from sessions_app.services import orphans, worklist
from sessions_app.worker.upkeep import Upkeep
from tests.factories import PHONE, job_ids, line, make_session, observer, submit
from tests.reconciliation_lab import found, in_order, legacy_entry, legacy_list, run, stock_queue

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("without_pause")]


def template_job(client: redis.Redis, name: str, template: Any) -> None:
    """Put a job with a template of any shape into a queue."""
    call = ["x.y", None, [], {"to": PHONE, "type": "template", "template": template}]
    client.hset("rq:job:poison", mapping={"data": zlib.compress(json.dumps(call).encode()), "origin": f"wa:{name}"})
    client.rpush(f"rq:queue:wa:{name}", "poison")
    client.sadd("rq:queues", f"rq:queue:wa:{name}")


def deep(levels: int) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


POISON = {
    "NUL": ({"a\0": "b\0"}, {"a": "b"}),
    "half a surrogate pair": ({"a": "\ud800"}, {"a": "?"}),
    "deep enough": (deep(30), deep(30)),
    "NaN": ({"a": [float("nan")]}, None),
    "infinite": ({"a": [float("inf")]}, None),
    "too deep": (deep(400), None),
}


@pytest.mark.fault(26)
@pytest.mark.parametrize(("template", "kept"), POISON.values(), ids=POISON)
def test_a_template_that_postgresql_does_not_take_is_set_aside(
    template: Any, kept: Any, redis_client: redis.Redis
) -> None:
    in_order()
    template_job(redis_client, "aaa", template)
    stock_queue(redis_client, "zzz", ["one"])
    assert run().outcome == "repaired"
    entry = OrphanEntry.objects.get(orphan__session_name="aaa")
    assert (entry.readable, entry.content.get("template")) == (kept is not None, kept)
    assert entry.error == ("" if kept is not None else "its template cannot be kept")
    assert Orphan.objects.get(session_name="zzz").state == OrphanState.ARCHIVED
    assert found(run()) == []


@pytest.mark.fault(26)
def test_a_name_longer_than_an_index_takes_is_one_orphan(redis_client: redis.Redis) -> None:
    in_order()
    # Of a kind that cannot be packed, each character four bytes.
    letters = random.Random(1)
    name = "".join(chr(letters.randrange(0x20000, 0x2A000)) for _ in range(5000))
    redis_client.rpush(f"queue:{name}", legacy_entry("x"))
    redis_client.rpush(f"rq:queue:wa:{name}", "no job")
    for _ in range(2):
        run(policy=Policy.REPORT)
    assert Orphan.objects.count() == 2
    run(policy=Policy.ARCHIVE)
    assert set(Orphan.objects.values_list("state", flat=True)) == {OrphanState.ARCHIVED}
    assert found(run()) == []


def test_the_row_of_a_list_is_found_by_an_index() -> None:
    now = timezone.now()
    Orphan.objects.bulk_create(
        Orphan(queue=f"{at}", key=f"{at}".encode(), session_name=f"{at}", first_seen_at=now, last_seen_at=now)
        for at in range(2000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE wa_orphan")
    assert "wa_orphan_of_key" in Orphan.objects.filter(key=b"7", state=OrphanState.DETECTED).explain()
    assert "wa_orphan_of_session" in Orphan.objects.unresolved().filter(session_name="7").explain()


@pytest.fixture
def poisoned(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be an orphan that cannot be archived, one that can, and a session that lacks a job."""
    session = make_session()
    submit(session, "one")
    in_order()
    redis_client.delete(keys.queue_key("alpha"))
    stock_queue(redis_client, "aaa", ["hola Juan"])
    stock_queue(redis_client, "zzz", ["one"])
    archive = orphans.archive

    def poison(orphan: Orphan, **options: Any) -> Orphan:
        if orphan.session_name == "aaa":
            with connection.cursor() as cursor:
                cursor.execute("SELECT %s::jsonb", [json.dumps({"to": PHONE, "text": "hola Ju" + "an\0"})])
        return archive(orphan, **options)

    monkeypatch.setattr(repair_module.orphans, "archive", poison)


def test_what_cannot_be_put_right_keeps_no_other_from_it_and_no_content_is_told(
    poisoned: None, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(4):
        done = run(trigger=Trigger.TIMER)
        assert done.outcome == "findings"
    failed = done.findings.get(session="aaa")
    assert (failed.action, failed.detail) == ("failed", "DataError: unsupported Unicode escape sequence")
    assert Orphan.objects.get(session_name="zzz").state == OrphanState.ARCHIVED
    assert job_ids(redis_client, "alpha") == line(Session.objects.get())
    assert sum("failed (DataError" in message for message in caplog.messages) == 1
    # What it did, what was left, and what was left the last time.
    assert Reconciliation.objects.count() == 3
    assert "in _put_right" in caplog.text
    assert "Juan" not in caplog.text
    assert "930246633" not in caplog.text
    (item,) = [item for item in worklist.items() if item.kind == "reconciliation_failed"]
    assert (item.session, item.detail) == ("aaa", failed.detail)


def test_a_run_that_fails_keeps_and_tells_what_it_did(
    poisoned: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object, **__: object) -> None:
        raise QueueUnavailable("Redis cannot be reached: it was pulled out")

    monkeypatch.setattr(repair_module.rebuild, "rebuild_session", away)
    monkeypatch.setattr(repair_module.inspect, "is_reachable", lambda **_: False)
    monkeypatch.setattr(repair_module.orphans, "archive", orphans.archiving.archive)
    with pytest.raises(QueueUnavailable):
        run()
    done = Reconciliation.objects.get()
    assert (done.outcome, done.error) == ("failed", "Redis cannot be reached: it was pulled out")
    assert ("orphan_queue", "zzz", 1, "archived") in found(done)
    assert ("missing_job", "alpha", 1, "") in found(done)
    assert "session 'zzz' does not exist, 1 orphaned messages: archived" in caplog.text
    assert Event.objects.filter(kind="reconciliation.finished").count() == 1


def test_a_run_that_fails_is_on_the_worklist_until_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    in_order()
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "compare", broken)
        for _ in range(4):
            with pytest.raises(RuntimeError):
                run(trigger=Trigger.TIMER)
    # The first and the last of those that only repeat it, and one event.
    first, _last = Reconciliation.objects.order_by("pk")
    assert Event.objects.filter(kind="reconciliation.finished").count() == 1
    (item,) = [item for item in worklist.items() if item.kind == "reconciliation_failed"]
    assert (item.since, item.detail) == (first.started_at, "RuntimeError: a fault")
    run(dry_run=True)
    assert [item.kind for item in worklist.items()] == ["reconciliation_failed"]
    run()
    assert worklist.items() == []


def test_the_queues_are_said_to_be_rebuilt_only_by_who_did_it(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "one")
    in_order()
    redis_client.hdel(keys.META, "generation")
    with observer() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [rebuild._LOCK])
        done = run()
        other.execute("SELECT pg_advisory_unlock(%s)", [rebuild._LOCK])
    assert (found(done), done.outcome) == ([("generation_lost", "", 0, "")], "findings")
    assert done.findings.get().detail == "another process is rebuilding the queues"
    assert found(run()) == [("generation_lost", "", 0, "rebuilt")]


# The clockwork and the doors


def test_a_fault_in_one_chore_is_logged_and_ends_neither_it_nor_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    async def faulty() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise asyncio.CancelledError
        raise KeyError("a fault")

    async def clock() -> None:
        await object.__new__(Upkeep)._every(0.001, "a chore", faulty)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(clock())
    assert len(calls) == 3
    (said,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert said.getMessage() == "a chore failed, and is tried again"
    assert said.exc_info is not None


def test_the_command_says_a_fault_in_one_line_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(run_module, "compare", broken)
    with pytest.raises(SystemExit) as end:
        call_command("reconcile_queues")
    assert end.value.code == 2
    assert "reconciliation could not run: KeyError: 'a fault'\n" in capsys.readouterr().err


# An orphan that was left in Redis, a list that comes back, and what is told again and again


def test_an_orphan_that_is_back_is_not_closed(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    in_order()
    legacy_list(redis_client, "gone", "xyz")
    run()
    redis_client.delete("queue:gone")
    close = repair_module._close

    def back(orphan: Orphan) -> bool:
        legacy_list(redis_client, "gone", "uvw")
        return close(orphan)

    monkeypatch.setattr(repair_module, "_close", back)
    assert found(run()) == [("vanished_orphan", "gone", 3, "no orphan any more")]
    assert Orphan.objects.get().state == OrphanState.DETECTED


def test_the_renamed_list_of_a_finished_archive_that_comes_back_is_deleted_once(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_order()
    stock_queue(redis_client, "gone", "ab")
    kept: dict[bytes, bytes] = {}
    conclude = orphans.archiving._conclude

    def remember(orphan: Orphan, copied: int) -> None:
        kept.update({key: redis_client.dump(key) for key in redis_client.scan_iter("waqueue:archive:*")})
        conclude(orphan, copied)

    monkeypatch.setattr(orphans.archiving, "_conclude", remember)
    run()
    ((key, value),) = kept.items()
    redis_client.restore(key, 0, value)
    assert found(run()) == [("leftover_list", "gone", 2, "deleted again")]
    assert not redis_client.exists(key)
    assert found(run()) == []
    assert Orphan.objects.get().messages == 2


def test_the_timer_keeps_the_first_and_the_last_of_what_it_only_repeats(redis_client: redis.Redis) -> None:
    in_order()
    for at in range(20):
        legacy_list(redis_client, f"gone{at}", "a")
    for _ in range(6):
        done = run(trigger=Trigger.TIMER)
    assert Reconciliation.objects.count() == 2
    assert ReconciliationFinding.objects.count() == 40
    assert len(found(done)) == 20
    assert Event.objects.filter(kind="reconciliation.finished").count() == 1
    legacy_list(redis_client, "gone3", "b")
    run(trigger=Trigger.TIMER)
    assert Event.objects.filter(kind="reconciliation.finished").count() == 2
    run(trigger=Trigger.COMMAND)
    assert Event.objects.filter(kind="reconciliation.finished").count() == 3


# One name only


def test_a_run_of_one_name_stands_in_for_no_whole_run(redis_client: redis.Redis) -> None:
    submit(make_session(), "one")
    in_order()
    legacy_list(redis_client, "gone", "xyz")
    run(trigger=Trigger.TIMER)
    Reconciliation.objects.update(started_at=timezone.now() - timedelta(hours=1))
    done = run(session_name="gone")
    assert done.session_name == "gone"
    assert reconcile_in_time() is not None
    # The whole run before it is the timer's first one: nothing is news.
    assert Event.objects.filter(kind="reconciliation.finished").count() == 2


def test_a_run_of_one_name_rebuilds_nothing_else(redis_client: redis.Redis) -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    submit(alpha, "one")
    submit(beta, "one")
    in_order()
    redis_client.hdel(keys.META, "generation")
    redis_client.delete(keys.queue_key("alpha"), keys.queue_key("beta"))
    assert found(run(session_name="alpha")) == [("missing_job", "alpha", 1, "put right")]
    assert job_ids(redis_client, "alpha") == line(alpha)
    assert job_ids(redis_client, "beta") == []
    assert ("generation_lost", "", 0, "rebuilt") in found(run())
    assert job_ids(redis_client, "beta") == line(beta)


def test_the_command_says_that_it_looked_at_one_name_only_and_refuses_a_name_that_nothing_bears(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_session()
    in_order()
    call_command("reconcile_queues", "--session", "alpha")
    assert capsys.readouterr().out.startswith("Looked only at what is called alpha.\n")
    call_command("reconcile_queues", "--session", "alpha", "--format", "json")
    assert json.loads(capsys.readouterr().out)["session"] == "alpha"
    before = Reconciliation.objects.count()
    with pytest.raises(SystemExit) as end:
        call_command("reconcile_queues", "--session", "alhpa")
    assert end.value.code == 2
    assert "no session, no queue and no orphan is called 'alhpa'" in capsys.readouterr().err
    assert Reconciliation.objects.count() == before


# What is large


@pytest.mark.fault(26)
def test_a_list_of_large_entries_is_read_few_at_a_time(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "_SMALL_BYTES", 20_000)
    monkeypatch.setattr(lists, "_READ_BYTES", 5_000)
    entries = [*[b"x" * 3000] * 4, *[b"%d" % at for at in range(100)], b"y" * 50_000, b"end"]
    redis_client.rpush("queue:big", *entries)
    parts: list[list[bytes]] = []
    while part := lists.read_raw(b"queue:big", sum(map(len, parts))):
        parts.append(part)
    assert [entry for part in parts for entry in part] == entries
    assert len(parts[0]) == 5
    assert all(len(part) <= 500 for part in parts)
    assert lists.read_raw(b"queue:big", 5, 3) == entries[5:8]


@pytest.mark.fault(26)
def test_an_entry_or_a_content_past_all_bounds_is_set_aside_with_its_size_told(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions_app.queues.entries.WHOLE_BYTES", 2_000_000)
    monkeypatch.setattr(lists, "WHOLE_BYTES", 2_000_000)
    in_order()
    redis_client.rpush("queue:big", b"x" * 3_000_000, legacy_entry("after"))
    (job,) = stock_queue(redis_client, "big", ["one"])
    redis_client.hset(f"rq:job:{job}", "meta", b"x" * 3_000_000)
    run(policy=Policy.ARCHIVE)
    large = OrphanEntry.objects.get(orphan__source="legacy", index=0)
    assert (large.error, len(large.raw)) == ("3000000 bytes are too large for a message", 2_000_000)
    assert OrphanEntry.objects.get(orphan__source="legacy", index=1).readable
    unread = OrphanEntry.objects.get(orphan__source="rq")
    assert (unread.job_id, unread.readable) == (job, False)
    assert unread.error.endswith(" bytes are too large for a message")
