"""A real worker and WAHA's simulator: sent with the engine's id, held while it is away, and on when it is back."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from sessions_app.models import Attempt, Event, Hold, Message, Session, Status
from sessions_app.queues.mirror import signal
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from sessions_app.worker import probes
from tests import waha_stub
from tests.acceptance.stack import ACTOR, Stack
from tests.hook_lab import event, post_over_http, signature
from tests.processes import Process, find_free_port, gunicorn, wait_until
from tests.redis_lab import Lab
from tests.waha_lab import HOOK
from tests.waha_stub import WORKING, WahaStub

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

KEY = "sesame-0f-the-engine"


@pytest.fixture
def stub() -> Iterator[WahaStub]:
    """Have a WAHA, not started: nobody listens at its port."""
    with WahaStub(api_key=KEY) as made:
        made.stop()
        yield made


def waha_session(stub: WahaStub, name: str, **options: Any) -> Session:
    """Make a session of ours and one of its name there. Without WAHA's pace, which takes a minute a message."""
    stub.sessions[name] = WORKING
    config = {"base_url": stub.url, "api_key": KEY, "webhook_secret": options.pop("webhook_secret", "")}
    return sessions.create(name=name, transport="waha", config=config, pacing=Pacing(), actor=ACTOR, **options)[0]


def hold_of(session: Session) -> str:
    """Why it is held, as PostgreSQL has it now."""
    return str(Session.objects.select_related("dispatch").get(pk=session.pk).dispatch.hold)


def session_state(session: Session) -> str:
    """How its engine has it, as far as it was asked."""
    return str(Session.objects.get(pk=session.pk).observed_state)


def test_what_is_submitted_is_sent_in_order_with_the_engines_ids(stack: Stack, stub: WahaStub) -> None:
    stub.start()
    served = [waha_session(stub, f"school-{number}") for number in range(5)]
    for session in served:
        stack.submit(session, range(20))
    worker = stack.ready_worker()
    stack.wait_for(100, Status.SENT, within_s=60)
    for session in served:
        texts = [sent.text for sent in stub.accepted if sent.body["session"] == session.name]
        assert texts == [str(number) for number in range(20)]
    ids = set(Message.objects.values_list("provider_id", flat=True))
    assert ids == {f"3EB0{number:08d}" for number in range(1, 101)}
    assert ids == set(Attempt.objects.values_list("provider_id", flat=True))
    assert stub.connections < 20
    assert KEY not in worker.output


@pytest.mark.fault(21)
def test_while_the_engine_is_away_the_queue_is_held_and_goes_on_by_itself(stack: Stack, stub: WahaStub) -> None:
    session = waha_session(stub, "school")
    stack.submit(session, range(3))
    worker = stack.ready_worker()
    wait_until(lambda: hold_of(session) == Hold.NOT_CONNECTED, 30, "the session is held")
    reason = Session.objects.get(pk=session.pk).observed_reason
    assert reason == f"the engine at {stub.url} cannot be reached: connection refused"
    assert set(Message.objects.values_list("status", "attempts")) == {(Status.QUEUED, 0)}
    assert f"session school is held (not_connected): {reason}" in worker.output

    stub.start()
    stack.wait_for(3, Status.SENT, within_s=60)
    assert [sent.text for sent in stub.accepted] == ["0", "1", "2"]
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}
    session.refresh_from_db()
    assert (session.observed_state, session.observed_reason, session.phone) == ("working", "", "+5511999990001")
    assert Event.objects.filter(kind="session.held").count() == 1


def held_by_its_engine(stack: Stack, stub: WahaStub, state: str | None) -> Session:
    """Have a session with three messages held, because its engine has it in this state, or does not know it."""
    stub.start()
    session = waha_session(stub, "school", webhook_secret=HOOK)
    if state is None:
        del stub.sessions["school"]
    else:
        stub.sessions["school"] = state
    stack.submit(session, range(3))
    worker = stack.ready_worker()
    wait_until(lambda: hold_of(session) == Hold.NOT_CONNECTED, 30, "the session is held")
    assert set(Message.objects.values_list("status", "attempts")) == {(Status.QUEUED, 0)}
    assert [sent.text for sent in stub.arrived] == ["0"]
    wait_until(lambda: "session school is held (not_connected): WAHA " in worker.output, 30, "it is said")
    return session


def assert_it_went_on(stack: Stack, stub: WahaStub, session: Session) -> None:
    """Fail unless all three go now, in order and each at its first try."""
    stack.wait_for(3, Status.SENT, within_s=60)
    assert [sent.text for sent in stub.accepted] == ["0", "1", "2"]
    # It was asked once, when nobody knew, and not again before its engine had said that it works.
    assert [sent.text for sent in stub.arrived] == ["0", "0", "1", "2"]
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}
    assert (hold_of(session), Event.objects.filter(kind="session.held").count()) == ("", 1)


