"""A state machine over everything that may befall both stores, with the promises as its invariants.

WAQUEUE_TEST_SEED and WAQUEUE_TEST_EXAMPLES look elsewhere, and longer; WAQUEUE_TEST_SHRINK makes a failure small.
"""

import asyncio
import contextlib
import os
import sys
import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from django.db import connection
from django.db.models import F
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rq import Queue
from rq.serializers import JSONSerializer

from sessions_app.database import connect
from sessions_app.exceptions import OutcomeUnknown, SessionHasUnsentMessages
from sessions_app.models import Message, Orphan, OrphanEntry, OrphanState, Session, Status
from sessions_app.queues import keys
from sessions_app.queues.connection import deployment_id
from sessions_app.queues.dispatch import DispatchQueues, GiveBack, SettledJob
from sessions_app.reconciliation import rebuild
from sessions_app.services import messages, orphans, sessions
from sessions_app.worker.fence import Fenced, Verdict, fence, own_flights
from sessions_app.worker.landing import _next_look
from sessions_app.worker.outcomes import accepted, refused
from sessions_app.worker.settle import settle
from tests.factories import ACTOR, submit
from tests.reconciliation_lab import in_order, legacy_entry, run, stock_queue

_TEN_SECONDS = timedelta(seconds=10)
NAMES = st.sampled_from(["a", "b"])
GARBAGE = st.sampled_from([b"", b"\xff\xfe", b"no id", b"0b5b1a1e-0000-7000-8000-000000000000", b"{"])
CRASHES = st.sampled_from([None, None, None, "claim", "fence", "send", "settle"])
_TABLES = (
    "wa_orphan_entry, wa_in_flight, wa_attempt, wa_event, wa_audit_entry, wa_reconciliation_finding, "
    "wa_reconciliation, wa_message, wa_orphan, wa_session_dispatch, wa_session_counter, wa_session"
)


