"""A session takes over what stands under its name while a reconciliation is at the same queue: nothing is lost."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.db import transaction

from sessions_app.exceptions import Conflict
from sessions_app.models import FindingKind, Orphan, OrphanState, Session
from sessions_app.reconciliation import repair
from sessions_app.reconciliation.repair import Policy
from sessions_app.reconciliation.report import Finding
from sessions_app.services import orphans, sessions, tasks
from sessions_app.services.orphans import archiving
from sessions_app.services.orphans.adopting import adopt
from tests.factories import ACTOR, Threads, wait_until_blocked
from tests.orphan_lab import rq_detected
from tests.reconciliation_lab import found, run, stock_queue, texts_in_line, texts_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ready"), pytest.mark.fault(17)]

NINE = [str(number) for number in range(9)]


def before(monkeypatch: pytest.MonkeyPatch, step: str, act: Callable[[], Any]) -> None:
    """Let `act` be done just before the next archiving comes to `step`."""
    real = getattr(archiving, step)

    def act_first(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(archiving, step, real)
        act()
        return real(*args, **options)

    monkeypatch.setattr(archiving, step, act_first)


def make_gone() -> Session:
    """A session that has not looked yet at what stands under its name."""
    session, _ = sessions.create(name="gone", actor=ACTOR, adopts=False)
    return session


def take_over(orphan: Orphan) -> Orphan:
    """As a session does with a long list: it is renamed away, and copied later."""
    begun = archiving.begin(orphan, is_for_its_session=True)
    archiving.set_aside(begun, is_for_its_session=True)
    return begun


def archive_in_vain(orphan: Orphan) -> None:
    """As a reconciliation whose queue has got a session since it looked."""
    finding = Finding(FindingKind.ORPHAN_QUEUE)
    assert repair._archive(orphan, finding, Policy.ARCHIVE) is None
    assert finding.action == "no orphan any more"


# The row


def test_a_row_that_its_session_has_taken_over_is_not_deleted(redis_client: redis.Redis) -> None:
    orphan = rq_detected(redis_client)
    make_gone()
    begun = take_over(orphan)
    archive_in_vain(orphan)
    archiving.finish_archiving(begun, is_for_its_session=True)
    assert texts_of(Orphan.objects.get(state=OrphanState.ARCHIVED)) == NINE


def test_a_row_that_its_session_takes_over_at_that_moment_is_not_deleted(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan, archive = rq_detected(redis_client), orphans.archive
    make_gone()
    refused, locked = threading.Event(), threading.Event()

    def archive_and_stand_still(*args: Any, **options: Any) -> Orphan:
        try:
            return archive(*args, **options)
        finally:
            refused.set()
            assert locked.wait(30)

    monkeypatch.setattr(orphans, "archive", archive_and_stand_still)
    thread = Threads([lambda: archive_in_vain(orphan)])
    assert refused.wait(30)
    with transaction.atomic():
        begun = archiving.begin(orphan, is_for_its_session=True)
        locked.set()
        wait_until_blocked()
    assert thread.join() == [None]
    archiving.finish_archiving(begun, is_for_its_session=True)
    assert texts_of(Orphan.objects.get(state=OrphanState.ARCHIVED)) == NINE


def test_a_session_is_made_also_when_the_row_that_it_takes_over_is_deleted(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = rq_detected(redis_client)
    before(monkeypatch, "begin", lambda: archive_in_vain(orphan))
    _, adopted = sessions.create(name="gone", actor=ACTOR)
    assert adopted is not None and not Orphan.objects.exists()
    run()
    assert texts_of(Orphan.objects.get()) == NINE


def test_what_is_seen_again_writes_nothing_into_a_row_that_was_archived_meanwhile(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = rq_detected(redis_client)
    get_or_create = Orphan.objects.get_or_create

    def get_and_archive(**options: Any) -> tuple[Orphan, bool]:
        row = get_or_create(**options)
        assert isinstance(Threads([lambda: orphans.archive(orphan)]).join()[0], Orphan)
        return row

    monkeypatch.setattr(Orphan.objects, "get_or_create", get_and_archive)
    archiving.detect(
        bytes(orphan.key), session_name="gone", source=orphan.source, reason="", messages=1, now=orphan.last_seen_at
    )
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages) == ("archived", 9)


# The list


def copy_a_part(orphan: Orphan, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker that is killed when it has copied the first part of a list that was taken over."""

    def die(step: str) -> None:
        if step == "archive: part copied":
            raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(archiving.crash_points, "reach", die)
        archiving.finish_archiving(take_over(orphan), is_for_its_session=True)


@pytest.mark.parametrize("count", [9, 700])
def test_who_left_a_list_to_its_session_does_not_end_the_archiving_that_the_session_has_begun(
    count: int, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [str(number) for number in range(count)]
    orphan = rq_detected(redis_client, texts)
    before(monkeypatch, "set_aside", make_gone)
    before(monkeypatch, "_conclude", lambda: take_over(orphan) if count == 9 else copy_a_part(orphan, monkeypatch))
    with pytest.raises(Conflict, match="goes on"):
        orphans.archive(orphan)
    (staged,) = redis_client.scan_iter("waqueue:archive:*")
    assert redis_client.llen(staged) == count == len(list(redis_client.scan_iter("rq:job:*")))
    orphan.refresh_from_db()
    archiving.finish_archiving(orphan, is_for_its_session=True)
    assert (orphan.state, texts_of(orphan)) == ("archived", texts)
    assert not redis_client.exists(staged) and list(redis_client.scan_iter("rq:job:*")) == []


def test_a_session_gets_back_what_it_took_over_while_a_reconciliation_was_at_it(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LARGE", 5)
    stock_queue(redis_client, "gone", NINE)
    before(monkeypatch, "set_aside", make_gone)
    adopted = []
    before(monkeypatch, "_conclude", lambda: adopted.append(adopt(Session.objects.get(), actor=ACTOR)))
    assert found(run()) == [("orphan_queue", "gone", 9, "no orphan any more")]
    tasks.run(adopted[0].tasks[0].pk)
    assert texts_in_line(Session.objects.get()) == NINE
    assert found(run()) == []


def test_what_its_session_comes_too_late_to_take_over_is_kept_for_a_person(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = rq_detected(redis_client)
    before(monkeypatch, "set_aside", make_gone)
    begun = []
    before(monkeypatch, "_copy", lambda: begun.append(archiving.begin(orphan, is_for_its_session=True)))
    assert orphans.archive(orphan).state == OrphanState.VANISHED
    archiving.finish_archiving(begun[0], is_for_its_session=True)
    run()
    assert texts_of(Orphan.objects.get(state=OrphanState.ARCHIVED)) == NINE
