"""Orphans while somebody else is at them: an act takes what was there when it was asked for, and says what it did."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.db import connection, transaction
from rq import Queue
from rq.serializers import JSONSerializer

from sessions_app.exceptions import Conflict
from sessions_app.models import (
    AuditEntry,
    Orphan,
    OrphanEntry,
    OrphanState,
    Session,
)
from sessions_app.queues import keys
from sessions_app.reconciliation import compare
from sessions_app.services import orphans, sessions, tasks
from sessions_app.services.locks import lock_name
from sessions_app.services.orphans import archiving, purging, restoring
from sessions_app.services.orphans.confirmed import restore_confirmed
from tests.factories import ACTOR, Threads, at_once, make_session, wait_until_blocked
from tests.orphan_lab import RQ, rq_archived, rq_detected
from tests.reconciliation_lab import legacy_list, picture_of_redis, run, stock_queue, texts_in_line, texts_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ready")]


class Slow:
    """An archiving in another thread that stands still after it has read the list."""

    def __init__(self, orphan: Orphan, monkeypatch: pytest.MonkeyPatch) -> None:
        self._reading, self._going = threading.Event(), threading.Event()
        read = archiving.lists.read

        def wait(*args: Any, **options: Any) -> Any:
            parsed = read(*args, **options)
            if threading.current_thread() is self._thread and not self._reading.is_set():
                self._reading.set()
                assert self._going.wait(30)
            return parsed

        monkeypatch.setattr(archiving.lists, "read", wait)
        self._thread = threading.Thread(target=self._run, args=(orphan,))
        self.result: Any = None
        self._thread.start()
        assert self._reading.wait(30)

    def _run(self, orphan: Orphan) -> None:
        try:
            self.result = orphans.archive(orphan)
        except Exception as error:
            self.result = error
        finally:
            connection.close()

    def finish(self) -> None:
        self._going.set()
        self._thread.join(30)
        assert isinstance(self.result, Orphan), self.result


# An archiving that is under way elsewhere


def test_what_was_purged_while_another_archiving_was_under_way_does_not_come_back(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = rq_detected(redis_client)
    slow = Slow(orphan, monkeypatch)
    orphans.archive(orphan)
    assert orphans.purge(orphan, expected=9, actor=ACTOR) == 9
    slow.finish()
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages, orphan.resolution) == ("purged", 0, "9 messages purged")
    assert not OrphanEntry.objects.exists()
    session, _ = sessions.create(name="gone", actor=ACTOR)
    assert texts_in_line(session) == []


def test_what_was_restored_while_another_archiving_was_under_way_stays_restored(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan, beta = rq_detected(redis_client), make_session("beta")
    slow = Slow(orphan, monkeypatch)
    assert orphans.restore(orphan, beta, actor=ACTOR).restored == 9
    slow.finish()
    orphan.refresh_from_db()
    assert (orphan.state, orphan.resolution) == ("restored", "9 messages restored to beta")
    assert OrphanEntry.objects.filter(restored_at=None).count() == 0


@pytest.mark.fault(17)
@pytest.mark.parametrize("begin", [orphans.archive, archiving.set_aside])
def test_an_archiving_waits_for_who_makes_a_session_of_its_name_and_leaves_its_queue_alone(
    redis_client: redis.Redis, begin: Callable[[Orphan], Any]
) -> None:
    orphan = rq_detected(redis_client)
    orphan.staging_key = archiving.new_staging_key(RQ.encode()) if begin is archiving.set_aside else b""
    orphan.save()
    before = picture_of_redis(redis_client)
    with transaction.atomic():
        lock_name("gone")
        thread = Threads([lambda: begin(orphan)])
        wait_until_blocked()
        Session.objects.create(name="gone")
    (result,) = thread.join()
    assert isinstance(result, Conflict) or begin is archiving.set_aside, result
    assert picture_of_redis(redis_client) == before


def test_redis_is_not_cleaned_before_the_copy_is_committed(redis_client: redis.Redis) -> None:
    orphan = rq_detected(redis_client)
    jobs = sorted(redis_client.scan_iter("rq:job:*"))
    with pytest.raises(RuntimeError), transaction.atomic():
        orphans.archive(orphan)
        raise RuntimeError
    (staged,) = redis_client.scan_iter("waqueue:archive:*")
    assert redis_client.llen(staged) == 9
    assert sorted(redis_client.scan_iter("rq:job:*")) == jobs
    assert not OrphanEntry.objects.exists()


# An id that is taken again


def test_a_job_whose_id_is_taken_again_while_it_is_archived_keeps_its_new_content(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue("wa:gone", connection=redis_client, serializer=JSONSerializer)
    for job, text in (("report", "october"), ("other", "once")):
        queue.enqueue("a.b", to="+51930246633", text=text, job_id=job)
    conclude = archiving._conclude

    def conclude_late(orphan: Orphan, copied: int) -> None:
        conclude(orphan, copied)
        monkeypatch.undo()
        queue.enqueue("a.b", to="+51930246633", text="november", job_id="report")

    monkeypatch.setattr(archiving, "_conclude", conclude_late)
    run()
    assert [texts_of(orphan) for orphan in Orphan.objects.all()] == [["october", "once"]]
    assert redis_client.exists(keys.job_key("report")) and not redis_client.exists(keys.job_key("other"))
    monkeypatch.setattr(compare, "_SECOND_LOOK_SECONDS", 0)
    run()
    assert sorted(texts_of(orphan) for orphan in Orphan.objects.all()) == [["november"], ["october", "once"]]


# What arrives after a person said yes


def unknown(client: redis.Redis, texts: str) -> Orphan:
    """Jobs of a known session that no row knows: that orphan grows."""
    stock_queue(client, "alpha", texts)
    run()
    return Orphan.objects.filter(source="unknown_jobs").latest("pk")


def test_a_purge_in_the_background_leaves_what_came_after_it_was_confirmed(redis_client: redis.Redis) -> None:
    make_session()
    orphan = unknown(redis_client, "abc")
    task = orphans.purge_later(orphan, expected=3, selection=orphans.Selection(), actor=ACTOR)
    assert unknown(redis_client, "L") == orphan
    tasks.run(task.pk)
    task.refresh_from_db()
    assert (task.state, task.result) == ("done", "3 purged")
    assert texts_of(orphan) == ["L"]


@pytest.mark.fault(14)
def test_a_restore_in_the_background_leaves_what_came_after_it_was_confirmed(redis_client: redis.Redis) -> None:
    alpha = make_session()
    orphan = unknown(redis_client, "abc")
    task = orphans.restore_later(orphan, alpha, selection=orphans.Selection(), with_duplicates=False, actor=ACTOR)
    assert unknown(redis_client, "L") == orphan
    tasks.run(task.pk)
    assert texts_in_line(alpha) == ["a", "b", "c"]


@pytest.mark.parametrize("act", ["restore", "purge"])
def test_an_act_in_parts_leaves_what_came_after_it_began(
    act: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = make_session()
    orphan = unknown(redis_client, "abcd")
    module = restoring if act == "restore" else purging
    chunk, came = getattr(module, f"{act}_chunk"), []

    def chunk_and_arrive(*args: Any, **options: Any) -> int:
        count = int(chunk(*args, **options))
        if not came:
            came.append(1)
            # As an `archive_unknown` that found the orphan before its first part was written down.
            OrphanEntry.objects.create(orphan=orphan, index=4, raw=b"L", content={"text": "L"}, recipient="+5193")
        return count

    monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(module, f"{act}_chunk", chunk_and_arrive)
    if act == "restore":
        assert orphans.restore(orphan, alpha, actor=ACTOR).restored == 4
    else:
        assert orphans.purge(orphan, expected=4, actor=ACTOR) == 4
    assert [entry.content["text"] for entry in OrphanEntry.objects.filter(restored_at=None)] == ["L"]
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages) == ("archived", 1)


def arriving_in_the_last_moment(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more message comes between the count and the renaming."""
    rename = archiving.lists.rename_away

    def arrive_and_rename(*args: Any, **options: Any) -> bool:
        monkeypatch.undo()
        legacy_list(client, "gone", ["tenth"])
        return rename(*args, **options)

    monkeypatch.setattr(archiving.lists, "rename_away", arrive_and_rename)


