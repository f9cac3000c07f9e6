"""Orphans: archived whole, restored in order and once, purged only as confirmed; what is old waits for a person."""

import csv
import io
import json
import uuid
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis
from django.utils import timezone

from sessions_app.exceptions import Conflict, SessionNotFound
from sessions_app.models import AuditEntry, Event, Message, Orphan, OrphanEntry, OrphanState, Session, Status
from sessions_app.queues import keys
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import orphans, sessions
from sessions_app.services.orphans import restoring
from tests.factories import ACTOR, PHONE, at_once, become, job_ids, line, make_session, submit
from tests.orphan_lab import LEGACY, RQ, rq_archived
from tests.reconciliation_lab import (
    found,
    legacy_entry,
    legacy_list,
    picture_of_postgres,
    picture_of_redis,
    run,
    stock_queue,
    texts_in_line,
    texts_of,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ready")]


def everywhere(client: redis.Redis, text: str) -> int:
    """In how many places a text stands: rows that may be sent, entries that wait, lists in Redis without a row."""
    rows = Message.objects.filter(text=text).exclude(status__in=[Status.ORPHANED, Status.CANCELLED]).count()
    entries = OrphanEntry.objects.filter(content__text=text, restored_at=None).count()
    raw = [entry for key in client.scan_iter("queue:*") for entry in client.lrange(key, 0, -1)]
    return rows + entries + sum(json.loads(entry)["message"] == text for entry in raw)


def test_it_is_restored_into_the_session_of_its_name_in_order_with_the_ids_of_its_jobs(
    redis_client: redis.Redis,
) -> None:
    ids = stock_queue(redis_client, "gone", "abcde", hours_ago=48)
    run()
    session, adopted = sessions.create(name="gone", actor=ACTOR)
    assert adopted is not None
    assert (adopted.restored, [orphan.messages for orphan in adopted.waiting]) == (0, [5])
    (message,) = submit(session, "first")
    done = orphans.restore(adopted.waiting[0], session, actor=ACTOR)
    assert done == orphans.Restored("gone", restored=5, duplicates=0, left=0)
    assert texts_in_line(session) == ["first", *"abcde"]
    assert line(session) == [str(message.pk), *ids] == job_ids(redis_client, "gone")
    orphan = Orphan.objects.get()
    assert (orphan.state, orphan.messages, orphan.resolved_by) == ("restored", 0, ACTOR.label)
    assert Event.objects.filter(kind="queue.restored", session=session).count() == 1
    assert AuditEntry.objects.get(action="restore orphan").count == 5
    assert found(run()) == []


def test_it_is_restored_into_another_session(redis_client: redis.Redis) -> None:
    orphan = rq_archived(redis_client, "abcde")
    beta = make_session("beta")
    assert orphans.restore(orphan, beta, actor=ACTOR).restored == 5
    assert texts_in_line(beta) == list("abcde")
    assert orphans.entries(orphan)[2].message_id == Message.objects.in_order()[2].pk


@pytest.mark.fault(16)
def test_a_live_one_is_archived_first(redis_client: redis.Redis) -> None:
    legacy_list(redis_client, "gone", "abc")
    run()
    orphan = Orphan.objects.get()
    assert orphan.state == OrphanState.DETECTED
    assert [entry.text for entry in orphans.entries(orphan)] == list("abc")
    beta = make_session("beta")
    assert orphans.restore(orphan, beta, actor=ACTOR).restored == 3
    assert texts_in_line(beta) == list("abc")
    assert not redis_client.exists(LEGACY)
    assert list(redis_client.scan_iter("waqueue:archive:*")) == []
    assert all(everywhere(redis_client, text) == 1 for text in "abc")


def test_what_is_chosen_by_place_is_restored_in_the_old_order_and_the_rest_waits(redis_client: redis.Redis) -> None:
    orphan = rq_archived(redis_client, "abcde")
    beta = make_session("beta")
    done = orphans.restore(orphan, beta, actor=ACTOR, selection=orphans.Selection(indexes=(3, 1)))
    assert (done.restored, done.left, texts_in_line(beta)) == (2, 3, ["b", "d"])
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages) == ("archived", 3)
    done = orphans.restore(orphan, beta, actor=ACTOR, selection=orphans.Selection(indexes=(3, 1, 0, 99)))
    assert (done.restored, texts_in_line(beta)) == (1, ["b", "d", "a"])
    assert orphans.restore(orphan, beta, actor=ACTOR).restored == 2
    assert texts_in_line(beta) == ["b", "d", "a", "c", "e"]
    assert Orphan.objects.get().resolution.count("messages restored to beta") == 3


