"""One run of reconciliation: policies, what is left alone, whose name it bears, and how it tells of itself."""

import io
import json
import logging
from typing import Any

import pytest
import redis
from django.core.management import call_command

from sessions_app.models import AuditEntry, Event, FindingKind, Orphan, Reconciliation, Session, Trigger
from sessions_app.queues import connection as redis_connection
from sessions_app.queues import keys
from sessions_app.reconciliation import run as run_module
from sessions_app.reconciliation.repair import Policy
from sessions_app.reconciliation.run import AlreadyRunning, UnknownName, reconcile_in_time
from tests.factories import job_ids, line, make_session, observer, submit
from tests.processes import find_free_port
from tests.reconciliation_lab import (
    found,
    in_order,
    legacy_list,
    picture_of_postgres,
    picture_of_redis,
    run,
    stock_queue,
    texts_of,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("without_pause")]


@pytest.fixture
def alpha() -> Session:
    """Return a session with four messages, all as it should be."""
    session = make_session()
    submit(session, *"abcd")
    in_order()
    return session


@pytest.fixture
def two_orphans(redis_client: redis.Redis) -> None:
    """Let there be an RQ queue and a list of the old service without sessions."""
    in_order()
    stock_queue(redis_client, "gone", "xyz")
    legacy_list(redis_client, "lost", "uv")


RQ, LEGACY = "rq:queue:wa:gone", "queue:lost"


@pytest.mark.parametrize("trigger", [Trigger.COMMAND, Trigger.STARTUP, Trigger.TIMER])
@pytest.mark.parametrize("policy", Policy)
def test_the_policies_of_the_settings_decide_each_for_its_kind_and_a_start_never_purges(
    policy: Policy, trigger: Trigger, two_orphans: None, redis_client: redis.Redis, settings: Any
) -> None:
    settings.WAQUEUE_ORPHAN_POLICY = policy.value
    settings.WAQUEUE_LEGACY_POLICY = {"report": "archive", "archive": "purge", "purge": "report"}[policy]
    done = run(trigger=trigger)
    states = {orphan.source: (orphan.state, orphan.entries.count()) for orphan in Orphan.objects.all()}
    left = {key for key in (RQ, LEGACY) if redis_client.exists(key)}
    purged = ("archived", "archived") if trigger == Trigger.STARTUP else ("purged", "purged")
    wanted: dict[Policy, Any] = {
        Policy.REPORT: ({"rq": "detected", "legacy": "archived"}, {RQ}, "findings"),
        Policy.ARCHIVE: ({"rq": "archived", "legacy": purged[1]}, set(), "repaired"),
        Policy.PURGE: ({"rq": purged[0], "legacy": "detected"}, {LEGACY}, "findings"),
    }
    assert ({source: state for source, (state, _) in states.items()}, left, done.outcome) == wanted[policy]
    assert all(count == 0 for state, count in states.values() if state in ("purged", "detected"))
    assert all(count > 0 for state, count in states.values() if state == "archived")


def test_a_policy_that_is_given_holds_for_both(two_orphans: None, redis_client: redis.Redis) -> None:
    before = picture_of_redis(redis_client)
    assert run(policy=Policy.REPORT).outcome == "findings"
    assert picture_of_redis(redis_client) == before
    assert set(Orphan.objects.values_list("queue", "state", "messages")) == {
        ("wa:gone", "detected", 3), ("queue:lost", "detected", 2),
    }  # fmt: skip
    run(policy=Policy.PURGE)
    assert set(Orphan.objects.values_list("state", flat=True)) == {"purged"}
    assert not redis_client.exists(RQ, LEGACY)


