"""What an act on an orphan leaves behind: right counts also when it dies, an entry in the audit, and known messages."""

import uuid
from typing import Any

import pytest
import redis
from django.db import OperationalError

from sessions_app.exceptions import SessionNotFound
from sessions_app.models import (
    AuditEntry,
    Event,
    Message,
    Orphan,
    OrphanEntry,
    Session,
    Status,
    TaskState,
)
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import orphans, sessions, tasks
from sessions_app.services.orphans import purging, putting, restoring
from sessions_app.services.orphans.into_line import Placed
from tests.factories import ACTOR, become, is_due, job_ids, line, make_session, submit, traces
from tests.orphan_lab import rq_archived
from tests.processes import wait_until
from tests.reconciliation_lab import legacy_list, run, texts_in_line

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ready")]


# An act that ends half-way


def test_a_restore_that_is_killed_after_a_part_leaves_right_counts_and_an_orphan_that_can_be_closed(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 4)
    orphan, beta = rq_archived(redis_client), make_session("beta")
    restoring.restore_chunk(orphan, beta, orphans.Selection(), actor=ACTOR)
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages, orphan.resolution) == ("archived", 5, "4 messages restored to beta")
    assert AuditEntry.objects.get(action="restore orphan").count == 4
    for _ in range(2):
        restoring.restore_chunk(orphan, beta, orphans.Selection(), actor=ACTOR)
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages, orphan.resolved_by) == ("restored", 0, ACTOR.label)


def test_a_purge_that_is_killed_after_its_last_part_has_closed_its_orphan(redis_client: redis.Redis) -> None:
    orphan = rq_archived(redis_client)
    purging.purge_chunk(orphan, orphans.Selection(), actor=ACTOR)
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages, orphan.resolution) == ("purged", 0, "9 messages purged")
    assert AuditEntry.objects.get(action="purge orphan").count == 9


def test_a_task_that_fails_after_a_part_says_what_it_did(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 4)
    orphan, beta = rq_archived(redis_client), make_session("beta")
    task = orphans.restore_later(orphan, beta, selection=orphans.Selection(), with_duplicates=False, actor=ACTOR)
    chunk = restoring.restore_chunk

    def chunk_then_delete(*args: Any, **options: Any) -> int:
        if Message.objects.exists():
            sessions.delete(beta, actor=ACTOR, unsent="cancel")
        return chunk(*args, **options)

    monkeypatch.setattr(restoring, "restore_chunk", chunk_then_delete)
    tasks.run(task.pk)
    task.refresh_from_db()
    assert (task.state, task.done) == (TaskState.FAILED, 4)
    assert task.result == "the session 'beta' was deleted; 4 restored to beta, 5 left"
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages, orphan.resolution) == ("archived", 5, "4 messages restored to beta")
    assert Event.objects.get(kind="queue.restored").data["messages"] == 4


