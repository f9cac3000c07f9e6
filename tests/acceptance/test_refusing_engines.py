"""Engines that refuse, each in its own way, beside a healthy one: that keeps its pace, and each ends as it should."""

import contextlib
import itertools
import statistics
import time
from functools import partial

import pytest
from aiohttp import web

from sessions_app.models import Attempt, Event, Hold, Message, Session, SessionDispatch, Status
from sessions_app.services import sessions, worklist
from sessions_app.services.pacing import Pacing
from tests import waha_stub
from tests.acceptance.engine import Clocked, Engine
from tests.acceptance.stack import ACTOR, Stack
from tests.processes import wait_until
from tests.waha_stub import Behaviour, WahaStub, answering

pytestmark = [
    pytest.mark.acceptance, pytest.mark.django_db(transaction=True), pytest.mark.fault(20), pytest.mark.fault(22),
]  # fmt: skip

PACE_SECONDS = 0.5
SLOW_DOWN_SECONDS = 3
BAD_NUMBER = {"statusCode": 400, "message": ["chatId must be a phone"], "error": "Bad Request"}
BAD_KEY = {"statusCode": 401, "message": "Unauthorized"}


class FirstSo:
    """A behaviour: meet the first request so, all others as a healthy engine does, and note when each came."""

    def __init__(self, how: Behaviour) -> None:
        self._how = how
        self.times: list[float] = []

    async def __call__(self, stub: WahaStub, request: web.Request) -> web.StreamResponse:
        self.times.append(time.monotonic())
        return await (self._how if len(self.times) == 1 else waha_stub.healthy)(stub, request)


def states(session: Session) -> list[tuple[str, int]]:
    """What became of its messages, in order, and after how many tries."""
    return list(Message.objects.filter(session=session).order_by("seq").values_list("status", "attempts"))


def told(session: Session) -> list[str]:
    """What a person is told of it: by its events, and in the worklist."""
    kinds = Event.objects.filter(session=session).order_by("id").values_list("kind", flat=True)
    return [kind for kind in kinds if kind not in ("session.created", "message.queued", "message.sent")] + [
        item.kind for item in worklist.items() if item.session == session.name
    ]


def troubled_engine(stack: Stack, running: contextlib.ExitStack, name: str, how: Behaviour) -> tuple[Engine, Session]:
    """An engine that answers so, until `running` ends, and a session of it with three messages."""
    its_engine = running.enter_context(Engine())
    its_engine.on_send = how
    session = its_engine.session(name)
    stack.submit(session, range(3))
    return its_engine, session


def test_each_session_ends_as_its_engine_has_it_and_a_healthy_one_keeps_its_pace(stack: Stack, engine: Engine) -> None:
    worker = stack.ready_worker(WAQUEUE_SEND_SECONDS="25")
    with contextlib.ExitStack() as running:
        troubled = partial(troubled_engine, stack, running)
        slowing = FirstSo(answering(429, {"message": "slow down"}, Retry_After=str(SLOW_DOWN_SECONDS)))
        hanging, stuck = troubled("stuck", FirstSo(waha_stub.silent))
        closed, refused = troubled("refused", answering(401, BAD_KEY))
        slow, slowed = troubled("slowed", slowing)
        vague = [
            troubled(f"vague{code}", FirstSo(how))
            for code, how in ((502, answering(502, raw=b"")), (201, answering(201, {})))
        ]
        strict, misdialled = troubled("misdialled", FirstSo(answering(400, BAD_NUMBER)))
        wait_until(lambda: all(one.arrived for one in (hanging, closed, slow, strict)), 30, "all of them are troubled")

        clocked = engine.on_send = Clocked()
        pace = Pacing(min_interval_ms=int(1000 * PACE_SECONDS), max_interval_ms=int(1000 * PACE_SECONDS))
        healthy = engine.session("healthy", pacing=pace)
        stack.submit(healthy, range(8))
        wait_until(lambda: states(healthy) == [(Status.SENT, 1)] * 8, 60, "the healthy one is done")
        assert engine.ledger(healthy) == list(range(8))
        # It did not wait for that one: it hangs still.
        assert states(stuck) == [(Status.SENDING, 1), (Status.QUEUED, 0), (Status.QUEUED, 0)]
        gaps = [later - earlier for earlier, later in itertools.pairwise(clocked.times["healthy"])]
        assert statistics.median(gaps) < 2 * PACE_SECONDS
        assert told(healthy) == []

        # Too fast: the line waits for as long as it was asked to.
        ends = [(Status.SENT, 2), (Status.SENT, 1), (Status.SENT, 1)]
        wait_until(lambda: states(slowed) == ends, 60, "all are sent, the first at its second try")
        assert slow.ledger(slowed) == [0, 1, 2]
        assert slowing.times[1] - slowing.times[0] >= SLOW_DOWN_SECONDS - 0.1
        assert told(slowed) == ["message.retried"]

        # A bad number: that message fails, the next one goes on.
        wait_until(
            lambda: states(misdialled) == [(Status.FAILED, 1), (Status.SENT, 1), (Status.SENT, 1)], 60, "it ends"
        )
        assert strict.ledger(misdialled) == [1, 2]
        assert told(misdialled) == ["message.failed", "failed"]

        # No answer: nobody knows of that message, the next one goes on.
        ends = [(Status.UNCERTAIN, 1), (Status.SENT, 1), (Status.SENT, 1)]
        wait_until(lambda: states(stuck) == ends, 60, "all but that one are sent")
        assert hanging.ledger(stuck) == [0, 1, 2]
        assert told(stuck) == ["message.uncertain", "uncertain"]

        # Neither taken nor refused, by its words: nobody knows either.
        for its_engine, session in vague:
            wait_until(lambda session=session: states(session) == ends, 60, "all but that one are sent")
            assert its_engine.ledger(session) == [1, 2]
            assert told(session) == ["message.uncertain", "uncertain"]

        # A bad key: nothing more goes until a person has mended it.
        assert states(refused) == [(Status.QUEUED, 0)] * 3
        assert len(closed.arrived) == 1
        assert SessionDispatch.objects.get(session=refused).hold == Hold.REFUSED
        assert told(refused) == ["session.held", "session_held"]
        assert "session refused is held (refused)" in worker.output
        closed.on_send = None
        sessions.act(refused, "resume", actor=ACTOR)
        wait_until(lambda: states(refused) == [(Status.SENT, 1)] * 3, 60, "it goes on when it is resumed")
        assert closed.ledger(refused) == [0, 1, 2]


