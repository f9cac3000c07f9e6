"""The loop: claim, fence, send, settle, give back. Both stores are spoken to in batches, never per message.

Nothing in it sleeps for one session. This part claims and fences while there is room; each send is a task of its own
(`sender`), and what comes of it lands in both stores (`landing`).
"""

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence

import psycopg
from django.conf import settings

from sessions_app import crash_points
from sessions_app.exceptions import OutcomeUnknown, QueueUnavailable
from sessions_app.queues.dispatch import Claim, ClaimedSession, DispatchQueues, GiveBack
from sessions_app.transports.base import Transport
from sessions_app.worker import clock, outcomes
from sessions_app.worker.backoff import Backoff
from sessions_app.worker.doubts import Doubts
from sessions_app.worker.fence import Fenced, Verdict, Waiting, fence
from sessions_app.worker.landing import COMPANY_SECONDS, Landing
from sessions_app.worker.limits import TransportLimits
from sessions_app.worker.outcomes import Flight
from sessions_app.worker.sender import Sender
from sessions_app.worker.store import Store
from sessions_app.worker.suspects import Suspects
from sessions_app.worker.waits import Waits

log = logging.getLogger(__name__)

# Sessions in one claim and one fence.
_BATCH = 500
# An idle worker that missed its wake-up looks again after so long.
_IDLE_SECONDS = 1.0
# How long a fence waits for another worker's, and how long a session is left alone that made it wait.
_LOCK_TIMEOUT_MS = 250
_AVOID_SECONDS = 10.0
_AVOID_MS = 2_000
# For how long after its claim a session goes on by itself, before other workers get a chance to take it.
_GO_ON_SECONDS = 1.0


