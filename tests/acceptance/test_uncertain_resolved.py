"""An answer never came: the engine's webhook or a look-up tells what became of the message, and its session goes on."""

from collections.abc import Callable, Iterator

import pytest

from sessions_app.models import Event, LookUp, Message, OnUncertain, Session, Status
from tests import waha_stub
from tests.acceptance.stack import Stack
from tests.hook_lab import ack, post_over_http, signature, waha_session
from tests.processes import Process, find_free_port, gunicorn, wait_until
from tests.waha_lab import KEY
from tests.waha_stub import WahaStub

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

OFTEN = {"WAQUEUE_LOOK_UP_SECONDS": "0.5,2"}


@pytest.fixture
def waha() -> Iterator[WahaStub]:
    """Have a WAHA that uses our ids."""
    with WahaStub(api_key=KEY, sessions={"school": waha_stub.WORKING}, takes_ids=True) as started:
        yield started


def failing_once(waha: WahaStub, how: waha_stub.Behaviour) -> waha_stub.Behaviour:
    """Do so with the first message, and as a healthy WAHA with all others."""

    async def act(stub: WahaStub, request: waha_stub.web.Request) -> waha_stub.web.StreamResponse:
        stub.on_send = None
        return await how(stub, request)

    waha.on_send = act
    return act


def texts(waha: WahaStub) -> list[str]:
    return [sent.text for sent in waha.accepted]


def hold_of(session: Session) -> str:
    return str(Session.objects.select_related("dispatch").get(pk=session.pk).dispatch.hold)


@pytest.mark.fault(20)
def test_a_webhook_resolves_it_and_the_held_session_goes_on(
    stack: Stack, waha: WahaStub, process: Callable[..., Process]
) -> None:
    port = find_free_port()
    web = process(gunicorn, stack.environ, port)
    failing_once(waha, waha_stub.resetting)
    session = waha_session(base_url=waha.url, on_uncertain=OnUncertain.HOLD_SESSION)
    first, *_ = stack.submit(session, range(3))
    stack.ready_worker()
    wait_until(lambda: hold_of(session) == "uncertain", 60, "the session is held for its message")
    assert texts(waha) == ["0"]

    body = ack(first, "delivered")
    wait_until(lambda: f"Listening at: http://127.0.0.1:{port}" in web.output, 60, "the web process listens")
    assert post_over_http(port, body, signed=signature(body, "guessed")) == 403
    assert stack.count(Status.UNCERTAIN) == 1
    assert [post_over_http(port, body) for _ in range(3)] == [200] * 3
    stack.wait_for(2, Status.SENT, within_s=60)
    assert Message.objects.get(pk=first.pk).status == Status.DELIVERED
    assert texts(waha) == ["0", "1", "2"]
    assert Event.objects.filter(kind="message.resolved").count() == 1


@pytest.mark.fault(20)
def test_a_look_up_finds_it_and_the_held_session_goes_on(stack: Stack, waha: WahaStub) -> None:
    failing_once(waha, waha_stub.resetting)
    session = waha_session(base_url=waha.url, on_uncertain=OnUncertain.HOLD_SESSION)
    stack.submit(session, range(3))
    stack.ready_worker(**OFTEN)
    stack.wait_for(3, Status.SENT, within_s=60)
    assert texts(waha) == ["0", "1", "2"]
    assert LookUp.objects.get().outcome == "found"
    assert hold_of(session) == ""


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("how", "answers"), [(waha_stub.resetting, ["found"]), (waha_stub.resetting_unread, ["not_found", "not_found"])]
)
def test_under_resend_it_is_sent_again_only_if_it_was_not_found_and_nothing_overtakes_it(
    stack: Stack, waha: WahaStub, how: waha_stub.Behaviour, answers: list[str]
) -> None:
    failing_once(waha, how)
    session = waha_session(base_url=waha.url, on_uncertain=OnUncertain.RESEND)
    first, *_ = stack.submit(session, range(3))
    stack.ready_worker(**OFTEN)
    stack.wait_for(3, Status.SENT, within_s=90)
    assert texts(waha) == ["0", "1", "2"]
    first.refresh_from_db()
    assert (first.resends, first.attempts) == (1, len(answers))
    assert list(LookUp.objects.order_by("pk").values_list("outcome", flat=True)) == answers


def test_what_a_killed_worker_had_handed_over_is_found_in_the_ledger_and_sent_once(stack: Stack) -> None:
    session = stack.session("victim", delay_ms=2000, on_uncertain=OnUncertain.HOLD_SESSION)
    stack.submit(session, range(3))
    environ = OFTEN | {"WAQUEUE_SEND_SECONDS": "10"}
    worker = stack.worker(**environ)
    wait_until(lambda: stack.ledger(session) == [0], 60, "the first is being sent")
    worker.kill()
    stack.worker(**environ)
    stack.wait_for(3, Status.SENT, within_s=180)
    stack.assert_in_order_and_once(session, 3)
    assert Event.objects.filter(kind="message.uncertain").count() == 1
    assert Event.objects.get(kind="message.resolved").data["source"] == "look_up"