def live_nine(client: redis.Redis) -> Orphan:
    legacy_list(client, "gone", range(9))
    run()
    return Orphan.objects.get(state=OrphanState.DETECTED)


def test_a_tenth_that_comes_after_the_count_stops_a_purge(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = live_nine(redis_client)
    arriving_in_the_last_moment(redis_client, monkeypatch)
    with pytest.raises(orphans.OrphanChanged, match="there are 10 now"):
        orphans.purge(orphan, expected=9, actor=ACTOR)
    assert len(texts_of(orphan)) == 10


def test_a_tenth_that_comes_after_the_count_stops_a_restore(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan, beta = live_nine(redis_client), make_session("beta")
    arriving_in_the_last_moment(redis_client, monkeypatch)
    with pytest.raises(orphans.OrphanChanged, match="there are 10 now"):
        restore_confirmed(orphan, session_name="beta", create=False, expected=9, actor=ACTOR)
    assert len(texts_of(orphan)) == 10
    assert texts_in_line(beta) == []


# Places


def test_what_stands_in_redis_is_not_chosen_by_place_since_places_shift_there(redis_client: redis.Redis) -> None:
    orphan, beta = live_nine(redis_client), make_session("beta")
    before = picture_of_redis(redis_client)
    chosen = orphans.Selection(indexes=(2,))
    for act in (
        lambda: restore_confirmed(orphan, session_name="beta", create=False, selection=chosen, actor=ACTOR),
        lambda: orphans.restore(orphan, beta, selection=chosen, actor=ACTOR),
        lambda: orphans.restore_later(orphan, beta, selection=chosen, with_duplicates=False, actor=ACTOR),
        lambda: orphans.purge(orphan, expected=1, selection=chosen, actor=ACTOR),
        lambda: orphans.preview(orphan, chosen),
    ):
        with pytest.raises(Conflict, match="archive it first"):
            act()
    assert picture_of_redis(redis_client) == before


def test_a_place_is_never_given_twice(redis_client: redis.Redis) -> None:
    alpha = make_session()
    orphan = unknown(redis_client, "abc")
    last = orphans.Selection(indexes=(2,))
    orphans.purge(orphan, expected=1, selection=last, actor=ACTOR)
    later = unknown(redis_client, "L")
    assert later != orphan and texts_of(later) == ["L"]
    # Whoever still has the page with the third of three open chooses nothing else by it.
    assert orphans.restore(orphan, alpha, selection=last, actor=ACTOR).restored == 0


# Two acts at once


@pytest.fixture
def in_turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Parts of two, so that acts at once meet."""
    monkeypatch.setattr(restoring, "CHUNK", 2)
    monkeypatch.setattr(purging, "CHUNK", 2)
    yield


@pytest.mark.usefixtures("in_turns")
def test_what_is_restored_and_purged_at_once_is_either_sent_or_purged(redis_client: redis.Redis) -> None:
    orphan, beta = rq_archived(redis_client), make_session("beta")
    restored, purged = at_once(
        lambda: orphans.restore(orphan, beta, actor=ACTOR), lambda: orphans.purge(orphan, expected=9, actor=ACTOR)
    )
    counts = dict(AuditEntry.objects.filter(action="purge orphan").values_list("id", "count"))
    assert len(texts_in_line(beta)) + sum(counts.values()) == 9, (restored, purged)
    assert OrphanEntry.objects.filter(restored_at=None).count() == 0
    assert Orphan.objects.get().messages == 0


def test_a_purge_waits_for_a_restore_that_has_the_orphan_in_hand(redis_client: redis.Redis) -> None:
    orphan, beta = rq_archived(redis_client), make_session("beta")
    with transaction.atomic():
        restoring.restore_chunk(orphan, beta, orphans.Selection(), actor=ACTOR)
        thread = Threads([lambda: purging.purge_chunk(orphan, orphans.Selection(), actor=ACTOR)])
        wait_until_blocked()
    assert thread.join() == [0]
    assert len(texts_in_line(beta)) == 9