class World(RuleBasedStateMachine):
    """Sessions, producers, a worker that dies, a Redis that is lost, and people. Every text is one message."""

    def __init__(self) -> None:
        super().__init__()
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {_TABLES} CASCADE")
        self.client = redis.Redis.from_url(django_settings.REDIS_URL)
        self.client.flushdb()
        in_order()
        self.runner = asyncio.Runner()
        self.connection = self.runner.run(connect())
        self.queues = DispatchQueues(deployment_id())
        self.worker = uuid.uuid4()
        self.count = 0
        # What was answered with 202, and what others have put into Redis.
        self.promised: list[str] = []
        self.foreign: set[str] = set()
        self.cancelled: set[str] = set()
        # What the engine got: the session's row, the place in its line, the text.
        self.ledger: list[tuple[int, int, str]] = []
        self.resent: Counter[str] = Counter()
        self.snapshot: dict[bytes, Any] | None = None

    def texts(self, count: int) -> list[str]:
        self.count += count
        return [f"m{number}" for number in range(self.count - count, self.count)]

    def session(self, name: str) -> Session | None:
        return Session.objects.alive().filter(name=name).first()

    # Clients

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        sessions.create(name=name, actor=ACTOR)

    @initialize()
    def begin(self) -> None:
        self.submit("a", 3, is_put=True)

    @rule(name=NAMES, count=st.integers(1, 3), is_put=st.booleans())
    def submit(self, name: str, count: int, is_put: bool) -> None:
        session, _ = sessions.create(name=name, actor=ACTOR)
        texts = self.texts(count)
        with pytest.MonkeyPatch.context() as patch:
            if not is_put:
                # The web process dies between the commit and the put.
                patch.setattr(messages, "put", lambda *_: None)
            submit(session, *texts)
        self.promised += texts

    @rule(name=NAMES, unsent=st.sampled_from(["refuse", "cancel", "orphan", "orphan"]))
    def delete(self, name: str, unsent: Any) -> None:
        session = self.session(name)
        if session is None:
            return
        waiting = set(Message.objects.filter(session=session, status=Status.QUEUED).values_list("text", flat=True))
        try:
            sessions.delete(session, actor=ACTOR, unsent=unsent)
        except SessionHasUnsentMessages:
            return
        if unsent == "cancel":
            self.cancelled |= waiting

    # The worker

    @rule(crash=CRASHES, rounds=st.integers(0, 2))
    def work(self, crash: str | None, rounds: int) -> None:
        for _ in range(rounds):
            self.runner.run(self._work(None))
        self.runner.run(self._work(crash))

    async def _work(self, crash: str | None) -> bool:
        claim = await self.queues.claim(10)
        known = await self.connection.execute("SELECT redis_generation FROM wa_deployment")
        if (claim.generation,) != await known.fetchone():
            await asyncio.to_thread(_in_thread, rebuild.rebuild, claim.generation)
        if crash == "claim" or not claim.sessions:
            return bool(claim.sessions)
        fenced = await fence(self.connection, self.worker, claim.sessions)
        if crash == "fence":
            return True
        await self.queues.give_back(
            [GiveBack(one.claimed, 0 if one.verdict == Verdict.OVERTAKEN else one.delay_ms) for one in fenced.waiting]
        )
        await self._send(fenced, crash)
        return True

    async def _send(self, fenced: Fenced, crash: str | None) -> None:
        settlements = [refused(flight, OutcomeUnknown("nobody knows")) for flight in fenced.abandoned]
        for flight in fenced.flights:
            place = await self.connection.execute("SELECT seq FROM wa_message WHERE id = %s", [flight.message_id])
            (seq,) = await place.fetchone() or (0,)
            self.ledger.append((flight.session_id, seq, str(flight.content["text"])))
            settlements.append(accepted(flight, "engine"))
        if crash == "send" or not settlements:
            return
        settled = await settle(self.connection, settlements)
        if crash == "settle":
            return
        await self.queues.give_back(
            [GiveBack(one.settlement.flight.claimed, _next_look(one)) for one in settled],  # type: ignore[arg-type]
            [
                SettledJob(one.settlement.flight.session_name, str(one.settlement.flight.message_id))
                for one in settled
                if one.is_current and not one.is_open
            ],
            max(one.settlement.flight.token for one in settled),
        )

    @rule()
    def judge(self) -> None:
        """The dead worker's flights are given up."""

        async def act() -> None:
            flights = await own_flights(self.connection, self.worker)
            await settle(self.connection, [refused(flight, OutcomeUnknown("its worker died")) for flight in flights])
            await self.queues.signal([flight.session_name for flight in flights])

        self.runner.run(act())

    # What befalls Redis

    @rule()
    def lose_redis(self) -> None:
        self.client.flushdb()
        # What others had there and nobody has archived is gone with it.
        kept = set(OrphanEntry.objects.values_list("content__text", flat=True))
        self.foreign &= kept | set(Message.objects.values_list("text", flat=True))

    @rule()
    def keep_redis(self) -> None:
        self.snapshot = {key: self.client.dump(key) for key in self.client.scan_iter()}

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def old_redis(self) -> None:
        self.lose_redis()
        assert self.snapshot is not None
        for key, value in self.snapshot.items():
            self.client.restore(key, 0, value)
        self.client.hset(keys.META, "run_id", "another life")

    @rule(name=NAMES, raw=GARBAGE, is_first=st.booleans())
    def garbage(self, name: str, raw: bytes, is_first: bool) -> None:
        push = self.client.lpush if is_first else self.client.rpush
        push(keys.queue_key(name), raw)
        push(f"queue:{name}", raw)

    @rule(name=NAMES, count=st.integers(1, 2), hours_ago=st.sampled_from([1, 48]), is_kept=st.booleans())
    def foreign_jobs(self, name: str, count: int, hours_ago: float, is_kept: bool) -> None:
        texts = self.texts(count)
        stock_queue(self.client, name, texts, hours_ago=hours_ago)
        self.foreign |= set(texts)
        if is_kept:
            self.keep_redis()

    @rule(name=NAMES, hours_ago=st.sampled_from([1, 48]))
    def old_service(self, name: str, hours_ago: float) -> None:
        (text,) = self.texts(1)
        self.client.rpush(f"queue:{name}", legacy_entry(text, hours_ago=hours_ago, id=text))
        self.foreign.add(text)

    @rule(name=NAMES, at=st.integers(0, 3), what=st.sampled_from(["twice", "hash", "back", "out"]))
    def disturb(self, name: str, at: int, what: str) -> None:
        key = keys.queue_key(name)
        job = self.client.lindex(key, at)
        known = {str(pk).encode() for pk in Message.objects.values_list("pk", flat=True)}
        if job is None or job not in known:
            return
        if what == "hash":
            self.client.delete(b"rq:job:" + job)
            return
        if what != "twice":
            self.client.lrem(key, 1, job)
        if what != "out":
            self.client.rpush(key, job)

    @rule(name=NAMES)
    def stock_reader(self, name: str) -> None:
        """An unmodified rq lists the jobs, and removes those whose hash is gone."""
        # One bad entry stops it; what it did until then is done.
        with contextlib.suppress(ValueError):
            Queue(f"wa:{name}", connection=self.client, serializer=JSONSerializer).jobs  # noqa: B018

    # People

    @rule(to=NAMES)
    def restore(self, to: str) -> None:
        session, _ = sessions.create(name=to, actor=ACTOR)
        for orphan in Orphan.objects.filter(state=OrphanState.ARCHIVED).order_by("first_seen_at"):
            orphans.restore(orphan, session, actor=ACTOR)

    @rule()
    def resend(self) -> None:
        message = Message.objects.filter(status=Status.UNCERTAIN, session__deleted_at=None).first()
        if message is not None:
            messages.resolve(message.pk, outcome="resend", actor=ACTOR)
            self.resent[message.text] += 1

    @rule()
    def reconcile(self) -> None:
        # Whoever was not put has waited long enough to be missed.
        Message.objects.filter(queued_at__isnull=False).update(queued_at=F("queued_at") - _TEN_SECONDS)
        run()
        left = [(one.kind, one.session, one.detail) for one in run(dry_run=True).findings.all()]
        assert [one for one in left if one[0] != "legacy_queue"] == [], left

    # What always holds

    @invariant()
    def nothing_is_lost(self) -> None:
        rows = dict(Message.objects.values_list("text", "status"))
        waiting = set(
            OrphanEntry.objects.filter(orphan__state=OrphanState.ARCHIVED, restored_at=None).values_list(
                "content__text", flat=True
            )
        )
        for text in self.promised:
            assert text in rows, f"{text} has no row"
            if rows[text] == Status.ORPHANED:
                assert text in waiting, f"{text} is orphaned and in no orphan"
            elif rows[text] == Status.CANCELLED:
                assert text in self.cancelled, f"{text} was cancelled by nobody"
            elif rows[text] == Status.SENT:
                assert text in self.handed, f"{text} says sent and was not handed over"

    @property
    def handed(self) -> Counter[str]:
        return Counter(text for _, _, text in self.ledger)

    @invariant()
    def nothing_is_handed_over_twice_unless_somebody_asked(self) -> None:
        for text, count in self.handed.items():
            assert count <= 1 + self.resent[text], f"{text} was handed over {count} times"
        assert not self.cancelled & set(self.handed), "a cancelled message was handed over"

    @invariant()
    def each_session_sends_in_order(self) -> None:
        last: dict[int, int] = {}
        for session, seq, text in self.ledger:
            if not self.resent[text]:
                assert last.get(session, -1) < seq, f"{text} overtook, or was overtaken"
                last[session] = seq

    def teardown(self) -> None:
        try:
            self.everything_goes_out_in_the_end()
        finally:
            self.runner.run(self.queues.close())
            self.runner.run(self.connection.close())
            self.runner.close()
            self.client.close()

    def everything_goes_out_in_the_end(self) -> None:
        """Dead workers are judged, people resume what was held, time passes; then nothing that may go is left."""
        self.judge()
        sessions.act_on(list(Session.objects.alive().values_list("pk", flat=True)), "resume", actor=ACTOR)
        # Being resumed signals as well: what is looked at here is what reconciliation alone finds.
        self.client.delete(keys.DUE)
        self.reconcile()
        for _ in range(self.count + 10):
            for name, _ in self.client.zscan_iter(keys.DUE):
                self.client.zadd(keys.DUE, {name: 0}, xx=True)
            if not self.runner.run(self._work(None)):
                break
        stuck = Message.objects.open().filter(session__deleted_at=None).exclude(session__dispatch__hold="doubt")
        assert list(stuck.values_list("text", "status")) == []
        self.nothing_is_lost()
        self.nothing_is_handed_over_twice_unless_somebody_asked()
        self.each_session_sends_in_order()
        self.reconcile()
        self.nothing_foreign_is_lost()

    def nothing_foreign_is_lost(self) -> None:
        kept = set(OrphanEntry.objects.values_list("content__text", flat=True))
        kept |= set(Message.objects.values_list("text", flat=True))
        raw = b" ".join(entry for key in self.client.scan_iter("queue:*") for entry in self.client.lrange(key, 0, -1))
        lost = {text for text in self.foreign - kept if f'"{text}"'.encode() not in raw}
        assert not lost, f"{lost} are nowhere"


def _in_thread(act: Any, *args: Any) -> None:
    try:
        act(*args)
    finally:
        connection.close()


@pytest.mark.fault(17)
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("without_pause")
@pytest.mark.timeout(900)
def test_the_promises_hold_whatever_happens() -> None:
    number = int(os.environ.get("WAQUEUE_TEST_SEED", "20251112"))
    sys.stdout.write(f"WAQUEUE_TEST_SEED={number}\n")
    run_state_machine_as_test(
        seed(number)(World),
        settings=settings(
            max_examples=int(os.environ.get("WAQUEUE_TEST_EXAMPLES", "20")),
            stateful_step_count=40,
            deadline=None,
            database=None,
            # A failure is told at once; to make it small takes minutes.
            phases=[Phase.generate, *([Phase.shrink] if "WAQUEUE_TEST_SHRINK" in os.environ else [])],
            suppress_health_check=list(HealthCheck),
        ),
        # Left to itself, Hypothesis tries many worlds in which next to nothing happens.
        _min_steps=25,
    )
