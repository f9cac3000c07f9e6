"""Hands one fenced message to its transport, and turns whatever comes of it into a settlement."""

import asyncio
import logging

from sessions_app import crash_points
from sessions_app.exceptions import OutcomeUnknown, SendError
from sessions_app.transports import registry
from sessions_app.transports.base import Outgoing, Transport
from sessions_app.worker import clock
from sessions_app.worker.outcomes import Flight, Settlement, accepted, refused, returned

log = logging.getLogger(__name__)

# Just before the hand-over: a worker that was frozen for so long puts back instead, since others may soon judge it.
FROZEN_SECONDS = 10


class Sender:
    """The transports of one worker process, each opened when the first message needs it."""

    def __init__(self) -> None:
        self._transports: dict[str, Transport] = {}
        self._opening = asyncio.Lock()

    async def send(self, flight: Flight) -> Settlement:
        """Hand one message over, at most until its deadline. Never raises but for its own cancellation."""
        try:
            transport = self._transports.get(flight.transport)
            if transport is None:
                async with asyncio.timeout(FROZEN_SECONDS):
                    transport = await self.transport(flight.transport)
        except asyncio.CancelledError:
            return returned(flight, "the worker was stopped before the hand-over")
        except Exception as error:  # whatever a transport raises while it opens, the message was not handed over
            log.exception("the transport %s could not be opened", flight.transport)
            return returned(flight, f"the transport {flight.transport} could not be opened: {error}", wait_ms=5000)
        started = clock.now()
        if started - flight.fenced_at > FROZEN_SECONDS:
            return returned(flight, "the worker was stopped between its fence and the hand-over")
        try:
            config = transport.open_config(flight.config)
            outgoing = Outgoing(flight.message_id, flight.token, flight.session_name, config, flight.content)
            crash_points.reach("send: handing over", flight.content)
            async with asyncio.timeout(flight.deadline - started):
                provider_id = await transport.send(outgoing)
                crash_points.reach("send: accepted")
                return accepted(flight, provider_id)
        except SendError as error:
            return refused(flight, error)
        except TimeoutError:
            return refused(flight, OutcomeUnknown("the engine did not answer in time"))
        except asyncio.CancelledError:
            return refused(flight, OutcomeUnknown("the worker was stopped before the engine answered"))
        except Exception as error:  # foreign ground: anything unforeseen may have come after the hand-over
            log.exception("sending %s through %s failed", flight.message_id, flight.transport)
            return refused(flight, error)
        finally:
            flight.engine_seconds = clock.now() - started

    async def transport(self, name: str) -> Transport:
        """The opened transport of that name."""
        async with self._opening:
            if name not in self._transports:
                transport = registry.get(name)()
                await transport.open()
                self._transports[name] = transport
            return self._transports[name]

    async def close(self) -> None:
        """Close all transports."""
        for transport in self._transports.values():
            try:
                await transport.close()
            except Exception:
                log.exception("closing the transport %s failed", transport.name)
