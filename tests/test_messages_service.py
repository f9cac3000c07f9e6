"""Messages are submitted in order, and cancelled, retried and resolved by people who are told what is wrong."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from sessions_app.exceptions import MessageNotFound, WrongState
from sessions_app.models import Event, EventKind, Hold, Message, Priority, SessionDispatch, Status, new_id
from sessions_app.queues import keys
from sessions_app.services import messages
from sessions_app.services.messages import Draft
from tests.factories import (
    ACTOR,
    PHONE,
    Threads,
    become,
    hold,
    in_an_hour,
    is_due,
    job_ids,
    line,
    make_session,
    observer,
    submit,
    traces,
    wait_until_blocked,
)

pytestmark = pytest.mark.django_db(transaction=True)
# For what has nothing to do with commits.
uncommitted = pytest.mark.django_db

Act = Callable[[uuid.UUID], Message]


def cancel(message_id: uuid.UUID) -> Message:
    return messages.cancel(message_id, actor=ACTOR)


def retry(message_id: uuid.UUID) -> Message:
    return messages.retry(message_id, actor=ACTOR)


def resolve_as(outcome: Any) -> Act:
    return lambda message_id: messages.resolve(message_id, outcome=outcome, actor=ACTOR)


# Submit


@uncommitted
def test_what_is_submitted_is_kept_as_it_was_handed_in() -> None:
    session = make_session()
    batch = new_id()
    draft = Draft(
        to=PHONE, type="document", text="t", media_url="https://example.org/a.pdf", filename="a.pdf", caption="c",
        template={"name": "x"}, priority=Priority.HIGH, expires_at=in_an_hour(), client_ref="ref", metadata={"k": 1},
    )  # fmt: skip
    (made,) = messages.submit(session, [draft], batch_id=batch)
    message = Message.objects.get()
    assert message.pk == made.pk
    for name in Draft.__slots__:
        assert getattr(message, "recipient" if name == "to" else name) == getattr(draft, name)
    assert (message.status, message.batch_id, message.seq) == (Status.QUEUED, batch, 1)
    assert (message.attempts, message.max_attempts) == (0, settings.WAQUEUE_MAX_ATTEMPTS)
    assert message.queued_at == message.created_at
    assert traces(message)[0] == [EventKind.MESSAGE_QUEUED]


def test_messages_have_the_places_of_the_order_in_which_they_were_handed_in(redis_client: redis.Redis) -> None:
    session = make_session()
    first = submit(session, "one", "two")
    second = submit(session, "three")
    made = [*first, *second]
    assert [message.seq for message in made] == [1, 2, 3]
    assert line(session) == [str(message.pk) for message in made] == job_ids(redis_client, "alpha")
    assert is_due(redis_client, "alpha")
    other = make_session("beta")
    assert submit(other, "one")[0].seq == 1


def test_submitting_nothing_makes_nothing(redis_client: redis.Redis) -> None:
    session = make_session()
    assert submit(session) == []
    assert submit(session, "one")[0].seq == 1


def test_what_is_scheduled_has_its_place_but_stands_in_no_line_yet(redis_client: redis.Redis) -> None:
    session = make_session()
    at = in_an_hour()
    (later,) = submit(session, "later", scheduled_at=at)
    (now,) = submit(session, "now")
    assert (later.status, later.seq, later.scheduled_at, later.queued_at) == (Status.SCHEDULED, 1, at, None)
    assert traces(later)[0] == [EventKind.MESSAGE_SCHEDULED]
    assert now.seq == 2
    assert line(session) == [str(now.pk)] == job_ids(redis_client, "alpha")


def test_what_is_scheduled_for_the_past_is_queued(redis_client: redis.Redis) -> None:
    session = make_session()
    (message,) = submit(session, "late", scheduled_at=timezone.now() - timedelta(seconds=1))
    assert message.status == Status.QUEUED
    assert job_ids(redis_client, "alpha") == [str(message.pk)]


def test_only_what_is_scheduled_wakes_nobody(redis_client: redis.Redis) -> None:
    submit(make_session(), "later", scheduled_at=in_an_hour())
    assert redis_client.dbsize() == 0


def test_what_eight_threads_submit_becomes_visible_in_the_order_of_its_places() -> None:
    session = make_session()

    def client() -> None:
        for _ in range(15):
            submit(session, "one", "two", "three")

    with observer() as looking:
        clients = Threads([client] * 8)
        seen = [0]
        while True:
            is_over = clients.is_over
            places = [seq for (seq,) in looking.execute("SELECT seq FROM wa_message ORDER BY seq").fetchall()]
            # No gap: whoever sends the first open message now never learns of an earlier one later.
            assert places == list(range(1, len(places) + 1))
            seen.append(len(places))
            if is_over:
                break
    assert clients.join() == [None] * 8
    assert seen[-1] == 360
    assert len(set(seen)) > 10
    # The three of one call stand together, in their order.
    texts = list(Message.objects.order_by("seq").values_list("text", flat=True))
    assert texts == ["one", "two", "three"] * 120


def test_who_draws_a_place_second_waits_until_the_first_has_committed() -> None:
    session = make_session()
    with transaction.atomic():
        submit(session, "one")
        submitting = Threads([lambda: submit(session, "two")])
        wait_until_blocked()
    ((second,),) = submitting.join()
    assert list(Message.objects.order_by("seq").values_list("text", flat=True)) == ["one", "two"]
    assert second.seq == 2


def test_sessions_do_not_wait_for_each_other() -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    with transaction.atomic():
        submit(alpha, "one")
        ((message,),) = Threads([lambda: submit(beta, "two")]).join()
    assert message.seq == 1


def test_a_submit_that_is_rolled_back_leaves_nothing_and_its_place_is_given_again(redis_client: redis.Redis) -> None:
    session = make_session()

    class Oops(Exception):
        pass

    with pytest.raises(Oops), transaction.atomic():
        (rolled_back,) = submit(session, "one")
        raise Oops
    assert not Message.objects.exists()
    assert not Event.objects.filter(message_id=rolled_back.pk).exists()
    assert redis_client.dbsize() == 0
    assert submit(session, "two")[0].seq == 1


def test_a_job_is_put_when_the_outermost_transaction_commits(redis_client: redis.Redis) -> None:
    session = make_session()
    with transaction.atomic():
        (message,) = submit(session, "one")
        assert redis_client.dbsize() == 0
    assert job_ids(redis_client, "alpha") == [str(message.pk)]


# Position


@uncommitted
def test_the_position_counts_what_is_sent_before_it() -> None:
    session = make_session()
    one, two, three = submit(session, "one", "two", "three")
    high_one, high_two = submit(session, "a", "b", priority=Priority.HIGH)
    submit(make_session("beta"), "elsewhere")
    order = [high_one, high_two, one, two, three]
    assert [messages.position(message) for message in order] == [1, 2, 3, 4, 5]
    become(high_one, Status.SENT)
    become(two, Status.CANCELLED)
    assert [messages.position(message) for message in (high_two, one, three)] == [1, 2, 3]


@uncommitted
@pytest.mark.parametrize("state", [status for status in Status if status not in (Status.QUEUED, Status.SENDING)])
def test_what_stands_in_no_line_has_no_position(state: Status) -> None:
    assert messages.position(become(submit(make_session(), "one")[0], state)) == 0


@uncommitted
def test_far_behind_the_position_is_an_upper_bound() -> None:
    session = make_session()
    submit(session, *["normal"] * 150)
    submit(session, "high", priority=Priority.HIGH)
    last = submit(session, *["normal"] * 250)[-1]
    submit(session, *["high"] * 2, priority=Priority.HIGH)
    # The places are 401 up to the last one; two of high priority came after it.
    assert messages.position(last) in (403, 404)
    # It is not counted how many of those between have gone.
    Message.objects.filter(seq__in=range(2, 300)).update(status=Status.SENT)
    assert 105 <= messages.position(last) <= 404
    Message.objects.filter(seq__lt=300).update(status=Status.SENT)
    assert messages.position(last) == 104


# Acts


def test_a_queued_message_is_cancelled(redis_client: redis.Redis) -> None:
    session = make_session()
    one, two = submit(session, "one", "two")
    redis_client.delete(keys.DUE)
    assert cancel(one.pk).status == Status.CANCELLED
    assert traces(one) == ([EventKind.MESSAGE_QUEUED, EventKind.MESSAGE_CANCELLED], ["cancel message"])
    assert Event.objects.get(kind=EventKind.MESSAGE_CANCELLED).data == {"by": "command test"}
    assert job_ids(redis_client, "alpha") == [str(two.pk)]
    assert not redis_client.exists(keys.job_key(one.pk))
    # What stood behind it may go now.
    assert is_due(redis_client, "alpha")


@uncommitted
def test_a_scheduled_message_is_cancelled() -> None:
    (message,) = submit(make_session(), "later", scheduled_at=in_an_hour())
    assert cancel(message.pk).status == Status.CANCELLED


@pytest.mark.parametrize("state", [Status.FAILED, Status.EXPIRED])
def test_a_failed_or_expired_message_is_queued_again_at_its_old_place(state: Status, redis_client: redis.Redis) -> None:
    session = make_session()
    one, two, three = submit(session, "one", "two", "three")
    become(two, state, attempts=5, failed_at=timezone.now(), expires_at=timezone.now())
    redis_client.lrem(keys.queue_key("alpha"), 1, str(two.pk))
    redis_client.delete(keys.job_key(two.pk), keys.DUE)
    before = timezone.now()
    again = retry(two.pk)
    assert (again.status, again.seq, again.attempts) == (Status.QUEUED, 2, 5)
    assert again.max_attempts == 5 + settings.WAQUEUE_MAX_ATTEMPTS
    assert (again.failed_at, again.expires_at, again.next_attempt_at) == (None, None, None)
    assert again.queued_at is not None
    assert again.queued_at >= before
    assert line(session) == job_ids(redis_client, "alpha") == [str(m.pk) for m in (one, two, three)]
    assert is_due(redis_client, "alpha")
    assert traces(two) == ([EventKind.MESSAGE_QUEUED] * 2, ["retry message"])


@pytest.mark.parametrize(
    ("outcome", "state", "stamp"), [("sent", Status.SENT, "sent_at"), ("failed", Status.FAILED, "failed_at")]
)
def test_an_uncertain_message_is_resolved(outcome: str, state: Status, stamp: str, redis_client: redis.Redis) -> None:
    message = become(submit(make_session(), "one")[0], Status.UNCERTAIN)
    redis_client.flushdb()
    resolved = resolve_as(outcome)(message.pk)
    assert resolved.status == state
    assert getattr(resolved, stamp) is not None
    assert traces(message) == (
        [EventKind.MESSAGE_QUEUED, EventKind.MESSAGE_RESOLVED],
        [f"resolve message as {outcome}"],
    )
    assert Event.objects.get(kind=EventKind.MESSAGE_RESOLVED).data == {"by": "command test", "resolved_as": outcome}
    assert is_due(redis_client, "alpha")
    assert job_ids(redis_client, "alpha") == []


def test_an_uncertain_message_is_sent_again_at_its_old_place(redis_client: redis.Redis) -> None:
    session = make_session()
    one, two = submit(session, "one", "two")
    become(one, Status.UNCERTAIN, attempts=3)
    redis_client.flushdb()
    messages.put("alpha", [two])
    again = resolve_as("resend")(one.pk)
    assert (again.status, again.resends, again.max_attempts) == (Status.QUEUED, 1, 3 + settings.WAQUEUE_MAX_ATTEMPTS)
    assert job_ids(redis_client, "alpha") == line(session) == [str(one.pk), str(two.pk)]


@uncommitted
@pytest.mark.parametrize("outcome", ["sent", "failed", "resend"])
def test_a_session_held_for_uncertain_messages_goes_on_when_the_last_is_resolved(outcome: str) -> None:
    session = make_session(on_uncertain="hold_session")
    one, two = (become(message, Status.UNCERTAIN) for message in submit(session, "one", "two"))
    hold(session, Hold.UNCERTAIN, hold_reason="why", uncertain_streak=2)
    resolve_as(outcome)(one.pk)
    assert SessionDispatch.objects.get(session=session).hold == Hold.UNCERTAIN
    resolve_as(outcome)(two.pk)
    dispatch = SessionDispatch.objects.get(session=session)
    assert (dispatch.hold, dispatch.hold_reason, dispatch.held_at, dispatch.uncertain_streak) == ("", "", None, 0)


@uncommitted
@pytest.mark.parametrize("why", [Hold.NOT_CONNECTED, Hold.DOUBT, Hold.REFUSED])
def test_resolving_does_not_end_a_hold_for_another_reason(why: Hold) -> None:
    session = make_session()
    message = become(submit(session, "one")[0], Status.UNCERTAIN)
    hold(session, why)
    resolve_as("sent")(message.pk)
    assert SessionDispatch.objects.get(session=session).hold == why


ALLOWED: list[tuple[str, Act, set[Status]]] = [
    ("cancelled", cancel, {Status.QUEUED, Status.SCHEDULED}),
    ("retried", retry, {Status.FAILED, Status.EXPIRED}),
    ("resolved", resolve_as("sent"), {Status.UNCERTAIN}),
    ("resolved", resolve_as("failed"), {Status.UNCERTAIN}),
    ("resolved", resolve_as("resend"), {Status.UNCERTAIN}),
]


@pytest.mark.parametrize(("done", "act", "allowed"), ALLOWED, ids=["cancel", "retry", "sent", "failed", "resend"])
def test_in_any_other_state_an_act_is_refused_with_the_state_and_leaves_no_trace(
    done: str, act: Act, allowed: set[Status], redis_client: redis.Redis
) -> None:
    (message,) = submit(make_session(), "one")
    redis_client.flushdb()
    for state in set(Status) - allowed:
        become(message, state)
        with pytest.raises(WrongState, match=f"can be {done}; this one is {state}") as caught:
            act(message.pk)
        assert caught.value.extra == {"state": state}
        message.refresh_from_db()
        assert message.status == state
    assert traces(message) == ([EventKind.MESSAGE_QUEUED], [])
    assert redis_client.dbsize() == 0


@pytest.mark.parametrize(("done", "act", "allowed"), ALLOWED, ids=["cancel", "retry", "sent", "failed", "resend"])
def test_an_act_that_is_rolled_back_leaves_neither_event_nor_audit_entry_nor_job(
    done: str, act: Act, allowed: set[Status], redis_client: redis.Redis
) -> None:
    (message,) = submit(make_session(), "one")
    redis_client.flushdb()
    for state in allowed:
        become(message, state)
        with transaction.atomic():
            act(message.pk)
            assert len(traces(message)[0]) == 2
            assert len(traces(message)[1]) == 1
            transaction.set_rollback(True)
        message.refresh_from_db()
        assert message.status == state
        assert traces(message) == ([EventKind.MESSAGE_QUEUED], [])
    assert redis_client.dbsize() == 0


@uncommitted
@pytest.mark.parametrize(("done", "act", "allowed"), ALLOWED, ids=["cancel", "retry", "sent", "failed", "resend"])
def test_a_message_that_is_not_there_is_not_found(done: str, act: Act, allowed: set[Status]) -> None:
    with pytest.raises(MessageNotFound):
        act(new_id())


def test_of_several_who_act_at_once_one_does() -> None:
    (message,) = submit(make_session(), "one")
    results = Threads([lambda: cancel(message.pk)] * 5).join()
    assert sum(isinstance(result, Message) for result in results) == 1
    assert sum(isinstance(result, WrongState) for result in results) == 4
    assert traces(message)[1] == ["cancel message"]


# Nudge


def test_a_nudge_has_the_session_looked_at_and_mends_the_mirror(redis_client: redis.Redis) -> None:
    (message,) = submit(make_session(), "one")
    redis_client.flushdb()
    messages.nudge(message.pk)
    assert job_ids(redis_client, "alpha") == [str(message.pk)]
    assert is_due(redis_client, "alpha")


def test_a_nudge_for_what_is_settled_does_nothing(redis_client: redis.Redis) -> None:
    message = become(submit(make_session(), "one")[0], Status.SENT)
    redis_client.flushdb()
    messages.nudge(message.pk)
    assert redis_client.dbsize() == 0
