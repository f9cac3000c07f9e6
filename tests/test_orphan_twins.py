"""One list that came twice, as with an old Redis: two orphans hold the same jobs, and both are restored."""

import uuid
from collections.abc import Sequence

import pytest
import redis
from django.db import OperationalError, transaction

from sessions_app.models import Message, Orphan, OrphanEntry
from sessions_app.services import orphans
from sessions_app.services.orphans import restoring
from tests.factories import ACTOR, Threads, at_once, is_due, job_ids, make_session, wait_until_blocked
from tests.reconciliation_lab import legacy_list, run, stock_queue, texts_in_line

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ready")]


def twin(orphan: Orphan) -> Orphan:
    entries = list(OrphanEntry.objects.filter(orphan=orphan).order_by("index"))
    second = Orphan.objects.get(pk=orphan.pk)
    second.pk, second.staging_key, second._state.adding = uuid.uuid4(), b"", True
    second.save(force_insert=True)
    for entry in entries:
        entry.pk, entry.orphan, entry._state.adding = None, second, True
    OrphanEntry.objects.bulk_create(entries)
    return second


def test_jobs_that_another_restore_places_after_they_were_looked_for_are_not_placed_again(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock_queue(redis_client, "gone", range(5))
    run()
    first, beta, gamma = Orphan.objects.get(), make_session("beta"), make_session("gamma")
    second, look = twin(first), restoring.mark_known

    def look_and_be_late(entries: Sequence[int]) -> set[int]:
        monkeypatch.setattr(restoring, "mark_known", look)
        marked = look(entries)
        at_once(lambda: orphans.restore(first, beta, actor=ACTOR))
        return marked

    monkeypatch.setattr(restoring, "mark_known", look_and_be_late)
    done = orphans.restore(second, gamma, actor=ACTOR)
    assert (done.restored, done.duplicates) == (0, 5)
    assert texts_in_line(beta) == ["0", "1", "2", "3", "4"] and texts_in_line(gamma) == []


def test_duplicates_that_are_wanted_get_ids_of_their_own_also_when_their_restore_has_to_wait(
    redis_client: redis.Redis,
) -> None:
    stock_queue(redis_client, "gone", range(5))
    run()
    first, beta = Orphan.objects.get(), make_session("beta")
    second = twin(first)
    with transaction.atomic():
        restoring.restore_chunk(first, beta, orphans.Selection(), actor=ACTOR, with_duplicates=True)
        waiting = Threads([lambda: orphans.restore(second, beta, actor=ACTOR, with_duplicates=True)])
        wait_until_blocked()
    (done,) = waiting.join()
    assert done.restored == 5
    assert Message.objects.count() == 10


def test_what_is_restored_while_postgresql_has_no_connection_left_is_sent_all_the_same(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock_queue(redis_client, "gone", range(5))
    run()
    orphan, beta = Orphan.objects.get(), make_session("beta")

    def none_left(*args: object, **options: object) -> None:
        raise OperationalError("no connection is left")

    with monkeypatch.context() as patch:
        patch.setattr(Message.objects, "open", none_left)
        orphans.restore(orphan, beta, actor=ACTOR)
    assert is_due(redis_client, "beta") and job_ids(redis_client, "beta") == []


def test_an_id_that_is_one_but_for_its_end_is_somebody_elses(redis_client: redis.Redis) -> None:
    legacy_list(redis_client, "gone", ["a"], id=f"{uuid.uuid4()}\n")
    legacy_list(redis_client, "gone", ["b"], id=f"{{{uuid.uuid4()}}}")
    run()
    beta = make_session("beta")
    assert orphans.restore(Orphan.objects.get(), beta, actor=ACTOR).restored == 2
    assert texts_in_line(beta) == ["a", "b"]
