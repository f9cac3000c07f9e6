"""When a session that sends nothing now is looked at again, and what is asked on its behalf meanwhile."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

import psycopg

from sessions_app.exceptions import OtherDeployment, QueueUnavailable
from sessions_app.models import PROBED_HOLDS, ObservedState
from sessions_app.queues.dispatch import AGAIN_MS, DispatchQueues
from sessions_app.services import quiet_hours
from sessions_app.transports import registry
from sessions_app.worker import probes
from sessions_app.worker.fence import Verdict, Waiting
from sessions_app.worker.sender import Sender
from sessions_app.worker.store import Store
from sessions_app.worker.thread import Thread

log = logging.getLogger(__name__)

# Somebody is changing the first message just now: it takes milliseconds.
_OVERTAKEN_MS = 100
# So many wait for their transport that this one is not even parked.
_BUSY_MS = 5_000
# Probes of one engine at once: those of one that hangs keep no other's waiting.
_PROBES = 20


class Waits:
    """Turns the verdict of a fence into a delay, and begins the chore that it asks for."""

    def __init__(self, worker: uuid.UUID, queues: DispatchQueues, sender: Sender) -> None:
        self._queues = queues
        self._sender = sender
        self._probes = Store(worker)
        self._rolls = Thread("quiet hours")
        self._chores: set[asyncio.Task[None]] = set()
        # Who asks whom and has not begun: one more would hear the same.
        self._waiting: set[tuple[int, str]] = set()
        # By what is asked. Those that nobody waits for are forgotten.
        self._rooms: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @property
    def has_chores(self) -> bool:
        """Whether something is being asked just now."""
        return bool(self._chores)

    def delay_ms(self, waiting: Waiting) -> int | None:
        """When to look at a session again that sends nothing now, in ms; None for not until it is signalled.

        What has to be asked on its behalf meanwhile is begun.
        """
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
                self._start(self._probe, waiting, _engine(waiting))
                return probes.INTERVAL_MS
            case Verdict.QUIET_OVER:
                self._start(self._roll_quiet_hours, waiting, "quiet hours")
                return probes.INTERVAL_MS
        return None

    def cancel(self) -> None:
        """End what is being asked."""
        for chore in self._chores:
            chore.cancel()

    async def close(self) -> None:
        """Close the connection and the thread."""
        await self._probes.close()
        self._rolls.close()

    def _start(self, chore: Callable[[Waiting], Awaitable[None]], waiting: Waiting, asked: str) -> None:
        key = waiting.session_id, asked
        if key in self._waiting:
            return
        self._waiting.add(key)
        room = self._rooms.setdefault(asked, asyncio.Semaphore(_PROBES))

        async def run() -> None:
            async with room:
                self._waiting.discard(key)
                await chore(waiting)

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
                await self._queues.signal([waiting.claimed.name])
        except (psycopg.Error, QueueUnavailable, OtherDeployment) as error:
            log.warning("what the engine of %s says could not be written: %s", waiting.claimed.name, error)

    async def _roll_quiet_hours(self, waiting: Waiting) -> None:
        """A quiet window is over: compute the next one, then have the session looked at."""
        try:
            if await self._rolls.run(quiet_hours.roll, waiting.session_id):
                await self._queues.signal([waiting.claimed.name])
        except Exception as error:  # the database, or Redis: the session is looked at again after the interval
            log.warning("the next quiet hours of %s could not be set: %s", waiting.claimed.name, error)


def _engine(waiting: Waiting) -> str:
    """Whose answer a probe waits for."""
    if waiting.transport not in registry.names():
        return waiting.transport
    return registry.get(waiting.transport).engine(waiting.config)
