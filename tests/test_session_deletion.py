"""A session is deleted with what becomes of its messages said beforehand; none slips into a deleted one."""

import threading

import pytest
import redis
from django.db import connection, transaction

from sessions_app.exceptions import SessionHasUnsentMessages, SessionNotFound
from sessions_app.models import (
    DesiredState,
    Event,
    EventKind,
    Message,
    ObservedState,
    Orphan,
    Session,
    SessionCounter,
    Status,
)
from sessions_app.queues import keys
from sessions_app.services import messages, sessions
from sessions_app.services.sessions import Deleted
from tests.factories import (
    ACTOR,
    Threads,
    at_once,
    become,
    fly,
    in_an_hour,
    job_ids,
    make_session,
    submit,
    traces,
    wait_until_blocked,
)

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_session_without_unsent_messages_is_deleted_and_keeps_its_history() -> None:
    session = make_session()
    sent, failed = submit(session, "one", "two")
    become(sent, Status.SENT)
    become(failed, Status.FAILED)
    assert sessions.delete(session, actor=ACTOR) == Deleted()
    session.refresh_from_db()
    assert session.deleted_at is not None
    assert (session.desired_state, session.observed_state) == (DesiredState.STOPPED, ObservedState.STOPPED)
    assert [message.status for message in session.messages.order_by("seq")] == [Status.SENT, Status.FAILED]
    assert traces(session) == (
        [EventKind.SESSION_CREATED, EventKind.SESSION_DELETED],
        ["create session", "delete session"],
    )
    with pytest.raises(SessionNotFound):
        sessions.get("alpha")


@pytest.mark.fault(19)
def test_by_default_unsent_messages_keep_their_session(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "one", "two")
    submit(session, "later", scheduled_at=in_an_hour())
    with pytest.raises(SessionHasUnsentMessages, match="3 messages of 'alpha' are not sent") as caught:
        sessions.delete(session, actor=ACTOR)
    assert caught.value.extra == {"unsent": 3}
    assert sessions.get("alpha") == session
    assert len(job_ids(redis_client, "alpha")) == 2
    assert EventKind.SESSION_DELETED not in traces(session)[0]


@pytest.mark.fault(19)
def test_unsent_messages_are_cancelled_if_so_wanted(redis_client: redis.Redis) -> None:
    session = make_session()
    queued, sent = submit(session, "one", "two")
    (later,) = submit(session, "later", scheduled_at=in_an_hour())
    become(sent, Status.SENT)
    assert sessions.delete(session, actor=ACTOR, unsent="cancel") == Deleted(cancelled=2)
    assert [message.status for message in session.messages.order_by("seq")] == ["cancelled", "sent", "cancelled"]
    for message in (queued, later):
        assert traces(message)[0][-1] == EventKind.MESSAGE_CANCELLED
    told = Event.objects.get(kind=EventKind.SESSION_DELETED).data
    assert told["by"] == "command test"
    assert 2 in told.values()
    assert not redis_client.exists(keys.job_key(queued.pk))
    assert str(queued.pk) not in job_ids(redis_client, "alpha")


@pytest.mark.fault(19)
@pytest.mark.parametrize("unsent", ["refuse", "cancel", "orphan"])
def test_a_message_that_is_being_sent_keeps_its_session(unsent: str) -> None:
    session = make_session()
    sending, queued = submit(session, "one", "two")
    fly(sending)
    with pytest.raises(SessionHasUnsentMessages):
        sessions.delete(session, actor=ACTOR, unsent=unsent)
    assert sessions.get("alpha") == session
    queued.refresh_from_db()
    assert queued.status == Status.QUEUED
    assert not Orphan.objects.exists()


@pytest.mark.fault(19)
def test_a_message_that_says_sending_and_is_in_no_flight_keeps_its_session() -> None:
    session = make_session()
    become(submit(session, "one")[0], Status.SENDING)
    with pytest.raises(SessionHasUnsentMessages):
        sessions.delete(session, actor=ACTOR, unsent="cancel")


@pytest.mark.fault(19)
def test_a_fence_that_commits_while_its_session_is_being_deleted_keeps_it() -> None:
    session = make_session()
    sending, queued = submit(session, "one", "two")
    with transaction.atomic():
        fly(sending)
        # The fence has its flight and has not committed: deleting sees a queued message and waits for its row.
        deleting = Threads([lambda: sessions.delete(session, actor=ACTOR, unsent="cancel")])
        wait_until_blocked()
    (result,) = deleting.join()
    assert isinstance(result, SessionHasUnsentMessages)
    assert sessions.get("alpha") == session
    queued.refresh_from_db()
    assert queued.status == Status.QUEUED


def test_a_session_is_deleted_once() -> None:
    session = make_session()
    sessions.delete(session, actor=ACTOR)
    with pytest.raises(SessionNotFound, match="was deleted"):
        sessions.delete(session, actor=ACTOR)
    assert traces(session)[1] == ["create session", "delete session"]


def test_of_several_who_delete_at_once_one_does() -> None:
    session = make_session()
    submit(session, "one")
    results = at_once(*[lambda: sessions.delete(session, actor=ACTOR, unsent="cancel")] * 4)
    assert results.count(Deleted(cancelled=1)) == 1
    assert sum(isinstance(result, SessionNotFound) for result in results) == 3
    assert Event.objects.filter(kind=EventKind.MESSAGE_CANCELLED).count() == 1