@pytest.mark.fault(21)
@pytest.mark.parametrize("state", ["STOPPED", None])
def test_while_the_engine_says_that_it_is_not_connected_the_queue_is_held_and_goes_on_by_itself(
    stack: Stack, stub: WahaStub, state: str | None
) -> None:
    session = held_by_its_engine(stack, stub, state)
    stub.sessions["school"] = WORKING
    assert_it_went_on(stack, stub, session)


@pytest.mark.fault(21)
def test_news_of_the_session_over_http_have_it_go_on_at_once(
    stack: Stack, stub: WahaStub, process: Callable[..., Process]
) -> None:
    port = find_free_port()
    web = process(gunicorn, stack.environ, port)
    session = held_by_its_engine(stack, stub, "STOPPED")
    lab = Lab(redis.Redis.from_url(stack.redis.url))
    wait_until(lambda: "/api/sessions/school" in stub.paths, 30, "its engine is asked")
    wait_until(lambda: 5_000 < (lab.delay("school") or 0) <= probes.INTERVAL_MS, 30, "it is put off")
    assert hold_of(session) == Hold.NOT_CONNECTED
    # It would be asked again soon: what is to be seen is that the news are a reason.
    lab.due_in(school=3_600_000)
    wait_until(lambda: f"Listening at: http://127.0.0.1:{port}" in web.output, 60, "the web process listens")
    body = event("session.status", {"name": "school", "status": "WORKING", "statuses": [], "data": None})
    assert post_over_http(port, body, signed=signature(body, "guessed")) == 403
    assert hold_of(session) == Hold.NOT_CONNECTED
    stub.sessions["school"] = WORKING
    assert post_over_http(port, body) == 200
    assert_it_went_on(stack, stub, session)


def test_a_session_in_doubt_goes_on_when_its_engine_says_that_it_works(stack: Stack, stub: WahaStub) -> None:
    stub.on_send = waha_stub.resetting
    stub.start()
    session = waha_session(stub, "school")
    stub.on_status = waha_stub.answering(200, {"name": "school", "status": "STARTING"})
    stack.submit(session, range(3))
    worker = stack.ready_worker()
    wait_until(lambda: hold_of(session) == Hold.DOUBT, 30, "two in a row are uncertain")
    wait_until(lambda: "session school is held (doubt)" in worker.output, 30, "it is said")
    wait_until(lambda: session_state(session) == "starting", 30, "its engine is asked")
    assert hold_of(session) == Hold.DOUBT
    assert [sent.text for sent in stub.accepted] == ["0", "1"]
    stub.on_send = stub.on_status = None
    signal("school")
    stack.wait_for(1, Status.SENT, within_s=60)
    assert [sent.text for sent in stub.accepted] == ["0", "1", "2"]
    assert list(Message.objects.order_by("seq").values_list("status", flat=True)) == ["uncertain", "uncertain", "sent"]
    dispatch = Session.objects.select_related("dispatch").get(pk=session.pk).dispatch
    assert (dispatch.hold, dispatch.uncertain_streak) == ("", 0)


@pytest.mark.fault(24)
@pytest.mark.parametrize("count", [1, 100])
def test_while_engines_hang_all_other_sessions_keep_their_pace(stack: Stack, stub: WahaStub, count: int) -> None:
    stub.start()
    with WahaStub(api_key=KEY) as hanging:
        hanging.on_send = waha_stub.silent
        stuck = [waha_session(hanging, f"stuck-{number}") for number in range(count)]
        served = [waha_session(stub, f"school-{number}") for number in range(20)]
        for session in stuck:
            stack.submit(session, range(2))
        stack.ready_worker(WAQUEUE_SEND_SECONDS="120")
        wait_until(lambda: len(hanging.arrived) == count, 60, "all that hang are being sent")
        for session in served:
            stack.submit(session, range(10))
        stack.wait_for(200, Status.SENT, within_s=60)
        # They did not wait for those: these hang still.
        assert set(Message.objects.filter(session__in=stuck).values_list("status", flat=True)) == {"sending", "queued"}
        assert stack.count(Status.SENDING) == len(hanging.arrived) == count
        for session in served:
            texts = [sent.text for sent in stub.accepted if sent.body["session"] == session.name]
            assert texts == [str(number) for number in range(10)]


def test_a_worker_without_the_key_of_the_secrets_holds_the_session_and_says_so(stack: Stack, stub: WahaStub) -> None:
    stub.start()
    session = waha_session(stub, "school")
    stack.submit(session, range(2))
    blind = stack.ready_worker(WAQUEUE_SECRET_KEY="another-secret-key-of-more-than-fifty-characters-0123456789")
    wait_until(lambda: hold_of(session) == Hold.REFUSED, 30, "the session is held")
    assert "cannot be read with the keys that are set: api_key" in blind.output
    assert "gAAAA" not in blind.output
    assert not stub.paths
    assert blind.stop(30) == 0
    stack.ready_worker()
    sessions.act(session, "resume", actor=ACTOR)
    stack.wait_for(2, Status.SENT, within_s=30)
    assert [sent.text for sent in stub.accepted] == ["0", "1"]