def test_what_is_chosen_by_age_is_restored_and_what_has_no_date_is_never_young(redis_client: redis.Redis) -> None:
    for text, hours in (("a", 30), ("b", 3), ("c", 1), ("d", None), ("e", 2)):
        redis_client.rpush(LEGACY, legacy_entry(text, hours_ago=hours))
    run(policy=Policy.ARCHIVE)
    beta = make_session("beta")
    young = orphans.Selection(newer_than=timezone.now() - timedelta(hours=2, minutes=30))
    assert orphans.restore(Orphan.objects.get(), beta, actor=ACTOR, selection=young).left == 3
    assert texts_in_line(beta) == ["c", "e"]


def test_more_than_one_part_is_restored_in_order(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 3)
    orphan = rq_archived(redis_client, "abcdefghij")
    beta = make_session("beta")
    assert orphans.restore(orphan, beta, actor=ACTOR).restored == 10
    assert texts_in_line(beta) == list("abcdefghij")
    assert job_ids(redis_client, "beta") == line(beta)


def test_what_cannot_be_read_is_never_sent_and_is_shown_escaped(redis_client: redis.Redis) -> None:
    redis_client.rpush(LEGACY, legacy_entry("a"), b"\x80\x04\x95\xff\x00", b"", legacy_entry("b"))
    run(policy=Policy.ARCHIVE)
    orphan, beta = Orphan.objects.get(), make_session("beta")
    assert orphan.unreadable == 2
    done = orphans.restore(orphan, beta, actor=ACTOR, with_duplicates=True)
    assert (done.restored, done.left, texts_in_line(beta)) == (2, 2, ["a", "b"])
    chosen = orphans.Selection(indexes=(1, 2))
    assert orphans.restore(orphan, beta, actor=ACTOR, selection=chosen, with_duplicates=True).restored == 0
    assert [(entry.readable, entry.error, entry.raw) for entry in orphans.entries(orphan, start=1, count=2)] == [
        (False, "no JSON", r"\x80\x04\x95\xff\x00"), (False, "empty", ""),
    ]  # fmt: skip
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages, orphan.unreadable) == ("archived", 2, 2)


def test_what_was_sent_already_is_marked_and_skipped_unless_asked_for(redis_client: redis.Redis) -> None:
    sent = submit(make_session("beta"), "a", "b", "c", client_ref="ref")
    become(sent[0], Status.SENT)
    become(sent[1], Status.FAILED)
    redis_client.rpush(
        LEGACY, legacy_entry("a", client_ref="ref"), legacy_entry("b", client_ref="ref"),
        legacy_entry("c", client_ref="ref"), legacy_entry("a", client_ref="other"),
        legacy_entry("a", client_ref="ref", phone="51911111111"),
    )  # fmt: skip
    run(policy=Policy.ARCHIVE)
    orphan, gamma = Orphan.objects.get(), make_session("gamma")
    # One that is still on its way would go twice as well; one that failed would not.
    assert [entry.duplicate_of for entry in orphans.entries(orphan)] == [sent[0].pk, None, sent[2].pk, None, None]
    done = orphans.restore(orphan, gamma, actor=ACTOR)
    assert (done.restored, done.duplicates, done.left) == (3, 2, 2)
    assert texts_in_line(gamma) == ["b", "a", "a"]
    assert orphans.restore(orphan, gamma, actor=ACTOR, with_duplicates=True).restored == 2
    assert texts_in_line(gamma) == ["b", "a", "a", "a", "c"]
    assert Orphan.objects.get().state == "restored"


