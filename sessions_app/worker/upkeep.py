"""What comes round by the clock in every worker: heartbeat, judge, look-ups, promotion, expiry, and so on."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import psycopg
from django.conf import settings
from django.db import Error as DatabaseError

from sessions_app.database import end
from sessions_app.exceptions import OutcomeUnknown, WaqueueError, primary_message
from sessions_app.models.worker import HEARTBEAT
from sessions_app.reconciliation import stranded
from sessions_app.reconciliation.run import fail_abandoned, is_time
from sessions_app.worker import expiry, heartbeat, long_upkeep, promotion, stalled
from sessions_app.worker.dispatcher import Dispatcher
from sessions_app.worker.fence import own_flights
from sessions_app.worker.look_ups import LookUps
from sessions_app.worker.outcomes import refused
from sessions_app.worker.store import Store, name_of
from sessions_app.worker.thread import Thread

log = logging.getLogger(__name__)

_PROMOTE_SECONDS = 1.0
_EXPIRE_SECONDS = 1.0
_JUDGE_SECONDS = 3.0
_LOOK_UP_SECONDS = 1.0
_STRANDED_SECONDS = 10.0
# A part that fails again and again is told of at the first time and at each hundredth.
_SAID_EACH = 100
# A flight of this worker that it does not remember is not the fence's that is just being answered.
_FORGOTTEN_SECONDS = 30.0


class Upkeep:
    """The clockwork of one worker. Each part has its own rhythm and survives the loss of either store."""

    def __init__(self, dispatcher: Dispatcher, name: str) -> None:
        self._dispatcher = dispatcher
        self._name = name
        self._beats = Store(dispatcher.worker)
        self._judgements = Store(dispatcher.worker)
        self._generation = ""
        self._rebuilt = ""
        self._has_generation = asyncio.Event()
        self._promotions = Thread("promotion")
        self._repairs = Thread("repair")
        self._look_ups = LookUps(dispatcher.transport)
        self._reconciliations = Thread("reconciliation")
        dispatcher.on_generation = self._note_generation

    async def register(self) -> None:
        """Write this worker's row. Raises psycopg.Error."""
        await self._beats.run(heartbeat.register, self._dispatcher.worker, self._name, self._dispatcher.concurrency)

    async def stop(self) -> None:
        """Say goodbye, close the connections, and let what is under way beside the loop end."""
        threads = (self._promotions, self._repairs, self._reconciliations)
        for thread in threads:
            thread.close()
        self._look_ups.close()
        with contextlib.suppress(psycopg.Error):
            await self._beats.run(heartbeat.stop, self._dispatcher.worker)
        await self._beats.close()
        await self._judgements.close()
        await asyncio.gather(*(thread.end() for thread in threads))

    async def run(self) -> None:
        """Run all of it until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(HEARTBEAT.total_seconds(), "the heartbeat", self._beat))
            group.create_task(self._every(_JUDGE_SECONDS, "judging stalled flights", self._judge))
            group.create_task(self._every(_LOOK_UP_SECONDS, "looking up uncertain messages", self._look_ups.round))
            group.create_task(self._every(_PROMOTE_SECONDS, "promoting scheduled messages", self._promote))
            group.create_task(self._every(_EXPIRE_SECONDS, "ending expired messages", self._expire))
            group.create_task(self._every(_STRANDED_SECONDS, "looking for stranded sessions", self._stranded))
            group.create_task(
                self._every(settings.WAQUEUE_RECONCILE_SECONDS, "the timed reconciliation", self._reconcile, wait=True)
            )
            group.create_task(self._rebuild_forever())

    async def _every(
        self, seconds: float, what: str, act: Callable[[], Awaitable[None]], *, wait: bool = False
    ) -> None:
        failures = 0
        if wait:
            await asyncio.sleep(seconds)
        while True:
            try:
                await act()
                failures = 0
            except Exception as error:
                _say(what, error, failures)
                failures += 1
            await asyncio.sleep(seconds)

    async def _beat(self) -> None:
        landing = self._dispatcher.landing
        try:
            is_known = await self._beats.run(
                heartbeat.beat, self._dispatcher.worker, len(self._dispatcher.flights), landing.settled_count
            )
        except psycopg.Error:
            # Another may answer next, also while nothing is claimed or written.
            self._dispatcher.doubts.arise()
            raise
        if not is_known:
            await self.register()

    async def _judge(self) -> None:
        missed = await self._judgements.run(heartbeat.missed, self._dispatcher.worker)
        for _, name, host, in_flight in missed:
            log.warning("worker %s on %s fell silent with %d messages in flight", name, host, in_flight)
        # One that was frozen in the middle of a transaction would hold up its sessions for as long.
        await self._judgements.run(end, [name_of(worker) for worker, *_ in missed])
        given_up = await self._judgements.run(stalled.judge, self._dispatcher.worker)
        # Before the look, too: what lands meanwhile was known.
        known = self._dispatcher.tokens()
        own = await self._judgements.run(own_flights, self._dispatcher.worker, older_than_seconds=_FORGOTTEN_SECONDS)
        known |= self._dispatcher.tokens()
        forgotten = [flight for flight in own if flight.token not in known]
        given_up += [refused(flight, OutcomeUnknown("its own worker does not remember it")) for flight in forgotten]
        waiting = self._dispatcher.landing.waiting_tokens
        self._dispatcher.landing.add(one for one in given_up if one.flight.token not in waiting)

    async def _promote(self) -> None:
        while await self._promotions.run(promotion.promote):
            self._dispatcher.wake()

    async def _expire(self) -> None:
        # In the thread of promotion, which has as little to do.
        while await self._promotions.run(expiry.expire):
            self._dispatcher.wake()

    async def _stranded(self) -> None:
        if await self._repairs.run(stranded.signal_stranded):
            self._dispatcher.wake()

    async def _reconcile(self) -> None:
        if await self._reconciliations.run(is_time):
            try:
                await long_upkeep.do("reconcile", thread=self._reconciliations)
            except long_upkeep.ChildFailed as error:
                await self._reconciliations.run(fail_abandoned, error.detail)
                raise

    def _note_generation(self, generation: str) -> None:
        self._generation = generation
        self._has_generation.set()

    async def _rebuild_forever(self) -> None:
        while True:
            await self._has_generation.wait()
            self._has_generation.clear()
            generation = self._generation
            failures = 0
            while generation == self._generation and generation != self._rebuilt:
                try:
                    await long_upkeep.do("rebuild", generation, thread=self._repairs)
                    self._rebuilt = generation
                    self._dispatcher.wake()
                except Exception as error:
                    _say("rebuilding the queues", error, failures)
                    failures += 1
                    await asyncio.sleep(1)


def _say(what: str, error: Exception, failures: int) -> None:
    """That a part has to wait, or has a fault: neither ends the worker, which goes on sending. Not each time."""
    if failures % _SAID_EACH:
        return
    if isinstance(error, (psycopg.Error, DatabaseError, WaqueueError)):
        log.warning("%s has to wait: %s", what, primary_message(error))
    else:
        log.error("%s failed, and is tried again", what, exc_info=error)
