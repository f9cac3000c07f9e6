"""What is heard later of messages that nobody knows of: receipts that had to wait, and look-ups at the engines."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from django.conf import settings

from sessions_app.exceptions import SendError
from sessions_app.models import LookUp
from sessions_app.services import look_ups, receipts
from sessions_app.services.look_ups import Answer
from sessions_app.transports.base import Outgoing, Transport
from sessions_app.worker.thread import Thread

log = logging.getLogger(__name__)

# Questions of one worker at once, and how long one may take. A round waits for its last one, and so for no longer.
_AT_ONCE = 20
TIMEOUT_SECONDS = 10.0


class LookUps:
    """One worker's part in it. `transport` gives the opened transport of a name."""

    def __init__(self, transport: Callable[[str], Awaitable[Transport]]) -> None:
        self._transport = transport
        self._thread = Thread("look-ups")
        self._room: dict[str, asyncio.Semaphore] = {}

    async def round(self) -> None:
        """Apply what has waited, plan what is new, and ask what is due."""
        while await self._thread.run(receipts.look_again):
            pass
        while await self._thread.run(look_ups.plan):
            pass
        due = await self._thread.run(look_ups.take, _AT_ONCE)
        if due:
            await self._thread.run(look_ups.write, await asyncio.gather(*map(self._ask, due)))

    def close(self) -> None:
        """Let the thread end."""
        self._thread.close()

    async def _ask(self, look_up: LookUp) -> Answer:
        session, message = look_up.session, look_up.message
        try:
            transport = await self._transport(session.transport)
            config = transport.open_config(session.config)
            outgoing = Outgoing(message.pk, look_up.token, session.name, config, message.content())
            async with asyncio.timeout(TIMEOUT_SECONDS), self._room_of(session.transport):
                return Answer(look_up, await transport.look_up(outgoing))
        except SendError as error:
            return Answer(look_up, None, error.detail)
        except TimeoutError:
            return Answer(look_up, None, f"the engine did not answer within {TIMEOUT_SECONDS:g} seconds")
        except Exception as error:  # the engine's adapter is foreign ground: whatever it raises, nothing is found
            log.exception("looking up message %s of %s failed", message.pk, session.name)
            return Answer(look_up, None, f"the look-up failed: {type(error).__name__}")

    def _room_of(self, transport: str) -> asyncio.Semaphore:
        limit = min(settings.WAQUEUE_TRANSPORT_CONCURRENCY.get(transport, _AT_ONCE), _AT_ONCE)
        return self._room.setdefault(transport, asyncio.Semaphore(limit))
