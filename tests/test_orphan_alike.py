"""Entries of one list that are one message are sent once, wherever the border between two parts of a restore is."""

import json
import zlib
from typing import Any

import pytest
import redis

from sessions_app.models import AuditEntry, Message, Orphan, Status
from sessions_app.queues import keys
from sessions_app.queues.jobs import JOB_FUNCTION
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import orphans
from sessions_app.services.orphans import restoring
from tests.factories import ACTOR, PHONE, in_an_hour, make_session
from tests.reconciliation_lab import legacy_entry, run, stock_queue, texts_in_line
from tests.test_orphan_terms import past

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ready", "parts")]

LEGACY = "queue:gone"


@pytest.fixture(params=[1000, 3, 1])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "CHUNK", request.param)


def the_orphan() -> Orphan:
    run(policy=Policy.ARCHIVE)
    return Orphan.objects.get()


def restored(orphan: Orphan, **options: Any) -> list[str]:
    """What is in the line after a restore, which was foreseen."""
    foreseen, beta = orphans.preview(orphan, orphans.Selection(), **options), make_session("beta")
    done = orphans.restore(orphan, beta, actor=ACTOR, **options)
    assert foreseen is not None
    assert (foreseen.restored, foreseen.duplicates) == (done.restored, done.duplicates)
    return texts_in_line(beta)


def fill(client: redis.Redis) -> None:
    client.rpush(
        LEGACY,
        legacy_entry("a", id="msg_1"), legacy_entry("b", id="msg_2"), legacy_entry("a", id="msg_1"),
        # Somebody uses his ids anew.
        legacy_entry("c", id="msg_1"), legacy_entry("a", id="msg_1", phone="51911111111"),
        legacy_entry("b", id="msg_2"), legacy_entry("a", id="msg_1"),
    )  # fmt: skip


def test_an_id_of_somebody_elses_that_stands_twice_in_a_list_with_the_same_message_is_sent_once(
    redis_client: redis.Redis,
) -> None:
    fill(redis_client)
    orphan = the_orphan()
    assert restored(orphan) == ["a", "b", "c", "a"]
    # The others are kept for a person to see.
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages) == ("archived", 3)


def test_whoever_wants_the_second_one_as_well_gets_it(redis_client: redis.Redis) -> None:
    fill(redis_client)
    assert restored(the_orphan(), with_duplicates=True) == ["a", "b", "a", "c", "a", "b", "a"]


def test_two_without_an_id_are_two_messages(redis_client: redis.Redis) -> None:
    redis_client.rpush(LEGACY, *[legacy_entry("a", hours_ago=None)] * 5)
    assert restored(the_orphan()) == ["a"] * 5


def test_jobs_with_one_id_of_the_clients_are_one_message(redis_client: redis.Redis) -> None:
    jobs = stock_queue(redis_client, "gone", "abab")
    for job, reference in zip(jobs, ["r", "r", "r", "other"], strict=True):
        rewrite(redis_client, job, "other.app.send", client_ref=reference)
    assert restored(the_orphan()) == ["a", "b", "b"]


def test_what_has_expired_makes_no_other_one_a_second(redis_client: redis.Redis) -> None:
    jobs = stock_queue(redis_client, "gone", "aaabaac")
    ends = [past(), past(), in_an_hour(), in_an_hour(), past(), in_an_hour(), in_an_hour()]
    for job, end in zip(jobs, ends, strict=True):
        rewrite(redis_client, job, JOB_FUNCTION, client_ref="r", expires_at=end.isoformat())
    # Each stands where it stood, also those of which an earlier one has expired.
    assert restored(the_orphan()) == ["a", "b", "c"]
    assert Message.objects.filter(status=Status.EXPIRED).count() == 2


def test_very_many_that_have_expired_and_are_alike_are_restored_by_few_acts(redis_client: redis.Redis) -> None:
    jobs = stock_queue(redis_client, "gone", "a" * 30)
    for job in jobs:
        rewrite(redis_client, job, JOB_FUNCTION, client_ref="r", expires_at=past().isoformat())
    assert restored(the_orphan()) == []
    assert Message.objects.filter(status=Status.EXPIRED).count() == 30
    assert AuditEntry.objects.filter(action="restore orphan").count() == -(-30 // restoring.CHUNK)


def rewrite(client: redis.Redis, job: str, function: str, **fields: Any) -> None:
    """Have a job say more."""
    call = json.loads(zlib.decompress(client.hget(keys.job_key(job), "data")))
    call[0], call[3] = function, {"to": PHONE, **call[3], **fields}
    client.hset(keys.job_key(job), "data", zlib.compress(json.dumps(call).encode()))
