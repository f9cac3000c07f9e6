"""Suspects: messages that were in flight when a worker died. Each is tried alone, in a child process of the worker.

One of them may be what killed it. Should it kill the child, then nobody else is taken along, and it is certain which
one it was. Whoever comes through is no suspect any more.
"""

import asyncio
import logging
import random

from sessions_app.exceptions import OutcomeUnknown
from sessions_app.worker import children, clock, trial
from sessions_app.worker.outcomes import Flight, Settlement, died_alone, refused, returned
from sessions_app.worker.sender import FROZEN_SECONDS

log = logging.getLogger(__name__)

# So many wait here for their turn, and for so long. The others come back later: what waits here is in flight.
_LINE = 4
_LINE_SECONDS = FROZEN_SECONDS / 2
_LATER_MS = (1_000, 20_000)
_START_SECONDS = 30.0
# What the child is given beyond the deadline, to say that it is past.
_GRACE_SECONDS = 5.0
# A child that has nothing to do for so long is ended.
_REST_SECONDS = 30.0


class Suspects:
    """Those of one worker process, one at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._child: children.Talker | None = None
        self._resting: asyncio.Task[None] | None = None

    async def send(self, flight: Flight) -> Settlement:
        """Try one alone, at most until its deadline. Never raises but for a fault of its own."""
        if self._waiting >= _LINE:
            return _later(flight)
        self._waiting += 1
        try:
            async with asyncio.timeout(_LINE_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            return _later(flight)
        except asyncio.CancelledError:
            return returned(flight, "the worker was stopped before it could be tried alone")
        finally:
            self._waiting -= 1
        try:
            if self._resting is not None:
                self._resting.cancel()
            return await self._try(flight)
        finally:
            self._resting = asyncio.create_task(self._rest())
            self._turn.release()

    async def close(self) -> None:
        """End the child, if there is one."""
        if self._resting is not None:
            self._resting.cancel()
        await self._end()

    async def _try(self, flight: Flight) -> Settlement:
        try:
            child = await self._ready()
        except TimeoutError:
            # The machine is busy, or the worker itself stood still meanwhile: that is no fault.
            await self._end()
            log.warning("a process to try a suspect in was not ready within %g s: it is tried later", _START_SECONDS)
            return _not_tried(flight)
        except (OSError, EOFError) as error:
            await self._end()
            log.error("no process could be started to try a suspect in: %s", str(error) or type(error).__name__)
            return _not_tried(flight)
        except asyncio.CancelledError:
            await self._end()
            return returned(flight, "the worker was stopped before it could be tried alone")
        try:
            async with asyncio.timeout(max(0.0, flight.deadline - clock.now()) + _GRACE_SECONDS):
                answer = await child.ask(trial.asked(flight))
        except asyncio.CancelledError:
            await self._end()
            return refused(flight, OutcomeUnknown("the worker was stopped before the engine answered"))
        except TimeoutError:
            # It hangs, which a worker does not survive either.
            answer = b""
        if answer.endswith(b"\n"):
            return trial.answered(flight, answer)
        await self._end()
        return died_alone(flight)

    async def _ready(self) -> children.Talker:
        """The child, started if there is none. Raises OSError, TimeoutError, EOFError."""
        if self._child is None or not self._child.is_alive:
            await self._end()
            self._child = await children.start_talker("-c", trial.PROGRAM)
            async with asyncio.timeout(_START_SECONDS):
                if await self._child.hear() != trial.READY.encode():
                    raise EOFError("it ended before it was ready")
        return self._child

    async def _rest(self) -> None:
        await asyncio.sleep(_REST_SECONDS)
        async with self._turn:
            await self._end()

    async def _end(self) -> None:
        if self._child is not None:
            await self._child.end()
            self._child = None


def _not_tried(flight: Flight) -> Settlement:
    return returned(flight, "no process could be started to try it alone in", wait_ms=5000)


def _later(flight: Flight) -> Settlement:
    wait_ms = random.randint(*_LATER_MS)  # noqa: S311 (spreads load, guards nothing)
    return returned(flight, "others are tried alone before it", wait_ms=wait_ms)
