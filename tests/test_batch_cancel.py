"""The rest of a batch is cancelled in parts, while others send, submit, delete and cancel."""

from typing import Any

import pytest
import redis
from django.utils import timezone

from sessions_app.exceptions import BatchNotFound
from sessions_app.models import (
    AuditEntry,
    Batch,
    Event,
    EventKind,
    Message,
    Orphan,
    Status,
    new_id,
)
from sessions_app.queues import keys
from sessions_app.services import batches, orphans, sessions
from tests.batch_lab import counts, drafts, hand_in, of, state
from tests.factories import (
    ACTOR,
    Threads,
    at_once,
    become,
    fly,
    in_an_hour,
    is_due,
    job_ids,
    line,
    make_session,
    observer,
    wait_until_blocked,
)

pytestmark = pytest.mark.django_db(transaction=True)


def cancel(batch: Batch, **options: Any) -> tuple[int, int]:
    done = batches.cancel(batch.pk, actor=ACTOR, **options)
    return done.cancelled, done.left_alone


def test_a_cancel_ends_what_is_queued_or_scheduled_and_nothing_else(redis_client: redis.Redis) -> None:
    session = make_session()
    before, batch = hand_in(session, "x"), hand_in(session, *range(1200))
    batches.submit(session, [*drafts("other"), *drafts("o", scheduled_at=in_an_hour())], rejected=0, actor=ACTOR)
    made = of(batch)
    fly(made[0])
    for message, status in zip(made[1:6], ("sent", "failed", "uncertain", "expired", "cancelled"), strict=True):
        become(message, Status(status))
    Message.objects.filter(pk__in=[message.pk for message in made[1000:]]).update(status=Status.SCHEDULED)
    redis_client.delete(keys.DUE)
    assert cancel(batch) == (1194, 5)
    assert counts(batch) == {"sending": 1, "sent": 1, "failed": 1, "uncertain": 1, "expired": 1, "cancelled": 1195}
    assert counts(before) == {"queued": 1}
    # One that is on its way may still be sent; then the batch is what it was made.
    assert state(batch) == "sending"
    become(made[0], Status.SENT)
    assert state(batch) == "cancelled"
    # What stood behind it is looked at now.
    assert is_due(redis_client, "alpha")
    assert set(line(session)) <= set(job_ids(redis_client, "alpha"))
    assert not redis_client.exists(*(keys.job_key(message.pk) for message in made[6:1000]))
    told = Event.objects.filter(kind=EventKind.MESSAGE_CANCELLED)
    assert sorted(told.values_list("message", flat=True)) == sorted(message.pk for message in made[6:])
    assert {event.data["by"] for event in told} == {ACTOR.label} and {event.session_id for event in told} == {
        session.pk
    }
    (entry,) = AuditEntry.objects.filter(action="cancel batch")
    assert (entry.target, entry.count, entry.actor) == (str(batch.pk), 1194, ACTOR.label)


def test_a_cancel_that_is_repeated_changes_nothing_and_says_the_same() -> None:
    batch = hand_in(make_session(), *"abc")
    become(of(batch)[0], Status.SENT)
    assert cancel(batch) == (2, 1)
    batch.refresh_from_db()
    at = batch.cancelled_at
    assert cancel(batch) == (0, 1)
    batch.refresh_from_db()
    assert batch.cancelled_at == at
    assert Event.objects.filter(kind=EventKind.MESSAGE_CANCELLED).count() == 2
    assert AuditEntry.objects.filter(action="cancel batch").count() == 1


def test_a_batch_that_was_sent_whole_is_done_and_not_cancelled_by_a_cancel() -> None:
    batch = hand_in(make_session(), "a")
    become(of(batch)[0], Status.SENT)
    assert cancel(batch) == (0, 1)
    assert (state(batch), batch.cancelled_at) == ("done", None)


def test_a_batch_that_there_is_not_cannot_be_cancelled() -> None:
    with pytest.raises(BatchNotFound):
        batches.cancel(new_id(), actor=ACTOR)


