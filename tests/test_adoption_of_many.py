"""A session is made at once, however much waits under its name, and holds up nobody meanwhile."""

import threading
import time
from typing import Any

import pytest
import redis
from django.db import connection

from sessions_app.models import BackgroundTask, IdempotencyKey, Orphan, OrphanState, Session
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import orphans, sessions, tasks
from sessions_app.services.orphans import adopting, archiving
from tests.api_client import ApiClient
from tests.factories import ACTOR, at_once, job_ids, line
from tests.reconciliation_lab import found, legacy_list, run, stock_queue, texts_in_line, texts_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ready")]


@pytest.fixture(autouse=True)
def six_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "LARGE", 5)


def texts(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def the_task() -> BackgroundTask:
    return BackgroundTask.objects.get()


@pytest.mark.parametrize("make", [stock_queue, legacy_list])
def test_many_that_are_still_in_redis_are_copied_and_given_back_by_a_worker(
    redis_client: redis.Redis, make: Any
) -> None:
    make(redis_client, "gone", texts(9))
    made = ApiClient().post("/whatsapp/sessions", {"name": "gone"})
    assert made.status == 201
    assert made["restoring"] == [{"messages": 9, "task": str(the_task().pk)}]
    assert not {"restored", "orphan"} & made.body.keys()
    session = Session.objects.get()
    assert texts_in_line(session) == [] and Orphan.objects.get().state == OrphanState.DETECTED
    tasks.run(the_task().pk)
    assert texts_in_line(session) == texts(9)
    assert line(session) == job_ids(redis_client, "gone")
    assert the_task().result == "9 restored to gone, 0 left"
    assert [key for key in redis_client.scan_iter() if b"archive" in key] == []
    assert found(run()) == []


def test_many_that_are_archived_are_given_back_by_a_worker(redis_client: redis.Redis) -> None:
    legacy_list(redis_client, "gone", texts(9))
    run(policy=Policy.ARCHIVE)
    session, adopted = sessions.create(name="gone", actor=ACTOR)
    assert adopted is not None
    assert (adopted.restored, [task.total for task in adopted.tasks]) == (0, [9])
    tasks.run(the_task().pk)
    assert texts_in_line(session) == texts(9)


def test_many_of_which_none_is_young_are_archived_by_a_worker_and_wait(redis_client: redis.Redis) -> None:
    legacy_list(redis_client, "gone", texts(9), hours_ago=50)
    session, _ = sessions.create(name="gone", actor=ACTOR)
    tasks.run(the_task().pk)
    assert texts_in_line(session) == []
    assert (Orphan.objects.get().state, Orphan.objects.get().messages) == ("archived", 9)


@pytest.mark.parametrize("age", [None, "ask"])
def test_a_reconciliation_that_is_faster_than_the_worker_does_it_once(
    redis_client: redis.Redis, age: str | None, settings: Any
) -> None:
    if age == "ask":
        settings.WAQUEUE_RESTORE_MAX_AGE = None
    legacy_list(redis_client, "gone", texts(9))
    session, _ = sessions.create(name="gone", actor=ACTOR)
    at_once(lambda: tasks.run(the_task().pk), lambda: run())
    waiting = Orphan.objects.filter(state=OrphanState.ARCHIVED)
    assert texts_in_line(session) + [text for orphan in waiting for text in texts_of(orphan)] == texts(9)
    assert [key for key in redis_client.scan_iter() if b"archive" in key] == []


def test_an_orphan_that_is_left_to_a_person_is_archived_whole_whatever_its_size(redis_client: redis.Redis) -> None:
    legacy_list(redis_client, "gone", texts(9))
    run()
    session, adopted = sessions.create(name="gone", actor=ACTOR, leave=Orphan.objects.get().pk)
    assert adopted == orphans.Adopted()
    run()
    assert texts_in_line(session) == []
    assert Orphan.objects.get().state == OrphanState.ARCHIVED


def test_a_reconciliation_waits_for_no_session_that_is_being_made(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock_queue(redis_client, "gone", "abc")
    copying, going = threading.Event(), threading.Event()
    copy = archiving._copy

    def copy_slowly(orphan: Orphan, staging: bytes) -> int:
        if threading.current_thread() is thread:
            copying.set()
            assert going.wait(30)
        return copy(orphan, staging)

    answers: list[Any] = []

    def make() -> None:
        try:
            answers.append(ApiClient().post("/whatsapp/sessions", {"name": "gone"}))
        finally:
            connection.close()

    monkeypatch.setattr(archiving, "_copy", copy_slowly)
    thread = threading.Thread(target=make)
    thread.start()
    assert copying.wait(30)
    began = time.monotonic()
    # It sees the session, and ends what the request has begun.
    run()
    assert time.monotonic() - began < 15
    going.set()
    thread.join(30)
    assert answers[0].status == 201
    assert texts_in_line(Session.objects.get()) == ["a", "b", "c"]
    assert Orphan.objects.get().messages == 0


def test_an_answer_that_is_given_again_says_what_the_first_one_said(redis_client: redis.Redis) -> None:
    legacy_list(redis_client, "gone", "abc")
    client = ApiClient()
    first, second = (client.post("/whatsapp/sessions", {"name": "gone"}, idempotency_key="k") for _ in range(2))
    assert first.body == second.body
    assert second["restored"] == {"messages": 3}
    assert IdempotencyKey.objects.get().body["restored"] == {"messages": 3}


def test_a_session_is_made_also_when_somebody_else_has_given_its_messages_back_meanwhile(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy_list(redis_client, "gone", "abc")
    run(policy=Policy.ARCHIVE)
    restore = adopting.restore

    def be_second(orphan: Orphan, session: Session, **options: Any) -> Any:
        orphans.restore(orphan, session, actor=ACTOR)
        return restore(orphan, session, **options)

    monkeypatch.setattr(adopting, "restore", be_second)
    session, adopted = sessions.create(name="gone", actor=ACTOR)
    assert adopted is not None and (adopted.restored, adopted.waiting) == (0, [])
    assert texts_in_line(session) == ["a", "b", "c"]
