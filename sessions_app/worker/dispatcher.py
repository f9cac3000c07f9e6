"""The loop: claim, fence, send, settle, give back. Both stores are spoken to in batches, never per message.

Nothing in it sleeps for one session. This part claims and fences while there is room; each send is a task of its own
(`sender`), and what comes of it lands in both stores (`landing`).
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import psycopg
from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError

from sessions_app.exceptions import OtherDeployment, OutcomeUnknown, QueueUnavailable
from sessions_app.models import PROBED_HOLDS, ObservedState
from sessions_app.queues.dispatch import Claim, ClaimedSession, DispatchQueues, GiveBack
from sessions_app.reconciliation import older_database
from sessions_app.services import quiet_hours
from sessions_app.worker import clock, outcomes, probes
from sessions_app.worker.backoff import Backoff
from sessions_app.worker.fence import Verdict, Waiting, fence, newest_token, own_flights
from sessions_app.worker.landing import Landing
from sessions_app.worker.outcomes import Flight
from sessions_app.worker.sender import Sender
from sessions_app.worker.store import Store
from sessions_app.worker.thread import Thread

log = logging.getLogger(__name__)

# Sessions in one claim and one fence.
_BATCH = 500
# An idle worker that missed its wake-up looks again after so long.
_IDLE_SECONDS = 1.0


class Dispatcher:
    """Serves all sessions of one deployment, with up to `concurrency` messages in flight, until told to stop."""

    def __init__(self, *, worker: uuid.UUID, deployment: str, concurrency: int) -> None:
        self.worker = worker
        self.concurrency = concurrency
        self.queues = DispatchQueues(deployment)
        self.stopping = asyncio.Event()
        self.flights: dict[str, Flight] = {}
        self.landing = Landing(self.queues, self.flights, self.stopping)
        # Called when Redis turns out to be another than before: wiped, restarted, failed over.
        self.on_generation: Callable[[str], None] = lambda generation: None
        self.is_suspended = False
        self.idle_since = clock.now()
        self._generation = ""
        # The highest attempt token that this database is known to have given out.
        self._newest_token = 0
        self._restores = Thread("older database")
        self._sender = Sender()
        self._sends: set[asyncio.Task[None]] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._fences = Store()
        self._probes = Store()
        self._wake = asyncio.Event()
        self.landing.on_given_back = self.wake

    def knows(self, token: int) -> bool:
        """Whether this worker remembers the attempt of that token."""
        return any(flight.token == token for flight in self.flights.values())

    def wake(self) -> None:
        """Look at Redis now: some session has come due."""
        self._wake.set()

    def stop(self) -> None:
        """Claim nothing more."""
        self.stopping.set()
        self._wake.set()
        self.landing.has_room.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way anywhere."""
        return not self.flights and self.landing.is_empty

    async def claim_forever(self, *, burst: bool = False) -> None:
        """Claim and fence while there is room. With `burst`, return when nothing is due and nothing on its way."""
        backoff = Backoff("claiming", self.stopping)
        while not self.stopping.is_set():
            room = self.concurrency - len(self.flights)
            if room <= 0:
                self.landing.has_room.clear()
                await self.landing.has_room.wait()
                continue
            self._wake.clear()
            try:
                claim = await self._claim(min(room, _BATCH))
                backoff.reset()
            except (QueueUnavailable, psycopg.Error) as error:
                await backoff.wait(error)
                continue
            if claim.sessions and not claim.is_suspended:
                continue
            pause = _IDLE_SECONDS if claim.next_due_ms is None else min(claim.next_due_ms / 1000, _IDLE_SECONDS)
            if burst and pause > 0 and self.is_idle and not self._chores:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS if claim.is_suspended else pause):
                    await self._wake.wait()

    async def drain(self, seconds: float) -> None:
        """Wait for what is on its way, at most `seconds`; what has not come back by then ends as uncertain."""
        if self._sends:
            await asyncio.wait(self._sends, timeout=seconds)
        for send in [*self._sends, *self._chores]:
            send.cancel()
        if self._sends:
            await asyncio.wait(self._sends, timeout=5)

    async def close(self) -> None:
        """Close transports and connections."""
        await self._sender.close()
        await self.landing.close()
        for store in (self._fences, self._probes):
            await store.close()
        self._restores.close()
        await self.queues.close()

    async def _claim(self, limit: int) -> Claim:
        claim = await self.queues.claim(limit)
        self.is_suspended = claim.is_suspended
        if claim.mark > self._newest_token:
            self._newest_token = await self._fences.run(newest_token)
        if claim.mark > self._newest_token:
            await self._wait_for_older_database(claim)
            return claim
        if claim.generation != self._generation:
            self._generation = claim.generation
            self.on_generation(claim.generation)
        if claim.sessions:
            self.idle_since = clock.now()
        if to_fence := [session for session in claim.sessions if not self._is_flying(session)]:
            await self._fence(to_fence)
        return claim

    async def _wait_for_older_database(self, claim: Claim) -> None:
        """Send nothing: Redis knows attempts that this database, restored from a backup, has never made."""
        self.landing.give_back(GiveBack(session, 2000) for session in claim.sessions)
        try:
            await self._restores.run(older_database.resolve)
        except (DatabaseError, QueueUnavailable) as error:
            log.warning("the database is older than Redis, and that could not be resolved: %s", str(error).strip())
        await asyncio.sleep(0.5)

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
            fenced = await self._fences.run(fence, self.worker, sessions)
        except psycopg.Error:
            self.landing.give_back(GiveBack(session, 1000) for session in sessions)
            # The commit may have happened all the same. What it fenced was not handed over: it is put back by token.
            lost = await self._fences.run(own_flights, self.worker)
            self.landing.add(
                outcomes.returned(flight, "the fence was not answered")
                for flight in lost
                if not self.knows(flight.token)
            )
            raise
        self.landing.give_back([GiveBack(one.claimed, self._delay(one)) for one in fenced.waiting], fenced.expired)
        self.landing.add(
            outcomes.refused(flight, OutcomeUnknown("it was being sent, and nobody knows by whom"))
            for flight in fenced.abandoned
        )
        for flight in fenced.flights:
            self.flights[flight.session_name] = flight
            send = asyncio.create_task(self._send(flight))
            self._sends.add(send)
            send.add_done_callback(self._sends.discard)

    async def _send(self, flight: Flight) -> None:
        self.landing.add([await self._sender.send(flight)])

    def _delay(self, waiting: Waiting) -> int | None:
        """When to look at a session again that sends nothing now, in ms; None for not until it is signalled."""
        match waiting.verdict:
            case Verdict.WAIT:
                return max(waiting.delay_ms or 0, 1)
            case Verdict.IN_FLIGHT:
                return max(waiting.delay_ms or 0, 1000)
            case Verdict.EXPIRED | Verdict.OVERTAKEN:
                return 0
            case Verdict.HELD if waiting.hold in PROBED_HOLDS:
                self._start(self._probe(waiting))
                return probes.INTERVAL_MS
            case Verdict.QUIET_OVER:
                self._start(self._roll_quiet_hours(waiting))
                return probes.INTERVAL_MS
        return None

    def _start(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(chore)
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
            await sync_to_async(quiet_hours.roll)(waiting.session_id)
            await self.queues.signal([waiting.claimed.name])
        except Exception as error:  # the database, or Redis: the session is looked at again after the interval
            log.warning("the next quiet hours of %s could not be set: %s", waiting.claimed.name, error)
