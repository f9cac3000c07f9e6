"""Sessions are created, changed, paused and resumed; each act leaves its event and its audit entry."""

from datetime import time, timedelta
from typing import Any

import pytest
import redis
from django.db import transaction
from django.utils import timezone

from sessions_app.exceptions import InvalidInput, SessionExists, SessionNotFound
from sessions_app.models import (
    DesiredState,
    Event,
    EventKind,
    Hold,
    ObservedState,
    OnUncertain,
    Session,
    SessionDispatch,
)
from sessions_app.queues import keys
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from tests.factories import ACTOR, at_once, become, hold, is_due, make_session, submit, traces

pytestmark = pytest.mark.django_db
# For what happens at the commit, or between connections.
committed = pytest.mark.django_db(transaction=True)

SLOW = Pacing(min_interval_ms=1000, max_interval_ms=2000)


def dispatch_of(session: Session) -> SessionDispatch:
    return SessionDispatch.objects.get(session=session)


# Create


def test_a_new_session_can_send_and_is_told_of() -> None:
    session, made = sessions.create(name="alpha", actor=ACTOR)
    assert made
    assert (session.transport, session.config["fail_rate"]) == ("loopback", 0.0)
    assert (session.desired_state, session.observed_state) == (DesiredState.ACTIVE, ObservedState.WORKING)
    assert list(Session.objects.serving()) == [session]
    assert traces(session) == ([EventKind.SESSION_CREATED], ["create session"])
    assert [message.seq for message in submit(session, "one", "two")] == [1, 2]


def test_a_session_that_is_created_stopped_is_observed_as_stopped() -> None:
    assert make_session(desired_state="stopped").observed_state == ObservedState.STOPPED
    assert make_session("beta", desired_state="paused").observed_state == ObservedState.WORKING


@committed
def test_a_new_session_does_not_wait_for_what_one_of_its_name_waited_for(redis_client: redis.Redis) -> None:
    session = make_session()
    redis_client.zadd(keys.DUE, {"alpha": (redis_client.time()[0] + 3600) * 1000})
    sessions.delete(session, actor=ACTOR)
    submit(make_session(), "one")
    assert is_due(redis_client, "alpha")


def test_creating_the_same_again_returns_the_same() -> None:
    options: dict[str, Any] = {"config": {"delay_ms": 5}, "pacing": SLOW, "on_uncertain": "resend"}
    first = make_session(**options)
    again, made = sessions.create(name="alpha", actor=ACTOR, **options)
    assert again.pk == first.pk
    assert not made
    assert traces(first) == ([EventKind.SESSION_CREATED], ["create session"])


@pytest.mark.parametrize(
    ("options", "differing"),
    [
        ({"config": {"delay_ms": 5}}, ["config"]),
        ({"on_uncertain": "resend"}, ["on_uncertain"]),
        ({"desired_state": "paused"}, ["desired_state"]),
        ({"pacing": SLOW}, ["min_interval_ms", "max_interval_ms"]),
        ({"pacing": Pacing(quiet_start=time(1), quiet_end=time(2))}, ["quiet_start", "quiet_end"]),
        ({"config": {"delay_ms": 5}, "desired_state": "stopped"}, ["config", "desired_state"]),
    ],
)
def test_creating_another_of_that_name_says_what_differs(options: dict[str, Any], differing: list[str]) -> None:
    first = make_session()
    with pytest.raises(SessionExists) as caught:
        sessions.create(name="alpha", actor=ACTOR, **options)
    assert sorted(caught.value.extra["differing"]) == sorted(differing)
    assert Session.objects.count() == 1
    assert sessions.get("alpha").config == first.config


@committed
def test_eight_who_create_the_same_at_once_get_the_same() -> None:
    results = at_once(*[lambda: sessions.create(name="alpha", actor=ACTOR)] * 8)
    assert len({session.pk for session, _ in results}) == 1
    assert sum(bool(made) for _, made in results) == 1


