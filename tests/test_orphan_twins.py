"""One list that came twice, as with an old Redis: two orphans hold the same jobs, and both are restored."""

import uuid
from collections.abc import Callable, Iterable

import pytest
import redis
from django.db import DatabaseError, OperationalError, transaction

from sessions_app.exceptions import Conflict
from sessions_app.models import Message, Orphan, OrphanEntry
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import locks, orphans, tasks
from sessions_app.services.orphans import restoring
from sessions_app.services.sessions import create
from tests.factories import ACTOR, Threads, at_once, is_due, job_ids, make_session, submit, wait_until_blocked
from tests.reconciliation_lab import found, legacy_list, run, stock_queue, texts_in_line

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


def foreign(client: redis.Redis, name: str, texts: Iterable[object]) -> None:
    """A list of the old service, whose ids name no message."""
    for text in texts:
        legacy_list(client, name, [text], id=f"msg_{text}")


def archived(client: redis.Redis, make: Callable[..., object] = foreign, name: str = "gone") -> Orphan:
    make(client, name, range(5))
    run(policy=Policy.ARCHIVE)
    return Orphan.objects.get()


@pytest.mark.parametrize("to", ["beta", "gamma"])
@pytest.mark.parametrize("make", [stock_queue, foreign])
def test_jobs_that_another_restore_is_placing_are_not_placed_again(
    redis_client: redis.Redis, make: Callable[..., object], to: str
) -> None:
    first = archived(redis_client, make)
    second, sessions = twin(first), {name: make_session(name) for name in ("beta", "gamma")}
    with transaction.atomic():
        restoring.restore_chunk(first, sessions["beta"], orphans.Selection(), actor=ACTOR)
        waiting = Threads([lambda: orphans.restore(second, sessions[to], actor=ACTOR)])
        wait_until_blocked()
    (done,) = waiting.join()
    assert (done.restored, done.duplicates) == (0, 5)
    assert texts_in_line(sessions["beta"]) == ["0", "1", "2", "3", "4"]
    assert texts_in_line(sessions["gamma"]) == []


def test_what_a_person_is_restoring_is_not_given_back_by_a_reconciliation_that_finds_the_same_list(
    redis_client: redis.Redis,
) -> None:
    first = archived(redis_client, name="beta")
    gamma = make_session("gamma")
    # With an old Redis the list comes back, and its session is there now.
    beta, _ = create(name="beta", actor=ACTOR, leave=first.pk)
    foreign(redis_client, "beta", range(5))
    with transaction.atomic():
        restoring.restore_chunk(first, gamma, orphans.Selection(), actor=ACTOR)
        waiting = Threads([run])
        wait_until_blocked()
    (done,) = waiting.join()
    assert found(done) == [("legacy_queue", "beta", 5, "archived")]
    assert (len(texts_in_line(gamma)), texts_in_line(beta)) == (5, [])


def test_large_twins_that_are_restored_at_once_are_both_restored_to_the_end(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 2)
    stock_queue(redis_client, "gone", range(40))
    run()
    first, beta, gamma = Orphan.objects.get(), make_session("beta"), make_session("gamma")
    second = twin(first)
    done = at_once(
        lambda: orphans.restore(first, beta, actor=ACTOR), lambda: orphans.restore(second, gamma, actor=ACTOR)
    )
    assert [type(each) for each in done] == [orphans.Restored, orphans.Restored], done
    assert (sum(each.restored for each in done), sum(each.duplicates for each in done)) == (40, 40)
    assert sorted(texts_in_line(beta) + texts_in_line(gamma)) == sorted(map(str, range(40)))


@pytest.mark.parametrize("is_task", [False, True])
def test_nobody_waits_until_a_long_list_was_looked_through_of_which_all_is_known(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, is_task: bool
) -> None:
    monkeypatch.setattr(restoring, "CHUNK", 2)
    first = archived(redis_client)
    second, gamma = twin(first), make_session("gamma")
    orphans.restore(first, make_session("beta"), actor=ACTOR)
    selection, marked = orphans.Selection(), OrphanEntry.objects.exclude(duplicate_of=None)
    assert restoring.restore_chunk(second, gamma, selection, actor=ACTOR) is None
    assert marked.count() == 2
    if is_task:
        task = orphans.restore_later(second, gamma, selection=selection, with_duplicates=False, actor=ACTOR)
        tasks.run(task.pk)
        task.refresh_from_db()
        assert (task.state, task.result) == ("done", "0 restored to gamma, 5 left")
    else:
        assert orphans.restore(second, gamma, actor=ACTOR).duplicates == 5
    assert marked.count() == 5 and texts_in_line(gamma) == []


def test_a_restore_that_stands_still_in_the_middle_keeps_no_other_from_its_own(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LONGEST_SECONDS", 1)
    first = archived(redis_client)
    second, beta, gamma = twin(first), make_session("beta"), make_session("gamma")
    with pytest.raises(DatabaseError), transaction.atomic():
        restoring.restore_chunk(first, beta, orphans.Selection(), actor=ACTOR)
        (done,) = at_once(lambda: orphans.restore(second, gamma, actor=ACTOR))
    assert done.restored == 5
    assert (texts_in_line(beta), len(texts_in_line(gamma))) == ([], 5)


def test_a_restore_that_waits_for_a_row_that_somebody_keeps_keeps_no_other_from_its_own(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LONGEST_SECONDS", 1)
    first = archived(redis_client)
    second, beta, gamma = twin(first), make_session("beta"), make_session("gamma")
    with transaction.atomic():
        Orphan.objects.select_for_update().get(pk=first.pk)
        waiting = Threads([lambda: restoring.restore_chunk(first, beta, orphans.Selection(), actor=ACTOR)])
        wait_until_blocked()
        (done,) = at_once(lambda: orphans.restore(second, gamma, actor=ACTOR))
        (error,) = waiting.join()
    assert isinstance(error, OperationalError) and "lock timeout" in str(error)
    assert (done.restored, texts_in_line(beta)) == (5, [])


def test_a_restore_says_so_when_somebody_else_has_made_a_message_of_a_job_meanwhile(
    redis_client: redis.Redis,
) -> None:
    orphan, beta = archived(redis_client, stock_queue), make_session("beta")
    (message,) = submit(make_session("gamma"), "made by other hands")
    with transaction.atomic():
        Message.objects.filter(pk=message.pk).update(id=OrphanEntry.objects.order_by("index")[3].job_id)
        waiting = Threads([lambda: orphans.restore(orphan, beta, actor=ACTOR)])
        wait_until_blocked()
    (error,) = waiting.join()
    assert isinstance(error, Conflict) and "wa_message_pkey" in error.detail
    assert Message.objects.count() == 1
    done = orphans.restore(orphan, beta, actor=ACTOR)
    assert (done.restored, done.duplicates) == (4, 1)


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