@pytest.mark.fault(27)
def test_duplicates_are_looked_for_in_parts_however_many_there_are(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at, find = [], orphans.archiving.find_known
    monkeypatch.setattr(orphans.archiving.lists, "read", partial(orphans.archiving.lists.read, count=2))
    monkeypatch.setattr(
        orphans.archiving, "find_known", lambda entries: looked_at.append(len(entries)) or find(entries)
    )
    submit(make_session("beta"), *"abde", client_ref="ref")
    legacy_list(redis_client, "gone", "abcdefg", client_ref="ref")
    run(policy=Policy.ARCHIVE)
    marked = [entry.text for entry in orphans.entries(Orphan.objects.get()) if entry.duplicate_of is not None]
    assert marked == list("abde")
    assert looked_at == [2, 2, 2, 1]


def test_what_was_sent_since_it_was_archived_is_skipped_too(redis_client: redis.Redis) -> None:
    redis_client.rpush(LEGACY, legacy_entry("a", id="msg_1"), legacy_entry("b", id="msg_2"))
    run(policy=Policy.ARCHIVE)
    become(submit(make_session("beta"), "a", client_ref="msg_1")[0], Status.DELIVERED)
    gamma = make_session("gamma")
    done = orphans.restore(Orphan.objects.get(), gamma, actor=ACTOR)
    assert (done.restored, done.duplicates, texts_in_line(gamma)) == (1, 1, ["b"])


def test_an_id_is_known_however_it_is_spelled(redis_client: redis.Redis) -> None:
    (sent,) = submit(make_session("beta"), "a")
    become(sent, Status.SENT)
    redis_client.rpush(LEGACY, legacy_entry("a", id=str(sent.pk).upper()), legacy_entry("a", id=sent.pk.hex))
    run(policy=Policy.ARCHIVE)
    done = orphans.restore(Orphan.objects.get(), make_session("gamma"), actor=ACTOR)
    assert (done.restored, done.duplicates) == (0, 2)


@pytest.mark.fault(10)
def test_a_queue_that_comes_back_with_an_old_redis_is_not_sent_again(redis_client: redis.Redis) -> None:
    stock_queue(redis_client, "gone", "abc")
    redis_client.rpush("queue:lost", legacy_entry("x", id="msg_1"), legacy_entry("y", id="msg_2"))
    keys_before = {key: redis_client.dump(key) for key in (*redis_client.scan_iter("rq:*"), b"queue:lost")}
    beta = make_session("beta")

    def archive_and_restore(*, name: str) -> int:
        run(policy=Policy.ARCHIVE)
        orphan = Orphan.objects.get(session_name=name, state=OrphanState.ARCHIVED)
        return orphans.restore(orphan, beta, actor=ACTOR).restored

    run(policy=Policy.ARCHIVE)
    # An old Redis comes back while they wait in the first orphan, and once more after they were restored.
    for _ in range(2):
        for key, value in keys_before.items():
            redis_client.restore(key, 0, value, replace=True)
        run(policy=Policy.ARCHIVE)
        for orphan in Orphan.objects.filter(state=OrphanState.ARCHIVED).order_by("first_seen_at"):
            orphans.restore(orphan, beta, actor=ACTOR)
        assert sorted(texts_in_line(beta)) == list("abcxy")


def test_a_job_that_stands_twice_in_its_list_is_sent_once(redis_client: redis.Redis) -> None:
    ids = stock_queue(redis_client, "gone", "abc")
    redis_client.rpush(RQ, ids[0])
    beta = make_session("beta")
    run()
    done = orphans.restore(Orphan.objects.get(), beta, actor=ACTOR)
    assert texts_in_line(beta) == ["a", "b", "c"]
    assert (done.restored, done.duplicates, done.left) == (3, 1, 1)


def test_restoring_twice_is_refused(redis_client: redis.Redis) -> None:
    orphan = rq_archived(redis_client, "abcde")
    beta = make_session("beta")
    orphans.restore(orphan, beta, actor=ACTOR)
    with pytest.raises(Conflict, match="this orphan is restored"):
        orphans.restore(orphan, beta, actor=ACTOR)
    assert texts_in_line(beta) == list("abcde")


def test_nothing_is_restored_into_a_session_that_was_deleted_meanwhile(redis_client: redis.Redis) -> None:
    orphan = rq_archived(redis_client, "abcde")
    beta = make_session("beta")
    sessions.delete(beta, actor=ACTOR)
    with pytest.raises(SessionNotFound):
        orphans.restore(orphan, beta, actor=ACTOR)
    assert Message.objects.count() == 0
    assert OrphanEntry.objects.filter(restored_at=None).count() == 5


@pytest.mark.fault(16)
def test_two_restores_at_once_send_each_message_once(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 2)
    orphan = rq_archived(redis_client, "abcdefghij")
    beta, gamma = make_session("beta"), make_session("gamma")
    results = at_once(*(lambda to=to: orphans.restore(orphan, to, actor=ACTOR) for to in (beta, gamma, beta)))
    assert all(isinstance(result, orphans.Restored | Conflict) for result in results), results
    assert sorted(texts_in_line(beta) + texts_in_line(gamma)) == list("abcdefghij")
    assert texts_in_line(beta) == sorted(texts_in_line(beta))
    assert Orphan.objects.get().state == "restored"
    assert all(everywhere(redis_client, text) == 1 for text in "abcdefghij")


def test_two_archivings_at_once_copy_each_message_once(redis_client: redis.Redis) -> None:
    legacy_list(redis_client, "gone", range(1200))
    run()
    orphan = Orphan.objects.get()
    results = at_once(*[lambda: orphans.archive(orphan)] * 3)
    assert all(isinstance(result, Orphan | Conflict) for result in results), results
    assert texts_of(Orphan.objects.get(state=OrphanState.ARCHIVED)) == [str(number) for number in range(1200)]
    assert [key for key in redis_client.scan_iter() if b"gone" in key] == []


@pytest.mark.fault(18)
@pytest.mark.parametrize("expected", [4, 6, 0])
def test_a_purge_of_another_number_than_there_is_now_is_refused(expected: int, redis_client: redis.Redis) -> None:
    orphan = rq_archived(redis_client, "abcde")
    before = picture_of_postgres()
    with pytest.raises(orphans.OrphanChanged, match="there are 5 now"):
        orphans.purge(orphan, expected=expected, actor=ACTOR)
    with pytest.raises(orphans.OrphanChanged):
        orphans.purge_later(orphan, expected=expected, selection=orphans.Selection(), actor=ACTOR)
    assert picture_of_postgres() == before


@pytest.mark.fault(18)
@pytest.mark.parametrize("kind", ["rq", "legacy"])
def test_a_tenth_message_in_a_live_orphan_stops_the_purge_of_nine(kind: str, redis_client: redis.Redis) -> None:
    make = stock_queue if kind == "rq" else legacy_list
    make(redis_client, "gone", range(9))
    run(policy=Policy.REPORT)
    orphan = Orphan.objects.get()
    assert orphan.messages == 9
    make(redis_client, "gone", ["tenth"])
    before = picture_of_redis(redis_client)
    with pytest.raises(orphans.OrphanChanged, match="9 messages were confirmed, but there are 10 now") as refused:
        orphans.purge(orphan, expected=9, actor=ACTOR)
    assert refused.value.extra["messages"] == 10
    assert picture_of_redis(redis_client) == before
    assert orphans.purge(orphan, expected=10, actor=ACTOR) == 10
    assert not redis_client.exists(RQ, LEGACY)
    assert list(redis_client.scan_iter("rq:job:*")) == []


@pytest.mark.fault(18)
def test_one_that_arrives_in_the_middle_of_a_purge_is_a_new_orphan(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy_list(redis_client, "gone", range(9))
    run()
    rename = orphans.archiving.lists.rename_away

    def rename_and_arrive(*args: Any, **options: Any) -> bool:
        done = rename(*args, **options)
        legacy_list(redis_client, "gone", ["tenth"])
        return done

    monkeypatch.setattr(orphans.archiving.lists, "rename_away", rename_and_arrive)
    assert orphans.purge(Orphan.objects.get(), expected=9, actor=ACTOR) == 9
    assert redis_client.llen(LEGACY) == 1
    run()
    assert Orphan.objects.get(state=OrphanState.DETECTED).messages == 1


def test_chosen_ones_are_purged_and_what_was_restored_is_no_part_of_the_count(redis_client: redis.Redis) -> None:
    orphan = rq_archived(redis_client, "abcde")
    beta = make_session("beta")
    orphans.restore(orphan, beta, actor=ACTOR, selection=orphans.Selection(indexes=(0,)))
    chosen = orphans.Selection(indexes=(0, 1, 2))
    with pytest.raises(orphans.OrphanChanged):
        orphans.purge(orphan, expected=3, actor=ACTOR, selection=chosen)
    assert orphans.purge(orphan, expected=2, actor=ACTOR, selection=chosen) == 2
    assert texts_in_line(beta) == ["a"]
    assert texts_of(orphan) == ["a", "d", "e"]
    orphans.purge(orphan, expected=2, actor=ACTOR)
    orphan.refresh_from_db()
    assert (orphan.state, orphan.resolution) == (
        "purged", "1 messages restored to beta; 2 messages purged; 2 messages purged",
    )  # fmt: skip
    assert list(AuditEntry.objects.filter(action="purge orphan").order_by("id").values_list("count", flat=True)) == [
        2,
        2,
    ]
    assert Event.objects.filter(kind="queue.purged").count() == 2
    with pytest.raises(Conflict, match="this orphan is purged"):
        orphans.purge(orphan, expected=0, actor=ACTOR)


def test_the_export_is_whole_in_order_and_no_formula(redis_client: redis.Redis) -> None:
    redis_client.rpush(LEGACY, legacy_entry("=1+1"), b"broken", *(legacy_entry(number) for number in range(600)))
    run()
    orphan = Orphan.objects.get()
    for _ in ("live", "archived"):
        rows = [json.loads(row) for row in orphans.export_rows(orphan, "jsonl")]
        assert [row["index"] for row in rows] == list(range(602))
        assert [row["text"] for row in rows[2:]] == [str(number) for number in range(600)]
        assert (rows[0]["to"], rows[0]["text"], rows[1]["raw"]) == (PHONE, "=1+1", "broken")
        table = list(csv.DictReader(io.StringIO("".join(orphans.export_rows(orphan, "csv")))))
        assert (len(table), table[0]["text"], table[0]["to"]) == (602, "'=1+1", PHONE)
        orphan = orphans.archive(orphan) if orphan.state == OrphanState.DETECTED else orphan


def test_an_id_that_comes_again_with_other_content_is_kept_beside_the_first(redis_client: redis.Redis) -> None:
    session = make_session("gone")
    redis_client.rpush(RQ, "some-id")
    run()
    job = stock_queue(redis_client, "elsewhere", "a")[0]
    redis_client.rename(keys.job_key(job), keys.job_key("some-id"))
    redis_client.hset(keys.job_key("some-id"), "origin", "wa:gone")
    redis_client.rpush(RQ, "some-id")
    redis_client.delete("rq:queue:wa:elsewhere")
    run()
    assert [entry.readable for entry in orphans.entries(Orphan.objects.get(session=session))] == [False, True]


@pytest.mark.fault(16)
def test_what_was_copied_in_part_and_then_lost_does_not_swallow_what_came_later(redis_client: redis.Redis) -> None:
    legacy_list(redis_client, "gone", "abc")
    run()
    orphan = Orphan.objects.get()
    orphan.staging_key = b"waqueue:archive:1:queue:gone"
    orphan.save()
    OrphanEntry.objects.create(orphan=orphan, index=0, raw=b"x", content={"text": "x"}, readable=True)
    redis_client.delete(LEGACY)
    legacy_list(redis_client, "gone", "uvw")
    run(policy=Policy.ARCHIVE)
    run(policy=Policy.ARCHIVE)
    assert sorted(texts_of(orphan) for orphan in Orphan.objects.filter(state="archived")) == [["u", "v", "w"], ["x"]]


def test_a_message_id_is_a_valid_uuid_when_the_job_had_none(redis_client: redis.Redis) -> None:
    redis_client.rpush(LEGACY, legacy_entry("a", id="msg_0001"))
    run(policy=Policy.ARCHIVE)
    orphans.restore(Orphan.objects.get(), make_session("beta"), actor=ACTOR)
    message = Message.objects.get()
    assert (message.client_ref, message.attempts, uuid.UUID(str(message.pk)).version) == ("msg_0001", 0, 7)
    assert Session.objects.get().name == "beta"