def banned(code: int) -> Behaviour:
    """A 403 of WAHA itself, or WhatsApp's own 463: no new chats for this number."""
    if code == 463:
        return waha_stub.failing("2 UNKNOWN: server returned error 463")
    return answering(code, {"statusCode": code, "message": "the account is banned", "error": "Forbidden"})


@pytest.mark.fault(35)
def test_banned_sessions_are_held_and_answers_without_an_end_are_uncertain_beside_a_healthy_one(
    stack: Stack, engine: Engine
) -> None:
    worker = stack.ready_worker(WAQUEUE_SEND_SECONDS="4")
    with contextlib.ExitStack() as running:
        troubled = partial(troubled_engine, stack, running)
        refusing = {f"banned{code}": troubled(f"banned{code}", banned(code)) for code in (403, 463)}
        # By time, and by size: the second one would take days.
        endless = [troubled("dripping", FirstSo(waha_stub.dripping)), troubled("huge", FirstSo(waha_stub.huge(2**40)))]
        wait_until(lambda: all(one.arrived for one, _ in [*refusing.values(), *endless]), 30, "all are troubled")

        clocked = engine.on_send = Clocked()
        pace = Pacing(min_interval_ms=int(1000 * PACE_SECONDS), max_interval_ms=int(1000 * PACE_SECONDS))
        healthy = engine.session("healthy", pacing=pace)
        stack.submit(healthy, range(8))
        for its_engine, session in endless:
            ends = [(Status.UNCERTAIN, 1), (Status.SENT, 1), (Status.SENT, 1)]
            wait_until(lambda session=session, ends=ends: states(session) == ends, 60, "all but that one are sent")
            assert its_engine.ledger(session) == [1, 2]
            outcomes = Attempt.objects.filter(session=session).order_by("token").values_list("outcome", flat=True)
            assert list(outcomes) == ["uncertain", "sent", "sent"]
            assert told(session) == ["message.uncertain", "uncertain"]
        errors = dict(Attempt.objects.filter(outcome="uncertain").values_list("session__name", "error_detail"))
        assert "did not answer in time" in errors["dripping"] and "larger than a megabyte" in errors["huge"], errors

        for name, (its_engine, session) in refusing.items():
            assert states(session) == [(Status.QUEUED, 0)] * 3
            assert len(its_engine.arrived) == 1
            assert SessionDispatch.objects.get(session=session).hold == Hold.REFUSED
            assert told(session) == ["session.held", "session_held"]
            assert f"session {name} is held (refused)" in worker.output
            its_engine.on_send = None
            sessions.act(session, "resume", actor=ACTOR)
            wait_until(lambda session=session: states(session) == [(Status.SENT, 1)] * 3, 60, "it goes on when resumed")

        wait_until(lambda: states(healthy) == [(Status.SENT, 1)] * 8, 60, "the healthy one is done")
        gaps = [later - earlier for earlier, later in itertools.pairwise(clocked.times["healthy"])]
        assert statistics.median(gaps) < 2 * PACE_SECONDS
        assert told(healthy) == []