@pytest.mark.parametrize("name", ["a", "A", "0", "test-session", "a.b_c-d", "9" * 64])
def test_a_name_may_be_all_of_this(name: str) -> None:
    assert make_session(name).queue_name == f"wa:{name}"


BAD_NAMES = ["", " ", "-a", ".a", "_a", "a b", "a/b", "a:b", "a,b", "a\n", "ñandú", "a\x00", "a" * 65, "a*", "１"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_may_not_be_anything_else(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        sessions.create(name=name, actor=ACTOR)
    assert {error["field"] for error in caught.value.errors} == {"name"}
    assert not Session.objects.exists()


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"transport": "pigeon"}, {"transport"}),
        ({"transport": "p" * 50}, {"transport"}),
        ({"config": {"delay": 5}}, {"config.delay"}),
        ({"config": {"delay_ms": "5", "fail_rate": 2}}, {"config.delay_ms", "config.fail_rate"}),
        ({"max_in_flight": 0}, {"max_in_flight"}),
        ({"max_in_flight": 2}, {"max_in_flight"}),
        ({"max_in_flight": -1}, {"max_in_flight"}),
        ({"on_uncertain": "panic"}, {"on_uncertain"}),
        ({"desired_state": "sleepy"}, {"desired_state"}),
        ({"pacing": Pacing(hourly_cap=-1)}, {"pacing.hourly_cap"}),
        ({"name": "a b", "on_uncertain": "panic", "max_in_flight": 0}, {"name", "on_uncertain", "max_in_flight"}),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_made(options: dict[str, Any], fields: set[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        sessions.create(**{"name": "alpha", "actor": ACTOR, **options})
    assert {error["field"] for error in caught.value.errors} == fields
    assert not Session.objects.exists()
    assert not Event.objects.exists()


def test_a_choice_that_does_not_fit_says_which_do() -> None:
    with pytest.raises(InvalidInput, match="hold, hold_session, resend"):
        sessions.create(name="alpha", actor=ACTOR, on_uncertain="panic")
    with pytest.raises(InvalidInput, match="one of: loopback"):
        sessions.create(name="alpha", actor=ACTOR, transport="pigeon")


def test_a_session_that_is_not_there_is_not_found() -> None:
    with pytest.raises(SessionNotFound, match="there is no session named 'beta'"):
        sessions.get("beta")


# Change


@committed
def test_an_update_changes_what_is_given_and_says_so(redis_client: redis.Redis) -> None:
    session = make_session(config={"delay_ms": 5})
    changed = sessions.update(
        session, actor=ACTOR, config={"fail_rate": 0.5}, on_uncertain="resend", desired_state="paused"
    )
    assert (changed.on_uncertain, changed.desired_state) == (OnUncertain.RESEND, DesiredState.PAUSED)
    assert (changed.config["delay_ms"], changed.config["fail_rate"]) == (5, 0.5)
    event = Event.objects.get(kind=EventKind.SESSION_CHANGED)
    assert event.data == {"by": "command test", "fields": ["config", "desired_state", "on_uncertain"]}
    assert traces(session)[1] == ["create session", "change session"]
    assert is_due(redis_client, "alpha")


@committed
def test_an_update_that_changes_nothing_leaves_no_trace(redis_client: redis.Redis) -> None:
    session = make_session(pacing=SLOW)
    sessions.update(session, actor=ACTOR, config={}, pacing=SLOW, on_uncertain="hold", max_in_flight=1)
    assert traces(session) == ([EventKind.SESSION_CREATED], ["create session"])
    assert not redis_client.exists(keys.DUE)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"config": {"fail_rate": 7}}, "config.fail_rate"),
        ({"pacing": Pacing(daily_cap=-1)}, "pacing.daily_cap"),
        ({"on_uncertain": "panic"}, "on_uncertain"),
        ({"max_in_flight": 2}, "max_in_flight"),
        ({"desired_state": "sleepy"}, "desired_state"),
    ],
)
def test_an_update_that_does_not_fit_changes_nothing(options: dict[str, Any], field: str) -> None:
    session = make_session()
    with pytest.raises(InvalidInput) as caught:
        sessions.update(session, actor=ACTOR, **{"config": {"delay_ms": 7}, **options})
    assert [error["field"] for error in caught.value.errors] == [field]
    assert sessions.get("alpha").config["delay_ms"] == 0
    assert traces(session)[0] == [EventKind.SESSION_CREATED]