def test_a_task_that_was_killed_after_its_last_part_ends_well(redis_client: redis.Redis) -> None:
    orphan, beta = rq_archived(redis_client), make_session("beta")
    task = orphans.restore_later(orphan, beta, selection=orphans.Selection(), with_duplicates=False, actor=ACTOR)

    class Killed(BaseException):
        """What no handler catches."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoring, "conclude", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            tasks.run(task.pk)
    task.refresh_from_db()
    assert (task.state, task.done) == ("running", 9)
    tasks.run(task.pk)
    task.refresh_from_db()
    assert (task.state, task.done, task.result) == ("done", 9, "9 restored to beta, 0 left")
    orphan.refresh_from_db()
    assert orphan.resolution == "9 messages restored to beta"


def test_a_restore_that_fails_in_the_middle_says_what_it_did(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 4)
    orphan, beta = rq_archived(redis_client), make_session("beta")
    chunk = restoring.restore_chunk

    def chunk_then_delete(*args: Any, **options: Any) -> int:
        if Message.objects.exists():
            sessions.delete(beta, actor=ACTOR, unsent="cancel")
        return chunk(*args, **options)

    monkeypatch.setattr(restoring, "restore_chunk", chunk_then_delete)
    with pytest.raises(SessionNotFound):
        orphans.restore(orphan, beta, actor=ACTOR)
    assert Event.objects.get(kind="queue.restored").data["messages"] == 4


@pytest.mark.parametrize("is_task", [False, True])
def test_a_part_is_written_while_the_one_before_goes_into_the_mirror_and_all_are_there_in_the_end(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, is_task: bool
) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 4)
    orphan, beta = rq_archived(redis_client), make_session("beta")
    put, parts = putting.put, []

    def put_late(session: Session, placed: Placed) -> None:
        parts.append(placed.count)
        wait_until(lambda: Message.objects.count() == min(4 * len(parts) + 4, 9), 20, "the next part is written")
        put(session, placed)

    monkeypatch.setattr(putting, "put", put_late)
    if is_task:
        selection = orphans.Selection()
        tasks.run(orphans.restore_later(orphan, beta, selection=selection, with_duplicates=False, actor=ACTOR).pk)
    else:
        orphans.restore(orphan, beta, actor=ACTOR)
    assert parts == [4, 4, 1]
    assert job_ids(redis_client, "beta") == line(beta)


def test_what_is_not_known_to_be_on_disk_is_not_put_into_the_mirror_and_waits_for_reconciliation(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    orphan, beta = rq_archived(redis_client), make_session("beta")

    def away() -> None:
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(putting, "await_disk", away)
    orphans.restore(orphan, beta, actor=ACTOR)
    assert job_ids(redis_client, "beta") == []
    assert "9 messages of beta wait for reconciliation" in caplog.text
    assert is_due(redis_client, "beta")
    run()
    assert job_ids(redis_client, "beta") == line(beta)
    assert len(line(beta)) == 9


# What a deleted session left


def test_a_purged_message_of_a_deleted_session_says_in_its_history_that_it_was_cancelled() -> None:
    (message,) = submit(alpha := make_session(), "a")
    sessions.delete(alpha, actor=ACTOR, unsent="orphan")
    orphans.purge(Orphan.objects.get(), expected=1, actor=ACTOR)
    message.refresh_from_db()
    assert message.status == Status.CANCELLED
    assert traces(message)[0][-1] == "message.cancelled"


# Entries without an id


def test_a_list_without_ids_that_comes_back_with_an_old_redis_is_sent_once(redis_client: redis.Redis) -> None:
    default = make_session("default")
    legacy_list(redis_client, "default", "aba")
    # Two that are equal to the last byte are two messages.
    redis_client.rpush("queue:default", redis_client.lindex("queue:default", 0))
    old = redis_client.dump("queue:default")
    run()
    assert texts_in_line(default) == ["a", "b", "a", "a"]
    for message in Message.objects.all():
        become(message, Status.SENT)
    redis_client.restore("queue:default", 0, old)
    redis_client.rpush("queue:default", redis_client.lindex("queue:default", 0))
    run()
    # One more of the same bytes than there were is one more message.
    assert texts_in_line(default) == ["a"]
    assert len(set(Message.objects.values_list("client_ref", flat=True))) == 5


def test_equal_bytes_in_the_lists_of_two_sessions_are_two_messages(redis_client: redis.Redis) -> None:
    one, other = make_session("one"), make_session("other")
    legacy_list(redis_client, "one", "a")
    redis_client.rpush("queue:other", redis_client.lindex("queue:one", 0))
    run()
    assert (texts_in_line(one), texts_in_line(other)) == (["a"], ["a"])


def test_a_client_ref_made_of_bytes_is_no_id_of_a_message(redis_client: redis.Redis) -> None:
    legacy_list(redis_client, "gone", "a")
    run(policy=Policy.ARCHIVE)
    with pytest.raises(ValueError, match="badly formed"):
        uuid.UUID(OrphanEntry.objects.get().job_id)
