"""The worklist says what needs a person, and a line goes when its cause does."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions_app.models import Hold, InFlight, Message, RecipientPace, SessionDispatch, Status, Worker
from sessions_app.models.worker import SILENCE
from sessions_app.services import sessions
from sessions_app.services.worklist import WorklistItem, items
from tests.factories import ACTOR, become, hold, in_an_hour, make_session, submit

pytestmark = pytest.mark.django_db


def ago(**duration: float) -> Any:
    return timezone.now() - timedelta(**duration)


def of_kind(kind: str) -> list[WorklistItem]:
    return [item for item in items() if item.kind == kind]


def make_worker(**fields: Any) -> Worker:
    now = timezone.now()
    defaults = {"name": "w", "hostname": "h", "pid": 1, "concurrency": 1, "started_at": now, "heartbeat_at": now}
    return Worker.objects.create(**{**defaults, "steady_since": now, **fields})


def test_when_all_is_well_nothing_is_to_be_done() -> None:
    session = make_session()
    for status in Status:
        if status not in (Status.UNCERTAIN, Status.FAILED, Status.ORPHANED):
            become(submit(session, "one")[0], status)
    make_worker()
    assert items() == []


# Nobody sends


def test_messages_that_wait_while_no_worker_lives_are_told_of() -> None:
    session = make_session()
    old, _ = submit(session, "one", "two")
    become(old, Status.QUEUED, queued_at=ago(minutes=3))
    (item,) = of_kind("no_worker")
    assert item.since == old.queued_at
    worker = make_worker()
    assert of_kind("no_worker") == []
    Worker.objects.filter(pk=worker.pk).update(heartbeat_at=timezone.now() - SILENCE - timedelta(seconds=1))
    assert len(of_kind("no_worker")) == 1
    become(old, Status.SENT)
    assert of_kind("no_worker") == []


@pytest.mark.parametrize("what", ["fresh", "paused", "held", "scheduled"])
def test_messages_that_may_wait_need_no_worker(what: str) -> None:
    session = make_session()
    (message,) = submit(session, "one", scheduled_at=in_an_hour() if what == "scheduled" else None)
    if what != "fresh":
        Message.objects.filter(pk=message.pk).update(queued_at=ago(minutes=3))
    if what == "paused":
        sessions.act(session, "pause", actor=ACTOR)
    if what == "held":
        hold(session, Hold.DOUBT)
    assert of_kind("no_worker") == []


@pytest.fixture
def overdue() -> Message:
    """The first of two messages that should have gone three minutes ago, with a worker there for five."""
    make_worker(started_at=ago(minutes=5))
    session = make_session()
    first, _ = submit(session, "one", "two")
    Message.objects.update(queued_at=ago(minutes=3))
    type(session).objects.update(updated_at=ago(minutes=9))
    return Message.objects.get(pk=first.pk)


def test_sessions_that_do_not_send_though_workers_live_are_told_of(overdue: Message) -> None:
    (item,) = of_kind("overdue")
    assert (item.session, item.since) == ("alpha", overdue.queued_at)
    become(overdue, Status.SENT)
    SessionDispatch.objects.update(last_sent_at=ago(seconds=5))
    assert of_kind("overdue") == []


def test_a_flight_that_nobody_lands_is_told_of(overdue: Message) -> None:
    become(overdue, Status.SENDING)
    flight = InFlight.objects.create(
        session=overdue.session, slot=0, token=1, message=overdue, worker_id=uuid.uuid4(), fenced_at=ago(minutes=3),
        deadline_at=in_an_hour(),
    )  # fmt: skip
    assert of_kind("overdue") == []
    InFlight.objects.filter(token=flight.token).update(deadline_at=ago(minutes=3))
    assert [item.session for item in of_kind("overdue")] == ["alpha"]


@pytest.mark.parametrize(
    "why", ["worker", "resumed", "paused", "held", "pace", "recipient", "quiet", "retry", "sending"]
)
def test_sessions_that_have_a_reason_to_wait_are_not_overdue(overdue: Message, why: str) -> None:
    dispatch, session = SessionDispatch.objects, type(overdue.session).objects
    match why:
        case "worker":
            Worker.objects.update(started_at=ago(minutes=1))
        case "resumed":
            session.update(updated_at=ago(minutes=1))
        case "paused":
            session.update(desired_state="paused")
        case "held":
            dispatch.update(hold=Hold.REFUSED)
        case "pace":
            dispatch.update(next_send_at=in_an_hour())
        case "recipient":
            RecipientPace.objects.create(
                session=overdue.session, recipient=overdue.recipient, next_send_at=in_an_hour()
            )
        case "quiet":
            dispatch.update(quiet_from=ago(hours=1), quiet_until=in_an_hour())
        case "retry":
            Message.objects.filter(pk=overdue.pk).update(next_attempt_at=in_an_hour())
        case "sending":
            dispatch.update(last_sent_at=ago(minutes=1))
    assert of_kind("overdue") == []


# What waits for a person


def test_held_sessions_are_told_of_longest_first() -> None:
    for name, minutes in (("alpha", 1), ("beta", 3), ("gamma", 2)):
        session = make_session(name)
        hold(session, Hold.REFUSED, hold_reason=f"{name} is banned")
        session.dispatch.__class__.objects.filter(session=session).update(held_at=ago(minutes=minutes))
    found = of_kind("session_held")
    assert [item.session for item in found] == ["beta", "gamma", "alpha"]
    assert found[0].detail == "beta is banned"
    sessions.act(sessions.get("gamma"), "resume", actor=ACTOR)
    assert [item.session for item in of_kind("session_held")] == ["beta", "alpha"]
    sessions.delete(sessions.get("beta"), actor=ACTOR)
    assert [item.session for item in of_kind("session_held")] == ["alpha"]


def test_uncertain_messages_are_told_of_by_session() -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    first = [become(message, Status.UNCERTAIN) for message in submit(alpha, "one", "two", "three")]
    second = become(submit(beta, "one")[0], Status.UNCERTAIN, created_at=ago(days=9))
    found = of_kind("uncertain")
    assert [(item.session, item.count) for item in found] == [("beta", 1), ("alpha", 3)]
    assert [item.since for item in found] == [second.created_at, first[0].created_at]
    Message.objects.filter(session=alpha).update(status=Status.SENT)
    assert [item.session for item in of_kind("uncertain")] == ["beta"]


def test_failures_of_the_last_day_are_told_of_most_first() -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    become(submit(alpha, "one")[0], Status.FAILED, failed_at=ago(hours=1))
    for message in submit(beta, "one", "two"):
        become(message, Status.FAILED, failed_at=ago(hours=2))
    become(submit(beta, "long ago")[0], Status.FAILED, failed_at=ago(hours=25))
    assert [(item.session, item.count) for item in of_kind("failed")] == [("beta", 2), ("alpha", 1)]


def test_workers_that_fell_silent_are_told_of() -> None:
    make_worker(name="alive")
    make_worker(name="gone", heartbeat_at=ago(minutes=1))
    make_worker(name="stopped", heartbeat_at=ago(minutes=1), stopped_at=ago(minutes=1))
    make_worker(name="of last week", heartbeat_at=ago(days=7))
    assert [item.detail for item in of_kind("worker_gone")] == ["gone"]


def test_the_most_urgent_comes_first() -> None:
    session = make_session()
    hold(session, Hold.DOUBT)
    become(submit(session, "one")[0], Status.UNCERTAIN)
    become(submit(session, "two")[0], Status.FAILED, failed_at=ago(hours=1))
    other = make_session("beta")
    become(submit(other, "three")[0], Status.QUEUED, queued_at=ago(minutes=3))
    make_worker(heartbeat_at=ago(minutes=1))
    kinds = [item.kind for item in items()]
    ours = ["no_worker", "session_held", "uncertain", "failed", "worker_gone"]
    assert [kind for kind in kinds if kind in ours] == ours


def test_it_asks_as_often_for_many_as_for_one() -> None:
    def fill(name: str) -> None:
        session = make_session(name)
        hold(session, Hold.UNCERTAIN)
        for message in submit(session, "one", "two"):
            become(message, Status.UNCERTAIN)
        become(submit(session, "three")[0], Status.FAILED, failed_at=ago(hours=1))
        make_worker(heartbeat_at=ago(minutes=1))

    fill("alpha")
    with CaptureQueriesContext(
        connection,
    ) as for_one:
        one = items()
    for at in range(12):
        fill(f"beta-{at}")
    with CaptureQueriesContext(connection) as for_many:
        many = items()
    assert len(many) > 40 > len(one)
    assert len(for_many) == len(for_one) <= 11


def test_messages_that_are_set_aside_are_told_of_before_the_uncertain_and_not_among_them() -> None:
    session = make_session()
    for text in ("one", "two", "three"):
        become(submit(session, text)[0], Status.UNCERTAIN)
    lethal = become(submit(session, "lethal")[0], Status.UNCERTAIN, error_class="poison")
    become(submit(session, "resolved")[0], Status.FAILED, error_class="poison")
    become(submit(make_session("beta"), "lethal")[0], Status.UNCERTAIN, error_class="poison")
    found = [(item.kind, item.session, item.count) for item in items() if item.kind in ("poison", "uncertain")]
    assert found == [("poison", "alpha", 1), ("poison", "beta", 1), ("uncertain", "alpha", 3)]
    assert of_kind("poison")[0].since == lethal.created_at
