"""A real worker and WAHA's simulator: sent with the engine's id, held while it is away, and on when it is back."""

from collections.abc import Iterator
from typing import Any

import pytest

from sessions_app.models import Attempt, Event, Hold, Message, Session, Status
from sessions_app.services import sessions
from sessions_app.services.pacing import Pacing
from tests import waha_stub
from tests.acceptance.stack import ACTOR, Stack
from tests.processes import wait_until
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
    config = {"base_url": stub.url, "api_key": KEY}
    return sessions.create(name=name, transport="waha", config=config, pacing=Pacing(), actor=ACTOR, **options)[0]


def hold_of(session: Session) -> str:
    """Why it is held, as PostgreSQL has it now."""
    return str(Session.objects.select_related("dispatch").get(pk=session.pk).dispatch.hold)


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