def test_a_purge_by_policy_is_said_with_its_count_and_audited(
    two_orphans: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(policy=Policy.PURGE)
    assert "queue wa:gone: 3 messages are purged by policy" in caplog.messages
    assert set(AuditEntry.objects.filter(action="purge orphan").values_list("actor", "count")) == {
        ("reconciliation", 3), ("reconciliation", 2),
    }  # fmt: skip


def test_what_was_reported_is_one_orphan_and_is_archived_by_a_later_policy(two_orphans: None) -> None:
    for _ in range(3):
        run(policy=Policy.REPORT)
    assert Orphan.objects.count() == 2
    assert Event.objects.filter(kind="queue.orphaned").count() == 2
    run(policy=Policy.ARCHIVE)
    assert sorted(texts_of(orphan) for orphan in Orphan.objects.filter(state="archived")) == [["u", "v"], [*"xyz"]]


@pytest.mark.fault(26)
def test_a_key_of_the_wrong_type_is_said_and_left_alone(alpha: Session, redis_client: redis.Redis) -> None:
    redis_client.set("queue:counter", "42")
    redis_client.hset("queue:hash", "a", "b")
    redis_client.set("rq:queue:wa:odd", "x")
    redis_client.delete(keys.queue_key("alpha"))
    redis_client.sadd(keys.queue_key("alpha"), "x")
    before = picture_of_redis(redis_client)
    for _ in range(2):
        done = run()
        assert found(done) == [
            ("foreign_key", name, 0, "") for name in ("alpha", "counter", "hash", "odd")
        ]  # fmt: skip
        assert done.outcome == "repaired"
        assert picture_of_redis(redis_client) == before


@pytest.mark.fault("14b")
@pytest.mark.parametrize("policy", [None, *Policy])
def test_the_redis_of_another_database_is_only_reported(
    policy: Policy | None, alpha: Session, redis_client: redis.Redis
) -> None:
    stock_queue(redis_client, "gone", "xyz")
    legacy_list(redis_client, "alpha", "uv")
    redis_client.lpop(keys.queue_key("alpha"))
    redis_client.hset(keys.META, mapping={"deployment": "0b5b1a1e-0000-7000-8000-000000000000", "mark": 10**9})
    before = picture_of_redis(redis_client), picture_of_postgres()
    done = run(policy=policy)
    assert (found(done), done.outcome) == ([("other_deployment", "", 0, "")], "findings")
    assert "0b5b1a1e-0000-7000-8000-000000000000" in done.findings.get().detail
    assert (picture_of_redis(redis_client), picture_of_postgres()) == before


def test_a_session_that_is_named_restricts_it_to_what_bears_that_name(
    alpha: Session, two_orphans: None, redis_client: redis.Redis
) -> None:
    beta = make_session("beta")
    submit(beta, "x", "y")
    legacy_list(redis_client, "beta", "z")
    for name in ("alpha", "beta"):
        redis_client.rpush(keys.queue_key(name), redis_client.lpop(keys.queue_key(name)))
    redis_client.sadd(keys.RQ_QUEUES, "rq:queue:wa:empty")
    # Somebody else's archiving, begun and not finished.
    Orphan.objects.create(
        queue="wa:other", key=b"rq:queue:wa:other", session_name="other", source="rq", reason="", messages=1,
        first_seen_at=alpha.created_at, last_seen_at=alpha.created_at,
        staging_key=b"waqueue:archive:1:rq:queue:wa:other",
    )  # fmt: skip
    assert found(run(session_name="beta")) == [
        ("legacy_queue", "beta", 1, "adopted"),
        ("wrong_order", "beta", 0, "put right"),
    ]
    assert found(run(session_name="gone")) == [("orphan_queue", "gone", 3, "archived")]
    for name in ("empty", "nobody"):
        with pytest.raises(UnknownName, match=f"called '{name}'"):
            run(session_name=name)
    assert job_ids(redis_client, "beta") == line(beta)
    assert job_ids(redis_client, "alpha") != line(alpha)
    assert redis_client.exists(LEGACY)
    assert {(kind, name) for kind, name, *_ in found(run())} == {
        ("wrong_order", "alpha"), ("legacy_queue", "lost"), ("empty_name", ""), ("orphan_queue", "other"),
    }  # fmt: skip


def test_a_run_is_a_row_with_trigger_duration_counts_and_findings_an_event_and_lines_that_name_and_count(
    two_orphans: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        done = run(trigger=Trigger.ADMIN)
    row = Reconciliation.objects.latest("pk")
    assert row == done
    assert (row.trigger, row.dry_run, row.outcome, row.error) == ("admin", False, "findings", "")
    assert row.started_at < row.finished_at
    assert row.counts == {"orphan_queue": 1, "legacy_queue": 1}
    assert found(row) == [("legacy_queue", "lost", 2, ""), ("orphan_queue", "gone", 3, "archived")]
    event = Event.objects.get(kind="reconciliation.finished")
    assert event.data == {"reconciliation": row.pk, "outcome": "findings", "counts": row.counts, "dry_run": False}
    orphan, legacy = Orphan.objects.get(source="rq").pk, Orphan.objects.get(source="legacy").pk
    assert (
        f"queue wa:gone: session 'gone' does not exist, 3 orphaned messages: archived (orphan {orphan})"
        in caplog.messages
    )
    assert (
        "list queue:lost of the old service, session 'lost': 2 messages: nothing done "
        f"(left in Redis for a person to decide: orphan {legacy})" in caplog.messages
    )
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_the_timer_says_once_what_waits_for_a_person(two_orphans: None, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        run(trigger=Trigger.TIMER)
    assert sum("queue:lost" in message for message in caplog.messages) == 1


def test_the_timer_leaves_out_a_run_when_there_was_one_just_now(alpha: Session) -> None:
    run()
    assert reconcile_in_time() is None
    run(dry_run=True)
    Reconciliation.objects.filter(dry_run=False).delete()
    assert reconcile_in_time() is not None


@pytest.mark.fault(16)
def test_while_one_runs_another_leaves_without_a_trace(alpha: Session) -> None:
    before = Reconciliation.objects.count()
    with observer() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [run_module._LOCK])
        with pytest.raises(AlreadyRunning):
            run()
        assert reconcile_in_time() is None
        assert Reconciliation.objects.count() == before
        other.execute("SELECT pg_advisory_unlock(%s)", [run_module._LOCK])
    assert found(run()) == []


def test_a_run_that_breaks_says_so_and_does_not_stay_running(alpha: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(run_module, "compare", broken)
    with pytest.raises(RecursionError):
        run()
    done = Reconciliation.objects.get()
    assert (done.outcome, done.error) == ("failed", "RecursionError: too deep")


def command(*arguments: str) -> tuple[int, str, str]:
    """Run the command; return its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("reconcile_queues", *arguments, stdout=out, stderr=err)
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def test_the_command_ends_with_0_when_nothing_is_found_or_everything_is_repaired(
    alpha: Session, redis_client: redis.Redis
) -> None:
    assert command() == (0, "Nothing found: Redis is as PostgreSQL says.\n", "")
    code, written, _ = command("--format", "json")
    assert (code, json.loads(written)["findings"], json.loads(written)["outcome"]) == (0, [], "clean")
    stock_queue(redis_client, "gone", "xyz")
    redis_client.set("queue:counter", "42")
    code, written, _ = command()
    heads, *rows = (text.split() for text in written.splitlines())
    assert (code, heads) == (0, ["found", "queue", "session", "messages", "done", "details"])
    assert ["orphan_queue", "wa:gone", "gone", "3", "archived"] in [row[:5] for row in rows]
    # A foreign key is a note.
    assert ["foreign_key", "queue:counter", "counter", "0", "-"] in [row[:5] for row in rows]
    assert command("--dry-run")[0] == 0


def test_the_command_ends_with_1_when_something_is_left_or_found_in_a_dry_run(
    alpha: Session, redis_client: redis.Redis
) -> None:
    stock_queue(redis_client, "gone", "xyz")
    for arguments in (["--dry-run"], ["--policy", "report"], ["--dry-run", "--policy", "purge", "--session", "gone"]):
        assert command(*arguments)[0] == 1
        code, written, _ = command(*arguments, "--format", "json")
        document = json.loads(written)
        assert (code, document["dry_run"]) == (1, "--dry-run" in arguments)
        assert document["counts"] == {FindingKind.ORPHAN_QUEUE: 1}
        (finding,) = document["findings"]
        assert (finding["session"], finding["messages"], finding["action"]) == ("gone", 3, "")
    assert command("--dry-run", "--session", "alpha")[0] == 0
    assert redis_client.llen(RQ) == 3
    assert command("--policy", "purge")[0] == 0
    assert Orphan.objects.get().state == "purged"


def test_the_command_ends_with_2_when_it_cannot_run(alpha: Session, settings: Any) -> None:
    with observer() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [run_module._LOCK])
        assert command()[0] == 2
        other.execute("SELECT pg_advisory_unlock(%s)", [run_module._LOCK])
    settings.REDIS_URL = f"redis://127.0.0.1:{find_free_port()}/0"
    redis_connection.upkeep_client.cache_clear()
    try:
        code, written, said = command("--format", "json")
    finally:
        redis_connection.upkeep_client.cache_clear()
    assert (code, written) == (2, "")
    assert said.startswith("reconciliation could not run: Redis cannot be reached")
    failed = Reconciliation.objects.latest("pk")
    assert failed.outcome == "failed"
    assert "Redis cannot be reached" in failed.error
