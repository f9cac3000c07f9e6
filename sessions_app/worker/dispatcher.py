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
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import psycopg
from django.conf import settings
from django.db import Error as DatabaseError

from sessions_app import crash_points
from sessions_app.database import end
from sessions_app.exceptions import OtherDeployment, OutcomeUnknown, QueueUnavailable
from sessions_app.models import PROBED_HOLDS, ObservedState
from sessions_app.queues.dispatch import AGAIN_MS, Claim, ClaimedSession, DispatchQueues, GiveBack
from sessions_app.reconciliation import older_database
from sessions_app.services import quiet_hours
from sessions_app.transports.base import Transport
from sessions_app.worker import clock, outcomes, probes
from sessions_app.worker.backoff import Backoff
from sessions_app.worker.fence import Fenced, Verdict, Waiting, fence, newest_token, own_flights
from sessions_app.worker.landing import COMPANY_SECONDS, Landing
from sessions_app.worker.limits import TransportLimits
from sessions_app.worker.outcomes import Flight
from sessions_app.worker.sender import Sender
from sessions_app.worker.store import Store
from sessions_app.worker.suspects import Suspects
from sessions_app.worker.thread import Thread

log = logging.getLogger(__name__)

# Sessions in one claim and one fence.
_BATCH = 500
# An idle worker that missed its wake-up looks again after so long.
_IDLE_SECONDS = 1.0
# How long a fence waits for another worker's, and how long a session is left alone that made it wait.
_LOCK_TIMEOUT_MS = 250
_AVOID_SECONDS = 10.0
_AVOID_MS = 2_000
# Somebody is changing the first message just now: it takes milliseconds.
_OVERTAKEN_MS = 100
_LOST = "it was handed over, and PostgreSQL has lost what came of it"
# So many wait for their transport that this one is not even parked.
_BUSY_MS = 5_000
# Probes and the like at once.
_CHORES = 20
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
        # The highest attempt that this database is known to have.
        self.known_token = 0
        # The newest attempt of each session that this worker has handed over, or was about to, by its name.
        self._handed: dict[str, int] = {}
        self._restores = Thread("older database")
        self._rolls = Thread("quiet hours")
        self._sender = Sender()
        self._suspects = Suspects()
        self._sends: set[asyncio.Task[None]] = set()
        self._chores: set[asyncio.Task[None]] = set()
        # A session that another worker has in its fence is left to it, and does not hold up the others.
        self._fences = Store(worker, lock_timeout_ms=_LOCK_TIMEOUT_MS)
        self._avoided: dict[str, float] = {}
        # Sessions go on only while no other one is due and no doubt of the database has come up since the last claim.
        self._others_wait = False
        self._is_full = False
        self._doubts = 0
        self._cleared_doubts = 0
        self._room_for_chores = asyncio.Semaphore(_CHORES)
        self._probes = Store(worker)
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
                self.doubt()
                await backoff.wait(error)
                continue
            self._others_wait = claim.others_wait
            if limit and (claim.next_due_ms == 0 or self._parked_may_go()):
                continue
            # Where others wait it is not when a session is due, but when another worker ought to have taken them.
            company = 0 if claim.others_wait else COMPANY_SECONDS
            due_in = _IDLE_SECONDS if claim.next_due_ms is None else claim.next_due_ms / 1000
            pause = min(due_in + company, _IDLE_SECONDS)
            if burst and pause > 0 and self.is_idle and not (self._chores or self.limits.parked_count):
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
            and self._doubts == self._cleared_doubts
            and not (self._others_wait or self.is_suspended or self.stopping.is_set())
        )

    def doubt(self) -> None:
        """PostgreSQL or Redis did not answer. Whoever answers next may be another: a backup that was restored."""
        self._doubts += 1

    async def drain(self, seconds: float) -> None:
        """Wait for what is on its way, at most `seconds`; what has not come back by then ends as uncertain."""
        limit = clock.now() + seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.landing.none_going()
        while self._sends and clock.now() < limit:
            await asyncio.wait(self._sends, timeout=limit - clock.now())
        for send in [*self._sends, *self._chores]:
            send.cancel()
        if self._sends:
            await asyncio.wait(self._sends, timeout=5)

    async def close(self) -> None:
        """Close transports and connections."""
        await self._sender.close()
        await self._suspects.close()
        await self.landing.close()
        for store in (self._fences, self._probes):
            await store.close()
        self._restores.close()
        self._rolls.close()
        await self.queues.close()

    async def _claim(self, limit: int) -> Claim:
        doubts = self._doubts
        ready = 0 if self.is_suspended else self.limits.ready_count(limit)
        claim = await self.queues.claim(limit - ready, len(self.flights) + self.limits.parked_count)
        self.is_suspended = claim.is_suspended
        if doubts != self._cleared_doubts or claim.mark > self.known_token:
            # What goes on meanwhile is newer than the answer.
            known = self.known_token
            try:
                newest = await self._fences.run(newest_token)
                if max(claim.mark, known) > newest:
                    await self._wait_for_older_database(claim)
                    return claim
                if doubts != self._cleared_doubts:
                    await self._return_unanswered()
            except psycopg.Error:
                self.landing.give_back(GiveBack(session, 1000) for session in claim.sessions)
                raise
            self.known_token = max(self.known_token, newest)
            self._cleared_doubts = doubts
        if claim.generation != self._generation:
            self._generation = claim.generation
            self.on_generation(claim.generation)
        if claim.sessions:
            self.idle_since = clock.now()
            crash_points.reach("claim: answered")
        to_fence = [] if claim.is_suspended else self.limits.unpark(ready)
        to_fence += [
            session
            for session in claim.sessions
            if not (self._is_flying(session) or self._avoids(session) or self.limits.is_parked(session))
        ]
        if to_fence:
            await self._fence(to_fence)
        return claim

    async def _wait_for_older_database(self, claim: Claim) -> None:
        """Send nothing: attempts are known that this database, restored from a backup, has never made."""
        self.landing.give_back(GiveBack(session, 2000) for session in claim.sessions)
        try:
            # Redis hears of an attempt when it is settled: what this worker has in flight may be newer.
            await self.queues.give_back([], mark=self.known_token)
            await self._restores.run(older_database.resolve)
        except (DatabaseError, QueueUnavailable) as error:
            log.warning("the database is older than Redis, and that could not be resolved: %s", str(error).strip())
        await asyncio.sleep(0.5)

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
                len(sessions), fence, self.worker, sessions, self.limits.room(), known=self.known_token
            )
        except psycopg.errors.LockNotAvailable:
            await self._fence_in_halves(sessions)
            return
        except psycopg.Error:
            self.doubt()
            self.landing.give_back(GiveBack(session, 1000) for session in sessions)
            raise
        crash_points.reach("fence: committed")
        self.take_off(fenced)

    def take_off(self, fenced: Fenced) -> None:
        """Send what was fenced, and give back the sessions that send nothing now."""
        if any(one.verdict is Verdict.OLDER for one in fenced.waiting):
            self.doubt()
        waiting = [one for one in fenced.waiting if not self._parks(one)]
        if self._parked_may_go():
            self._wake.set()
        self.landing.give_back([GiveBack(one.claimed, self._delay(one)) for one in waiting], fenced.expired)
        self.landing.add(
            outcomes.refused(flight, OutcomeUnknown("it was being sent, and nobody knows by whom"))
            for flight in fenced.abandoned
        )
        for flight in fenced.flights:
            self.known_token = max(self.known_token, flight.token)
            self.flights[flight.session_name] = flight
            self._handed[flight.session_name] = flight.token
            if self.stopping.is_set():
                self.landing.add([outcomes.returned(flight, "the worker was told to stop before the hand-over")])
                continue
            send = asyncio.create_task(self._send(flight))
            self._sends.add(send)
            send.add_done_callback(self._sends.discard)

    async def _return_unanswered(self) -> None:
        """Put back by token what a fence fenced whose commit was not answered: nothing of it was handed over.

        What was handed over and is in flight once more is uncertain: a server that lost its last commits, as a replica
        may have, has lost that outcome.
        """
        # No session goes on while there is doubt, so that after this nothing is fenced that is not known here.
        await self.landing.none_going()
        for store in (self._fences, *self.landing.stores):
            # A server goes on without its client: what it still commits has to be there before the look.
            await self._fences.run(end, given_up := list(store.given_up))
            del store.given_up[: len(given_up)]
        known = self.tokens()
        lost = await self._fences.run(own_flights, self.worker)
        self.landing.add(
            outcomes.returned(flight, "the fence was not answered")
            if flight.token > self._handed.get(flight.session_name, 0)
            else outcomes.refused(flight, OutcomeUnknown(_LOST))
            for flight in lost
            if flight.token not in known
        )

    async def _fence_in_halves(self, sessions: Sequence[ClaimedSession]) -> None:
        """Find the session that another worker, perhaps a frozen one, has in its fence; let the others go."""
        if len(sessions) == 1:
            self._avoided[sessions[0].name] = clock.now() + _AVOID_SECONDS
            self.landing.give_back([GiveBack(sessions[0], _AVOID_MS)])
            return
        middle = len(sessions) // 2
        await self._fence(sessions[:middle])
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

    def _delay(self, waiting: Waiting) -> int | None:
        """When to look at a session again that sends nothing now, in ms; None for not until it is signalled."""
        match waiting.verdict:
            case Verdict.WAIT:
                return max(waiting.delay_ms or 0, 1)
            case Verdict.IN_FLIGHT:
                # Whoever is due later than this counts as in nobody's hands (`older_database`).
                return min(max(waiting.delay_ms or 0, 1000), AGAIN_MS)
            case Verdict.OLDER:
                return 1000
            case Verdict.BUSY:
                return _BUSY_MS
            case Verdict.OVERTAKEN:
                return _OVERTAKEN_MS
            case Verdict.EXPIRED:
                return 0
            case Verdict.HELD if waiting.hold in PROBED_HOLDS:
                self._start(self._probe(waiting))
                return probes.INTERVAL_MS
            case Verdict.QUIET_OVER:
                self._start(self._roll_quiet_hours(waiting))
                return probes.INTERVAL_MS
        return None

    def _start(self, chore: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            async with self._room_for_chores:
                await chore

        task = asyncio.create_task(run())
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _probe(self, waiting: Waiting) -> None:
        """Ask a held session's engine; have the session looked at if it works again. A failure waits for the next."""
        try:
            transport = await self._sender.transport(waiting.transport)
            observation = await probes.probe(transport, waiting)
            await self._probes.run(probes.write, waiting.session_id, observation)
            if observation.state == ObservedState.WORKING:
                await self.queues.signal([waiting.claimed.name])
        except (psycopg.Error, QueueUnavailable, OtherDeployment) as error:
            log.warning("what the engine of %s says could not be written: %s", waiting.claimed.name, error)

    async def _roll_quiet_hours(self, waiting: Waiting) -> None:
        """A quiet window is over: compute the next one, then have the session looked at."""
        try:
            if await self._rolls.run(quiet_hours.roll, waiting.session_id):
                await self.queues.signal([waiting.claimed.name])
        except Exception as error:  # the database, or Redis: the session is looked at again after the interval
            log.warning("the next quiet hours of %s could not be set: %s", waiting.claimed.name, error)
