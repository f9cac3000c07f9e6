"""Engines that cost nothing, or only time: what is measured is waqueue."""

import asyncio
import time
from typing import Any, ClassVar

from sessions_app.models import ObservedState
from sessions_app.transports import registry
from sessions_app.transports.base import ConfigField, Observation, Outgoing, Transport


class NoOp(Transport):
    """Accepts at once. Its id is the moment, on the clock that all processes of this machine share."""

    name: ClassVar[str] = "noop"
    title: ClassVar[str] = "No-op"
    first_state: ClassVar[ObservedState] = ObservedState.WORKING

    async def send(self, outgoing: Outgoing) -> str:
        """Return the time in nanoseconds."""
        return str(time.monotonic_ns())

    async def probe(self, session_name: str, config: dict[str, Any]) -> Observation:
        """Always works."""
        return Observation(ObservedState.WORKING)


class Sleeping(NoOp):
    """Accepts after `delay_ms`, as an engine far away."""

    name: ClassVar[str] = "sleeping"
    title: ClassVar[str] = "Sleeping"
    fields: ClassVar[tuple[ConfigField, ...]] = (ConfigField("delay_ms", "how long each send takes", int, 200),)

    async def send(self, outgoing: Outgoing) -> str:
        """Sleep, then return the time."""
        await asyncio.sleep(outgoing.config["delay_ms"] / 1000)
        return str(time.monotonic_ns())


def register() -> None:
    """Make both known to this process."""
    registry.register(NoOp)
    registry.register(Sleeping)
