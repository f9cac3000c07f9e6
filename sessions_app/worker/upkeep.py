"""What comes round by the clock in every worker: heartbeat, the judge, promotion, stranded sessions, rebuilds."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.db import close_old_connections

from sessions_app.exceptions import OutcomeUnknown, QueueUnavailable
from sessions_app.models.worker import HEARTBEAT
from sessions_app.reconciliation import rebuild, stranded
from sessions_app.worker import heartbeat, promotion, stalled
from sessions_app.worker.dispatcher import Dispatcher
from sessions_app.worker.fence import own_flights
from sessions_app.worker.outcomes import refused
from sessions_app.worker.store import Store

log = logging.getLogger(__name__)

_PROMOTE_SECONDS = 1.0
_JUDGE_SECONDS = 3.0
_STRANDED_SECONDS = 10.0
# A flight of this worker that it does not remember is not the fence's that is just being answered.
_FORGOTTEN_SECONDS = 30.0


class Upkeep:
    """The clockwork of one worker. Each part has its own rhythm and survives the loss of either store."""

    def __init__(self, dispatcher: Dispatcher, name: str) -> None:
        self._dispatcher = dispatcher
        self._name = name
        self._beats = Store()
        self._judgements = Store()
        self._generation = ""
        self._rebuilt = ""
        self._has_generation = asyncio.Event()
        dispatcher.on_generation = self._note_generation

    async def register(self) -> None:
        """Write this worker's row. Raises psycopg.Error."""
        await self._beats.run(heartbeat.register, self._dispatcher.worker, self._name, self._dispatcher.concurrency)

    async def stop(self) -> None:
        """Say goodbye and close the connections."""
        with contextlib.suppress(psycopg.Error):
            await self._beats.run(heartbeat.stop, self._dispatcher.worker)
        await self._beats.close()
        await self._judgements.close()

    async def run(self) -> None:
        """Run all of it until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(HEARTBEAT.total_seconds(), "the heartbeat", self._beat))
            group.create_task(self._every(_JUDGE_SECONDS, "judging stalled flights", self._judge))
            group.create_task(self._every(_PROMOTE_SECONDS, "promoting scheduled messages", self._promote))
            group.create_task(self._every(_STRANDED_SECONDS, "looking for stranded sessions", self._stranded))
            group.create_task(self._rebuild_forever())

    async def _every(self, seconds: float, what: str, act: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            try:
                await act()
                failures = 0
            except (psycopg.Error, DatabaseError, QueueUnavailable) as error:
                if failures % 100 == 0:
                    log.warning("%s has to wait: %s", what, str(error).strip())
                failures += 1
            await asyncio.sleep(seconds)

    async def _beat(self) -> None:
        landing = self._dispatcher.landing
        await self._beats.run(
            heartbeat.beat, self._dispatcher.worker, len(self._dispatcher.flights), landing.settled_count
        )

    async def _judge(self) -> None:
        for name, host, in_flight in await self._judgements.run(heartbeat.missed, self._dispatcher.worker):
            log.warning("worker %s on %s fell silent with %d messages in flight", name, host, in_flight)
        given_up = await self._judgements.run(stalled.judge, self._dispatcher.worker)
        own = await self._judgements.run(own_flights, self._dispatcher.worker, older_than_seconds=_FORGOTTEN_SECONDS)
        forgotten = [flight for flight in own if not self._dispatcher.knows(flight.token)]
        given_up += [refused(flight, OutcomeUnknown("its own worker does not remember it")) for flight in forgotten]
        self._dispatcher.landing.add(given_up)

    async def _promote(self) -> None:
        while await _in_thread(promotion.promote):
            self._dispatcher.wake()

    async def _stranded(self) -> None:
        if await _in_thread(stranded.signal_stranded):
            self._dispatcher.wake()

    def _note_generation(self, generation: str) -> None:
        self._generation = generation
        self._has_generation.set()

    async def _rebuild_forever(self) -> None:
        while True:
            await self._has_generation.wait()
            self._has_generation.clear()
            generation = self._generation
            while generation == self._generation and generation != self._rebuilt:
                try:
                    await _in_thread(rebuild.rebuild, generation)
                    self._rebuilt = generation
                    self._dispatcher.wake()
                except (DatabaseError, QueueUnavailable) as error:
                    log.warning("rebuilding the queues has to wait: %s", str(error).strip())
                    await asyncio.sleep(1)


async def _in_thread(act: Callable[..., Any], *args: Any) -> Any:
    """Run Django's own, synchronous code beside the loop, with a connection that is known to work."""

    def call() -> Any:
        close_old_connections()
        try:
            return act(*args)
        finally:
            close_old_connections()

    return await sync_to_async(call, thread_sensitive=True)()