@committed
def test_a_quicker_pace_shortens_the_wait_that_the_old_one_imposed(redis_client: redis.Redis) -> None:
    session = make_session(pacing=SLOW)
    SessionDispatch.objects.filter(session=session).update(next_send_at=timezone.now() + timedelta(hours=1))
    sessions.update(session, actor=ACTOR, pacing=Pacing(min_interval_ms=1, max_interval_ms=2))
    until = dispatch_of(session).next_send_at
    assert until is not None
    assert until <= timezone.now() + timedelta(milliseconds=2)
    assert is_due(redis_client, "alpha")


def test_the_same_pace_again_leaves_the_wait_as_it_is() -> None:
    session = make_session(pacing=SLOW)
    until = timezone.now() + timedelta(hours=1)
    SessionDispatch.objects.filter(session=session).update(next_send_at=until)
    sessions.update(session, actor=ACTOR, pacing=SLOW)
    assert dispatch_of(session).next_send_at == until


@pytest.mark.parametrize(
    ("cap", "wait"),
    [({"hourly_cap": 5}, timedelta(minutes=30)), ({"daily_cap": 5}, timedelta(hours=20)), ({"hourly_cap": 6}, None)],
)
def test_a_new_pace_does_not_open_a_cap_that_is_used_up(cap: dict[str, int], wait: timedelta | None) -> None:
    session = make_session(pacing=Pacing(hourly_cap=3))
    now = timezone.now()
    SessionDispatch.objects.filter(session=session).update(
        hour_began_at=now - timedelta(minutes=30), hour_count=5, day_began_at=now - timedelta(hours=4), day_count=5,
        next_send_at=now + timedelta(minutes=30),
    )  # fmt: skip
    sessions.update(session, actor=ACTOR, pacing=Pacing(**cap))
    assert dispatch_of(session).next_send_at == (now + wait if wait else None)


def test_a_cap_whose_hour_is_over_is_open_again() -> None:
    session = make_session(pacing=Pacing(hourly_cap=3))
    SessionDispatch.objects.filter(session=session).update(
        hour_began_at=timezone.now() - timedelta(minutes=61), hour_count=5
    )
    sessions.update(session, actor=ACTOR, pacing=Pacing(hourly_cap=4))
    assert dispatch_of(session).next_send_at is None


def test_new_quiet_hours_count_from_now_on() -> None:
    session = make_session()
    assert dispatch_of(session).quiet_until is None
    sessions.update(session, actor=ACTOR, pacing=Pacing(quiet_start=time(0), quiet_end=time(23, 59)))
    until = dispatch_of(session).quiet_until
    assert until is not None
    assert until > timezone.now()
    sessions.update(session, actor=ACTOR, pacing=Pacing())
    assert dispatch_of(session).quiet_until is None


def test_a_deleted_session_cannot_be_changed() -> None:
    session = make_session()
    sessions.delete(session, actor=ACTOR)
    with pytest.raises(SessionNotFound):
        sessions.update(session, actor=ACTOR, on_uncertain="resend")
    namesake = make_session()
    with pytest.raises(SessionNotFound):
        sessions.update(session, actor=ACTOR, on_uncertain="resend")
    assert traces(session)[0] == [EventKind.SESSION_CREATED, EventKind.SESSION_DELETED]
    assert sessions.get("alpha") == namesake


# Acts