class Dispatcher:
    """Serves all sessions of one deployment, with up to `concurrency` messages in flight, until told to stop."""

    def __init__(self, *, worker: uuid.UUID, deployment: str, concurrency: int) -> None:
        self.worker = worker
        self.concurrency = concurrency
        self.queues = DispatchQueues(deployment, str(worker))
        self.stopping = asyncio.Event()
        self.flights: dict[str, Flight] = {}
        self.limits = TransportLimits(settings.WAQUEUE_TRANSPORT_CONCURRENCY, self.flights)
        self.landing = Landing(self.queues, self.flights, self)
        # Called when Redis turns out to be another than before: wiped, restarted, failed over.
        self.on_generation: Callable[[str], None] = lambda generation: None
        self.is_suspended = False
        self.idle_since = clock.now()
        self._generation = ""
        self._sender = Sender()
        self._suspects = Suspects()
        self._sends: set[asyncio.Task[None]] = set()
        # A session that another worker has in its fence is left to it, and does not hold up the others.
        self._fences = Store(worker, lock_timeout_ms=_LOCK_TIMEOUT_MS)
        self._avoided: dict[str, float] = {}
        self.doubts = Doubts(worker, self.queues, self._fences, self.landing, self.tokens)
        self._waits = Waits(worker, self.queues, self._sender)
        # Sessions go on only while no other one is due.
        self._others_wait = False
        self._is_full = False
        self._wake = asyncio.Event()
        # When Redis is looked at next if nothing calls, on `clock.now()`.
        self._looks_at = math.inf
        self.landing.on_given_back = self._note_given_back
        self.landing.on_room = self._note_room

    def tokens(self) -> set[int]:
        """The attempts that this worker remembers."""
        return {flight.token for flight in self.flights.values()}

    async def transport(self, name: str) -> Transport:
        """The opened transport of that name."""
        return await self._sender.transport(name)

    def wake(self) -> None:
        """Look at Redis now: some session has come due."""
        self._wake.set()

    def _note_given_back(self, seconds: float) -> None:
        """Look before the time if a session comes due before it."""
        if clock.now() + seconds < self._looks_at:
            self._wake.set()

    def _note_room(self) -> None:
        """Claim again if there was no room for it, or for those that are parked."""
        if self._is_full or self.limits.parked_count:
            self._wake.set()

    def stop(self) -> None:
        """Claim nothing more."""
        self.stopping.set()
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way anywhere."""
        return not self.flights and self.landing.is_empty

    async def open(self) -> None:
        """Connect to PostgreSQL, so that the first messages need not wait for it. Raises psycopg.Error."""
        await self._fences.open()
        await self.landing.open()

    async def claim_forever(self, *, burst: bool = False) -> None:
        """Claim and fence while there is room. With `burst`, return when nothing is due and nothing on its way."""
        backoff = Backoff("claiming", self.stopping)
        while True:
            await self.landing.unsent_given_back()
            self._wake.clear()
            if self.stopping.is_set():
                break
            self._looks_at = math.inf
            limit = min(max(self.concurrency - len(self.flights), 0), _BATCH)
            self._is_full = not limit
            try:
                claim = await self._claim(limit)
                backoff.reset()
            except (QueueUnavailable, psycopg.Error) as error:
                self.doubts.arise()
                await backoff.wait(error)
                continue
            self._others_wait = claim.others_wait
            if limit and (claim.next_due_ms == 0 or self._parked_may_go()):
                continue
            # Where others wait it is not when a session is due, but when another worker ought to have taken them.
            company = 0 if claim.others_wait else COMPANY_SECONDS
            due_in = _IDLE_SECONDS if claim.next_due_ms is None else claim.next_due_ms / 1000
            pause = min(due_in + company, _IDLE_SECONDS)
            if burst and pause > 0 and self.is_idle and not (self._waits.has_chores or self.limits.parked_count):
                return
            # Without room, only what lands or is put is worth a look before the next session comes due.
            if claim.is_suspended or (not limit and self._others_wait):
                pause = _IDLE_SECONDS
            self._looks_at = clock.now() + pause
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
        self.landing.give_back(GiveBack(session, 0) for session in self.limits.unpark_all())

    def may_go_on(self, flight: Flight) -> bool:
        """Whether a session may go on with its next message: nobody is due, and nothing says to look anew."""
        return (
            flight.claimed is not None
            and time.monotonic() - flight.claimed.at < _GO_ON_SECONDS
            and self.doubts.is_cleared
            and not (self._others_wait or self.is_suspended or self.stopping.is_set())
        )

    async def drain(self, seconds: float) -> None:
        """Wait for what is on its way, at most `seconds`; what has not come back by then ends as uncertain."""
        limit = clock.now() + seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.landing.none_going()
        while self._sends and clock.now() < limit:
            await asyncio.wait(self._sends, timeout=limit - clock.now())
        self._waits.cancel()
        # One that is cancelled before its first step would end without an outcome.
        await asyncio.sleep(0)
        for send in self._sends:
            send.cancel()
        if self._sends:
            await asyncio.wait(self._sends, timeout=5)

    async def close(self) -> None:
        """Close transports and connections."""
        await self._sender.close()
        await self._suspects.close()
        await self.landing.close()
        await self._waits.close()
        self.doubts.close()
        await self._fences.close()
        await self.queues.close()

    async def _claim(self, limit: int) -> Claim:
        ready = 0 if self.is_suspended else self.limits.ready_count(limit)
        claim = await self.queues.claim(limit - ready, len(self.flights) + self.limits.parked_count)
        self.is_suspended = claim.is_suspended
        if not await self.doubts.clear(claim):
            return claim
        if claim.generation != self._generation:
            self._generation = claim.generation
            self.on_generation(claim.generation)
        if claim.sessions:
            self.idle_since = clock.now()
            crash_points.reach("claim: answered")
        # Before any is unparked: one that waits here and was claimed again is fenced once.
        fresh = [
            session
            for session in claim.sessions
            if not (self._is_flying(session) or self.limits.is_parked(session) or self._avoids(session))
        ]
        parked = [] if claim.is_suspended else self.limits.unpark(ready)
        if to_fence := parked + fresh:
            await self._fence(to_fence)
        return claim

    def _avoids(self, claimed: ClaimedSession) -> bool:
        """Whether the session was found in another worker's fence a moment ago: it is given back without a try."""
        if self._avoided.get(claimed.name, 0.0) < clock.now():
            self._avoided.pop(claimed.name, None)
            return False
        self.landing.give_back([GiveBack(claimed, _AVOID_MS)])
        return True

    def _is_flying(self, claimed: ClaimedSession) -> bool:
        """Whether this worker has the session in flight: the claim is then the flight's, and is given back with it."""
        flight = self.flights.get(claimed.name)
        if flight is None:
            return False
        flight.claimed = claimed
        flight.has_more = True
        return True

    async def _fence(self, sessions: Sequence[ClaimedSession]) -> None:
        try:
            fenced = await self._fences.run_for(
                len(sessions), fence, self.worker, sessions, self.limits.room(), known=self.doubts.known_token
            )
        except psycopg.errors.LockNotAvailable:
            await self._fence_in_halves(sessions)
            return
        except psycopg.Error:
            self.doubts.arise()
            self.landing.give_back(GiveBack(session, 1000) for session in sessions)
            raise
        crash_points.reach("fence: committed")
        self.take_off(fenced)

    def take_off(self, fenced: Fenced) -> None:
        """Send what was fenced, and give back the sessions that send nothing now."""
        if any(one.verdict is Verdict.OLDER for one in fenced.waiting):
            self.doubts.arise()
        waiting = [one for one in fenced.waiting if not self._parks(one)]
        if self._parked_may_go():
            self._wake.set()
        self.landing.give_back([GiveBack(one.claimed, self._waits.delay_ms(one)) for one in waiting], fenced.expired)
        self.landing.add(
            outcomes.refused(flight, OutcomeUnknown("it was being sent, and nobody knows by whom"))
            for flight in fenced.abandoned
        )
        for flight in fenced.flights:
            self.doubts.note(flight)
            self.flights[flight.session_name] = flight
            if self.stopping.is_set():
                self.landing.add([outcomes.returned(flight, "the worker was told to stop before the hand-over")])
                continue
            send = asyncio.create_task(self._send(flight))
            self._sends.add(send)
            send.add_done_callback(self._sends.discard)

    async def _fence_in_halves(self, sessions: Sequence[ClaimedSession]) -> None:
        """Find the session that another worker, perhaps a frozen one, has in its fence; let the others go."""
        if len(sessions) == 1:
            self._avoided[sessions[0].name] = clock.now() + _AVOID_SECONDS
            self.landing.give_back([GiveBack(sessions[0], _AVOID_MS)])
            return
        middle = len(sessions) // 2
        try:
            await self._fence(sessions[:middle])
        except psycopg.Error:
            self.landing.give_back(GiveBack(session, 1000) for session in sessions[middle:])
            raise
        await self._fence(sessions[middle:])

    async def _send(self, flight: Flight) -> None:
        try:
            settlement = await (self._suspects if flight.deaths else self._sender).send(flight)
        except Exception as error:  # a transport that breaks its contract must not keep its flight for ever
            log.exception("what came of sending %s could not be understood", flight.message_id)
            settlement = outcomes.refused(flight, OutcomeUnknown(f"not understood: {type(error).__name__}"))
        self.landing.add([settlement])

    def _parks(self, waiting: Waiting) -> bool:
        """Whether a session stays here until its transport has room."""
        return (
            waiting.verdict is Verdict.BUSY
            and not self.stopping.is_set()
            and self.limits.park(waiting.transport, waiting.claimed)
        )

    def _parked_may_go(self) -> bool:
        """Whether there is room by now for one that is parked."""
        return self.limits.parked_count > 0 and not self.is_suspended and self.limits.ready_count(1) > 0