def test_a_deletion_that_is_rolled_back_leaves_everything_as_it_was(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "one")
    with transaction.atomic():
        sessions.delete(session, actor=ACTOR, unsent="cancel")
        transaction.set_rollback(True)
    assert sessions.get("alpha") == session
    assert Message.objects.get().status == Status.QUEUED
    assert len(job_ids(redis_client, "alpha")) == 1
    assert EventKind.SESSION_DELETED not in traces(session)[0]


# The name returns


def test_a_name_returns_as_a_new_session_with_a_history_of_its_own(redis_client: redis.Redis) -> None:
    old = make_session(on_uncertain="resend")
    submit(old, "one", "two")
    sessions.delete(old, actor=ACTOR, unsent="cancel")
    new = make_session()
    assert new.pk != old.pk
    assert (new.on_uncertain, new.messages.count()) == ("hold", 0)
    (message,) = submit(new, "three")
    assert message.seq == 1
    assert job_ids(redis_client, "alpha") == [str(message.pk)]
    assert Event.objects.filter(session=new).count() == 2
    assert old.messages.count() == 2
    assert sorted(session.pk for session in Session.objects.filter(name="alpha")) == [old.pk, new.pk]
    assert sessions.get("alpha") == new


# Nothing slips into it


def test_nothing_can_be_submitted_into_a_deleted_session(redis_client: redis.Redis) -> None:
    session = make_session()
    sessions.delete(session, actor=ACTOR)
    with pytest.raises(SessionNotFound, match="there is no session named 'alpha'"):
        submit(session, "one")
    assert not Message.objects.exists()
    assert not job_ids(redis_client, "alpha")


@pytest.mark.fault(19)
def test_a_submit_that_began_first_is_seen_by_the_deletion() -> None:
    session = make_session()
    with transaction.atomic():
        submit(session, "one")
        deleting = Threads([lambda: sessions.delete(session, actor=ACTOR)])
        wait_until_blocked()
    (result,) = deleting.join()
    assert isinstance(result, SessionHasUnsentMessages)
    assert sessions.get("alpha") == session


@pytest.mark.fault(19)
def test_a_submit_that_comes_second_finds_the_session_deleted() -> None:
    session = make_session()
    with transaction.atomic():
        sessions.delete(session, actor=ACTOR)
        submitting = Threads([lambda: submit(session, "one")])
        wait_until_blocked()
    (result,) = submitting.join()
    assert isinstance(result, SessionNotFound)
    assert not Message.objects.exists()


@pytest.mark.fault(19)
def test_however_submits_and_deletions_race_no_message_waits_in_a_deleted_session() -> None:
    accepted: list[Message] = []
    lock = threading.Lock()

    def client() -> None:
        for _ in range(15):
            try:
                made = submit(sessions.get("alpha"), "one", "two")
            except SessionNotFound:
                continue
            with lock:
                accepted.extend(made)

    def operator() -> None:
        for _ in range(10):
            session, _ = sessions.create(name="alpha", actor=ACTOR)
            sessions.delete(session, actor=ACTOR, unsent="cancel")

    results = at_once(client, client, client, operator)
    assert [result for result in results if result is not None] == []
    assert accepted
    assert Message.objects.count() == len(accepted)
    assert Session.objects.filter(deleted_at=None).count() == 0
    assert set(Message.objects.values_list("status", flat=True)) == {Status.CANCELLED}
    assert not SessionCounter.objects.exists()


@pytest.mark.parametrize("state", [Status.FAILED, Status.EXPIRED])
def test_a_message_of_a_deleted_session_is_not_queued_again(state: Status, redis_client: redis.Redis) -> None:
    session = make_session()
    message = become(submit(session, "one")[0], state)
    sessions.delete(session, actor=ACTOR)
    with pytest.raises(messages.WrongState, match="was deleted") as caught:
        messages.retry(message.pk, actor=ACTOR)
    assert caught.value.extra == {"state": state}
    message.refresh_from_db()
    assert message.status == state


def test_an_uncertain_message_of_a_deleted_session_is_resolved_but_not_sent_again() -> None:
    session = make_session()
    message = become(submit(session, "one")[0], Status.UNCERTAIN)
    sessions.delete(session, actor=ACTOR)
    with pytest.raises(messages.WrongState, match="was deleted"):
        messages.resolve(message.pk, outcome="resend", actor=ACTOR)
    assert messages.resolve(message.pk, outcome="sent", actor=ACTOR).status == Status.SENT


@pytest.mark.fault(19)
def test_a_retry_that_began_first_is_seen_by_the_deletion() -> None:
    session = make_session()
    message = become(submit(session, "one")[0], Status.FAILED)
    with transaction.atomic():
        messages.retry(message.pk, actor=ACTOR)
        deleting = Threads([lambda: sessions.delete(session, actor=ACTOR)])
        wait_until_blocked()
    (result,) = deleting.join()
    assert isinstance(result, SessionHasUnsentMessages)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM wa_message m JOIN wa_session s ON s.id = m.session_id "
            "WHERE s.deleted_at IS NOT NULL AND m.status IN ('queued', 'sending', 'scheduled')"
        )
        assert cursor.fetchone() == (0,)