def test_it_goes_from_the_end_in_parts_each_with_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CHUNK", 40)
    session = make_session()
    batch = hand_in(session, *range(100))
    part = batches._cancel_part
    seen: list[list[int]] = []

    def watched(*args: Any) -> Any:
        # What others see between two parts, and that they hand in more.
        with observer() as looking:
            rows = looking.execute("SELECT seq FROM wa_message WHERE status = 'cancelled' ORDER BY seq").fetchall()
            looking.execute("UPDATE wa_session_counter SET next_seq = next_seq + 1")
        seen.append([seq for (seq,) in rows])
        return part(*args)

    monkeypatch.setattr(batches, "_cancel_part", watched)
    assert cancel(batch) == (100, 0)
    assert seen == [[], list(range(61, 101)), list(range(21, 101)), list(range(1, 101))]


def test_what_is_sent_meanwhile_is_not_cancelled_and_what_is_cancelled_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "CHUNK", 10)
    batch = hand_in(make_session(), *range(30))
    made = of(batch)
    with observer() as worker:
        # A fence that has taken the last message and not committed yet.
        worker.autocommit = False
        worker.execute("UPDATE wa_message SET status = 'sending' WHERE id = %s", [made[-1].pk])
        cancelling = Threads([lambda: cancel(batch)])
        wait_until_blocked()
        worker.commit()
    assert cancelling.join() == [(29, 1)]
    assert counts(batch) == {"sending": 1, "cancelled": 29}


def test_it_holds_no_message_while_it_waits_for_a_deletion_or_a_batch_that_comes_in() -> None:
    session = make_session()
    batch = hand_in(session, *range(30))
    with observer() as deleting:
        deleting.autocommit = False
        # The lock that deleting and submitting begin with. Then a deletion locks the messages.
        deleting.execute("UPDATE wa_session_counter SET next_seq = next_seq WHERE session_id = %s", [session.pk])
        cancelling = Threads([lambda: cancel(batch)])
        wait_until_blocked()
        deleting.execute("SELECT id FROM wa_message WHERE session_id = %s FOR UPDATE NOWAIT", [session.pk])
        deleting.commit()
    assert cancelling.join() == [(30, 0)]


def test_two_cancels_at_once_cancel_each_message_once() -> None:
    batch = hand_in(make_session(), *range(1500))
    done = at_once(*[lambda: cancel(batch)] * 3)
    assert sum(cancelled for cancelled, _ in done) == 1500 == counts(batch)["cancelled"]
    assert Event.objects.filter(kind=EventKind.MESSAGE_CANCELLED).count() == 1500


@pytest.mark.parametrize("unsent", ["cancel", "orphan"])
def test_a_cancel_and_a_deletion_of_the_session_never_wait_for_one_another(
    unsent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK", 50)
    session = make_session()
    batch = hand_in(session, *range(1000))
    (cancelled, _), deleted = at_once(
        lambda: cancel(batch), lambda: sessions.delete(session, actor=ACTOR, unsent=unsent)
    )
    assert cancelled + deleted.cancelled + deleted.orphaned == 1000
    assert counts(batch).get("cancelled", 0) == (1000 if unsent == "cancel" else cancelled)
    assert counts(batch).get("orphaned", 0) == deleted.orphaned


# When the session is deleted.


def test_a_batch_stays_with_the_history_of_a_deleted_session(redis_client: redis.Redis) -> None:
    session = make_session()
    batch = hand_in(session, *"abc")
    become(of(batch)[0], Status.SENT)
    sessions.delete(session, actor=ACTOR, unsent="orphan")
    assert counts(batch) == {"sent": 1, "orphaned": 2}
    assert state(batch) == "done"
    assert cancel(batch) == (0, 3)
    # Restored, they are of their batch still, in another session.
    beta = make_session("beta")
    assert orphans.restore(Orphan.objects.get(), beta, actor=ACTOR).restored == 2
    assert state(batch) == "sending"
    assert batches.estimated_done_at(batches.get(batch.pk), timezone.now()) is not None
    # Whoever may only touch the old session leaves them alone.
    assert cancel(batch, session_ids=[session.pk]) == (0, 3)
    assert len(job_ids(redis_client, "beta")) == 2
    assert cancel(batch) == (2, 1)
    assert job_ids(redis_client, "beta") == []