@committed
@pytest.mark.parametrize(
    ("what", "desired", "observed"),
    [
        ("start", "active", "working"),
        ("resume", "active", "failed"),
        ("restart", "active", "working"),
        ("pause", "paused", "failed"),
        ("stop", "stopped", "stopped"),
    ],
)
def test_an_act_changes_what_is_desired(
    what: sessions.Act, desired: str, observed: str, redis_client: redis.Redis
) -> None:
    session = make_session()
    Session.objects.update(desired_state="paused", observed_state="failed", observed_reason="why")
    acted = sessions.act(session, what, actor=ACTOR)
    assert (acted.desired_state, acted.observed_state) == (desired, observed)
    assert acted.observed_reason == ("why" if observed == "failed" else "")
    event = Event.objects.get(kind=EventKind.SESSION_STATE_CHANGED)
    assert event.data == {"by": "command test", "act": what, "desired_state": desired}
    assert traces(session)[1] == ["create session", f"{what} session"]
    assert is_due(redis_client, "alpha")


@pytest.mark.parametrize("why", [why for why in Hold if why])
def test_a_hold_ends_when_somebody_resumes_the_session(why: Hold) -> None:
    session = make_session()
    hold(session, why, hold_reason="why", uncertain_streak=2)
    assert list(Session.objects.held()) == [session]
    sessions.act(session, "resume", actor=ACTOR)
    dispatch = dispatch_of(session)
    assert (dispatch.hold, dispatch.hold_reason, dispatch.held_at, dispatch.uncertain_streak) == ("", "", None, 0)


@pytest.mark.parametrize("what", ["pause", "stop"])
def test_a_hold_stays_when_the_session_is_paused_or_stopped(what: sessions.Act) -> None:
    session = make_session()
    hold(session, Hold.REFUSED)
    sessions.act(session, what, actor=ACTOR)
    assert dispatch_of(session).hold == Hold.REFUSED


@committed
def test_an_act_on_several_counts_those_that_there_are(redis_client: redis.Redis) -> None:
    alpha, beta, gamma = (make_session(name) for name in ("alpha", "beta", "gamma"))
    sessions.delete(beta, actor=ACTOR)
    redis_client.delete(keys.DUE)
    assert sessions.act_on([alpha.pk, beta.pk, 10**9], "pause", actor=ACTOR) == 1
    assert [session.desired_state for session in Session.objects.alive()] == ["paused", "active"]
    assert traces(gamma)[0] == [EventKind.SESSION_CREATED]
    assert redis_client.zrange(keys.DUE, 0, -1) == [b"alpha"]
    assert sessions.act_on([], "pause", actor=ACTOR) == 0


def test_an_act_on_a_deleted_session_says_that_it_is_gone() -> None:
    session = make_session()
    sessions.delete(session, actor=ACTOR)
    with pytest.raises(SessionNotFound, match="was deleted"):
        sessions.act(session, "resume", actor=ACTOR)


def test_pausing_all_and_resuming_all_leave_the_stopped_alone() -> None:
    for name in ("alpha", "beta"):
        make_session(name)
    make_session("gamma", desired_state="stopped")
    hold(sessions.get("beta"), Hold.DOUBT)
    assert sessions.act_on_all("pause", actor=ACTOR) == 2
    assert sessions.act_on_all("pause", actor=ACTOR) == 0
    assert [session.desired_state for session in Session.objects.all()] == ["paused", "paused", "stopped"]
    assert sessions.act_on_all("resume", actor=ACTOR) == 2
    assert [session.desired_state for session in Session.objects.all()] == ["active", "active", "stopped"]
    assert not Session.objects.held().exists()


@committed
def test_an_act_that_is_rolled_back_leaves_nothing(redis_client: redis.Redis) -> None:
    session = make_session()

    class Oops(Exception):
        pass

    with pytest.raises(Oops), transaction.atomic():
        sessions.act(session, "pause", actor=ACTOR)
        sessions.update(session, actor=ACTOR, on_uncertain="resend")
        become(submit(session, "one")[0], "failed")
        raise Oops
    again = sessions.get("alpha")
    assert (again.desired_state, again.on_uncertain) == ("active", "hold")
    assert traces(session) == ([EventKind.SESSION_CREATED], ["create session"])
    assert redis_client.dbsize() == 0
