"""Look-ups: asked a few times, at due times, without a crowd; only a find resolves, all else is evidence."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from django.db import connection
from django.utils import timezone

from sessions_app.models import (
    Event,
    Hold,
    LookUp,
    LoopbackEntry,
    Message,
    OnUncertain,
    ReceiptStage,
    SessionDispatch,
    Status,
)
from sessions_app.services import look_ups, messages
from sessions_app.services.look_ups import Answer
from sessions_app.transports import registry
from sessions_app.transports.base import Finding, Transport
from sessions_app.worker import look_ups as worker_look_ups
from sessions_app.worker.look_ups import LookUps
from tests import waha_stub
from tests.admin_lab import text_of
from tests.api_client import ApiClient
from tests.dispatch_lab import in_thread
from tests.factories import ACTOR, become, hold, make_session, now, submit
from tests.hook_lab import ack, bare, post, waha_message, waha_session
from tests.waha_lab import KEY
from tests.waha_stub import WahaStub, answering

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def often(settings: Any) -> None:
    """Ask three times."""
    settings.WAQUEUE_LOOK_UP_SECONDS = [3, 15, 60]


@pytest.fixture
def waha() -> Iterator[WahaStub]:
    """Have a WAHA that uses our ids."""
    with WahaStub(api_key=KEY, sessions={"school": waha_stub.WORKING}, takes_ids=True) as started:
        yield started


def uncertain(stub: WahaStub, *, has_it: bool = False, ack: int = 1, **options: Any) -> Message:
    message = become(waha_message(base_url=stub.url, **options), Status.UNCERTAIN, token=1, attempts=1)
    if has_it:
        stub.acks[bare(message)] = ack
    return message


def let_it_be_due() -> None:
    LookUp.objects.filter(asked_at=None).update(due_at=timezone.now() - timedelta(seconds=1))


def rounds(count: int = 1) -> None:
    """Go round as a worker does, as if the time of the next question had come each time."""

    async def act() -> None:
        opened: dict[str, Transport] = {}

        async def transport(name: str) -> Transport:
            if name not in opened:
                opened[name] = registry.get(name)()
                await opened[name].open()
            return opened[name]

        looking = LookUps(transport)
        try:
            for _ in range(count):
                await in_thread(look_ups.plan)
                await in_thread(let_it_be_due)
                await looking.round()
        finally:
            looking.close()
            for each in opened.values():
                await each.close()

    asyncio.run(act())


def outcomes() -> list[str]:
    return list(LookUp.objects.order_by("pk").values_list("outcome", flat=True))


# When


def test_the_first_is_planned_once_for_what_nobody_knows_and_not_at_once() -> None:
    message = become(waha_message(), Status.UNCERTAIN, token=1)
    submit(message.session, "queued")
    assert (look_ups.plan(), look_ups.plan()) == (1, 0)
    look_up = LookUp.objects.get()
    assert (look_up.message, look_up.token, look_up.number, look_up.asked_at) == (message, 1, 1, None)
    assert timedelta(seconds=1) < look_up.due_at - timezone.now() <= timedelta(seconds=3)
    assert look_ups.take(20) == []


def test_an_attempt_that_ends_uncertain_later_has_its_own() -> None:
    message = become(waha_message(), Status.UNCERTAIN, token=1)
    look_ups.plan()
    become(message, Status.UNCERTAIN, token=2)
    assert look_ups.plan() == 1
    let_it_be_due()
    # The first one has nothing to find out any more.
    assert [each.token for each in look_ups.take(20)] == [2]
    assert outcomes() == ["moot", ""]


def test_what_was_never_tried_here_and_is_uncertain_is_asked_for_as_well() -> None:
    become(waha_message(), Status.UNCERTAIN)
    assert (look_ups.plan(), look_ups.plan()) == (1, 0)


def test_nothing_is_asked_where_nobody_wants_it(settings: Any) -> None:
    settings.WAQUEUE_LOOK_UP_SECONDS = []
    become(waha_message(), Status.UNCERTAIN, token=1)
    assert look_ups.plan() == 0
    assert not LookUp.objects.exists()


def test_planning_reads_what_is_unplanned_and_nothing_else() -> None:
    session = waha_session()
    submit(session, *map(str, range(500)))
    with connection.cursor() as cursor:
        # Without it, what is in a line is taken for a row or two, and any index will do.
        cursor.execute("ANALYZE wa_message")
        cursor.execute("SET enable_seqscan = off")
        cursor.execute("EXPLAIN " + look_ups._PLAN, [3, ["waha"]])
        plan = "\n".join(row[0] for row in cursor.fetchall())
        cursor.execute("RESET enable_seqscan")
    assert "wa_message_to_look_up" in plan, plan


def test_each_question_goes_to_one_worker_and_comes_back_if_that_dies() -> None:
    become(waha_message(), Status.UNCERTAIN, token=1)
    look_ups.plan()
    let_it_be_due()
    assert len(look_ups.take(20)) == 1
    assert look_ups.take(20) == []
    let_it_be_due()
    assert len(look_ups.take(20)) == 1


def test_one_of_a_session_is_asked_at_once_and_no_more_than_there_is_room_for() -> None:
    for number in range(4):
        session = waha_session(f"s{number}")
        for message in submit(session, "1", "2"):
            become(message, Status.UNCERTAIN, token=1)
    look_ups.plan()
    let_it_be_due()
    taken = look_ups.take(3)
    assert len(taken) == 3
    assert len({each.session_id for each in taken}) == 3


# What is found


@pytest.mark.parametrize(("ack", "status"), [(0, "sent"), (1, "sent"), (2, "delivered"), (3, "read"), (4, "read")])
def test_a_find_resolves_it_to_as_far_as_it_has_come(waha: WahaStub, ack: int, status: str) -> None:
    message = uncertain(waha, has_it=True, ack=ack, on_uncertain=OnUncertain.HOLD_SESSION)
    hold(message.session, Hold.UNCERTAIN)
    rounds(3)
    assert now(message).status == status
    assert message.provider_id == bare(message)
    assert SessionDispatch.objects.get().hold == Hold.NONE
    assert waha.looked_up == [f"true_51930246633@c.us_{bare(message)}"]
    assert "downloadMedia=false" in waha.paths[0]
    event = Event.objects.get(kind="message.resolved")
    assert (event.data["source"], event.data["resolved_as"]) == ("look_up", status)
    assert outcomes() == ["found"]


def test_what_is_not_found_stays_uncertain_with_the_evidence_and_is_asked_no_more(waha: WahaStub) -> None:
    message = uncertain(waha)
    rounds(5)
    assert now(message).status == Status.UNCERTAIN
    assert outcomes() == ["not_found"] * 3
    assert len(waha.looked_up) == 3
    assert not Event.objects.filter(kind="message.resolved").exists()


def test_it_may_be_found_by_a_later_question(waha: WahaStub) -> None:
    message = uncertain(waha)
    rounds()
    waha.acks[bare(message)] = 2
    rounds()
    assert now(message).status == Status.DELIVERED
    assert outcomes() == ["not_found", "found"]


def mine(stub: WahaStub, **changes: Any) -> dict[str, Any]:
    message = Message.objects.get()
    return waha_stub.accepted("51930246633@c.us", bare(message)) | changes


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (404, {"message": "Message not found", "statusCode": 404}, "not_found"),
        (200, None, "not_found"),
        (401, {"message": "Unauthorized", "statusCode": 401}, "no_answer"),
        (
            422,
            {"error": "Session status is not as expected", "status": "STOPPED", "expected": ["WORKING"]},
            "no_answer",
        ),
        (500, {"statusCode": 500, "exception": {"message": "no frame"}}, "no_answer"),
        (502, None, "no_answer"),
        (200, {"id": "true_51930246633@c.us_3EB0ANOTHER", "fromMe": True, "ack": 3}, "no_answer"),
        (200, [1, 2], "no_answer"),
        (200, {"ack": -1}, "not_found"),
        (200, {"ack": 99}, "not_found"),
        (200, {"fromMe": False}, "no_answer"),
    ],
)
def test_only_the_message_itself_is_a_find(waha: WahaStub, status: int, body: Any, outcome: str) -> None:
    message = uncertain(waha)
    if isinstance(body, dict) and set(body) <= {"ack", "fromMe"}:
        body = mine(waha, **body)
    waha.on_look_up = answering(status, body)
    rounds()
    assert outcomes()[0] == outcome
    assert now(message).status == Status.UNCERTAIN


def test_an_engine_that_is_away_or_hangs_leaves_it_uncertain_and_holds_up_nobody(
    waha: WahaStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_look_ups, "TIMEOUT_SECONDS", 0.5)

    async def hang(stub: WahaStub, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    waha.on_look_up = hang
    hanging = uncertain(waha)
    away = become(waha_message(name="away"), Status.UNCERTAIN, token=1)
    with WahaStub(api_key=KEY, takes_ids=True) as healthy:
        found = uncertain(healthy, has_it=True, name="healthy")
        rounds()
    assert now(found).status == Status.SENT
    for message, words in ((hanging, "did not answer within"), (away, "cannot be reached")):
        assert now(message).status == Status.UNCERTAIN
        asked = LookUp.objects.get(message=message, number=1)
        assert (asked.outcome, words in asked.detail) == ("no_answer", True), asked.detail
        assert LookUp.objects.filter(message=message, number=2, asked_at=None).exists()


def test_what_the_engine_says_is_kept_without_its_secrets(waha: WahaStub, caplog: pytest.LogCaptureFixture) -> None:
    uncertain(waha)
    waha.on_look_up = answering(500, {"message": f"{KEY} of +51930246633"})
    caplog.set_level(logging.DEBUG)
    rounds()
    kept = LookUp.objects.order_by("pk")[0].detail
    for private in (KEY, "51930246633"):
        assert private not in kept and private not in caplog.text


def test_a_transport_that_breaks_its_contract_is_no_answer(waha: WahaStub, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> Finding:
        raise KeyError("oops")

    monkeypatch.setattr(registry.get("waha"), "look_up", broken)
    message = uncertain(waha)
    rounds()
    assert outcomes()[0] == "no_answer"
    assert now(message).status == Status.UNCERTAIN


def test_an_answer_that_comes_after_a_person_decided_changes_nothing(waha: WahaStub) -> None:
    message = uncertain(waha)
    look_ups.plan()
    let_it_be_due()
    (asked,) = look_ups.take(1)
    messages.resolve(message.pk, outcome="failed", actor=ACTOR)
    look_ups.write([Answer(asked, Finding(ReceiptStage.SENT, bare(message)))])
    assert now(message).status == Status.FAILED
    assert outcomes() == ["found"]


def test_a_receipt_makes_the_questions_needless(waha: WahaStub) -> None:
    message = uncertain(waha)
    look_ups.plan()
    post(ack(message, "sent"))
    rounds(2)
    assert outcomes() == ["moot"]
    assert waha.looked_up == []
    assert now(message).status == Status.SENT


# Loopback's ledger


@pytest.mark.parametrize(("kept", "status"), [("accepted", "sent"), ("uncertain", "uncertain"), ("", "uncertain")])
def test_loopback_knows_what_it_accepted(kept: str, status: str) -> None:
    (message,) = submit(make_session(), "Hola")
    become(message, Status.UNCERTAIN, token=7)
    if kept:
        LoopbackEntry.objects.create(
            message_id=message.pk, token=7, session_name="alpha", content={}, outcome=kept, created_at=timezone.now()
        )
    rounds(3)
    assert now(message).status == status
    assert message.provider_id == ("loopback-7" if status == "sent" else "")


# A resend by policy


def test_a_resend_by_policy_is_withdrawn_by_a_find(waha: WahaStub) -> None:
    later = timezone.now() + timedelta(minutes=1)
    message = uncertain(waha, has_it=True, on_uncertain=OnUncertain.RESEND)
    become(message, Status.QUEUED, resends=1, next_attempt_at=later)
    rounds()
    assert (now(message).status, message.resends, message.next_attempt_at) == (Status.SENT, 1, None)


def test_a_resend_by_policy_that_is_not_found_keeps_its_place_and_its_time(waha: WahaStub) -> None:
    later = timezone.now() + timedelta(minutes=1)
    message = uncertain(waha, on_uncertain=OnUncertain.RESEND)
    become(message, Status.QUEUED, resends=1, next_attempt_at=later)
    seq = message.seq
    rounds(4)
    assert (now(message).status, message.seq, message.next_attempt_at) == (Status.QUEUED, seq, later)
    assert outcomes() == ["not_found"] * 3


# What people see


def test_the_history_and_the_page_show_each_question(waha: WahaStub, admin_client: Any) -> None:
    message = uncertain(waha)
    rounds(2)
    waha.acks[bare(message)] = 1
    rounds()
    history = ApiClient().get(f"/whatsapp/messages/{message.pk}")["history"]
    told = [item["what"] for item in history if not item["what"].startswith("message.")]
    assert sorted(told) == ["look_up.found", "look_up.not_found", "look_up.not_found", "receipt.sent"]
    shown = text_of(admin_client.get(f"/admin/sessions_app/message/{message.pk}/change/"))
    for words in ("Look-up 1", "Look-up 3", "the engine does not know it", "the engine has it", "sent to WhatsApp"):
        assert words in shown, words


def test_whatever_an_engine_says_is_kept_and_keeps_no_other_answer_from_being_kept() -> None:
    for name in ("a", "b"):
        become(submit(make_session(name), "text")[0], Status.UNCERTAIN, token=1, attempts=1)
    look_ups.plan()
    let_it_be_due()
    odd, plain = look_ups.take(10)
    look_ups.write([Answer(odd, None, "no text: \x00 \ud800"), Answer(plain, None, "text")])
    asked = LookUp.objects.exclude(asked_at=None).order_by("pk").values_list("detail", flat=True)
    assert list(asked) == ["no text: \ufffd ?", "text"]


def test_an_answer_that_cannot_be_kept_keeps_no_other_from_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        become(submit(make_session(name), "text")[0], Status.UNCERTAIN, token=1, attempts=1)
    look_ups.plan()
    let_it_be_due()
    refused, kept = look_ups.take(10)
    monkeypatch.setattr(look_ups, "writable", lambda text: text)
    look_ups.write([Answer(refused, None, "\x00"), Answer(kept, None, "text")])
    assert list(LookUp.objects.exclude(asked_at=None).values_list("pk", flat=True)) == [kept.pk]
