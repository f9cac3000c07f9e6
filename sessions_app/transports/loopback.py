"""Loopback: a transport without WhatsApp. It keeps what it was asked to send, in order, for staff to see.

For trying waqueue out, for schools that first want to see what would be sent, and for tests of everything but an
engine. It delays and fails as its session's configuration says.
"""

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any, ClassVar

import psycopg
from django.utils.translation import gettext_noop as _

from sessions_app.database import connect
from sessions_app.exceptions import (
    NotConnected,
    OutcomeUnknown,
    PermanentError,
    RetryableError,
    SendError,
    SessionRefused,
)
from sessions_app.models import ObservedState, ReceiptStage
from sessions_app.transports.base import ConfigField, Finding, Observation, Outgoing, Transport

_FAILURES: dict[str, type[SendError]] = {
    "rejected": PermanentError,
    "retry": RetryableError,
    "not_connected": NotConnected,
    "refused": SessionRefused,
    "uncertain": OutcomeUnknown,
}
_KEPT = """
SELECT token, outcome FROM wa_loopback_entry WHERE message_id = %s ORDER BY (outcome = 'accepted') DESC, id DESC LIMIT 1
"""
_INSERT = """
INSERT INTO wa_loopback_entry (message_id, token, session_name, content, outcome, created_at)
SELECT message_id, token, session_name, content, outcome, clock_timestamp()
FROM unnest(%s::uuid[], %s::bigint[], %s::text[], %s::jsonb[], %s::text[])
     AS entry(message_id, token, session_name, content, outcome)
"""


@dataclass(slots=True)
class _Entry:
    outgoing: Outgoing
    outcome: str
    written: "asyncio.Future[None]"


class LoopbackTransport(Transport):
    """Accepts everything at once unless told otherwise."""

    name: ClassVar[str] = "loopback"
    title: ClassVar[str] = _("Loopback (keeps messages, sends nothing)")
    first_state: ClassVar[ObservedState] = ObservedState.WORKING
    fields: ClassVar[tuple[ConfigField, ...]] = (
        ConfigField("delay_ms", _("how long each send takes, in milliseconds"), int, 0, minimum=0, maximum=600_000),
        ConfigField("fail_rate", _("the share of sends that fail, 0 to 1"), float, 0.0, minimum=0, maximum=1),
        ConfigField("fail_as", _("how they fail"), str, "rejected", choices=tuple(_FAILURES)),
    )

    looks_up: ClassVar[bool] = True

    def __init__(self) -> None:
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._waiting: list[_Entry] = []
        self._writer: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Write what is waiting and close the connection."""
        if self._writer is not None:
            await self._writer
        if self._connection is not None:
            await self._connection.close()

    async def send(self, outgoing: Outgoing) -> str:
        """Keep the message the moment it arrives, as an engine would; then answer after the configured delay."""
        config = outgoing.config
        failure = config.get("fail_as", "rejected") if random.random() < config.get("fail_rate", 0) else ""  # noqa: S311
        await self._keep(outgoing, failure or "accepted")
        if delay_ms := config.get("delay_ms", 0):
            await asyncio.sleep(delay_ms / 1000)
        if failure:
            raise _FAILURES[failure]("loopback was told to fail", provider_code="loopback")
        return f"loopback-{outgoing.token}"

    async def probe(self, session_name: str, config: dict[str, Any]) -> Observation:
        """Working, unless every send is told to fail for want of a connection."""
        if config.get("fail_as") == "not_connected" and config.get("fail_rate") == 1:
            return Observation(ObservedState.STOPPED, "loopback was told to fail as not_connected")
        return Observation(ObservedState.WORKING)

    async def look_up(self, outgoing: Outgoing) -> Finding:
        """Look into the ledger. What loopback was told to be unsure of, it stays unsure of."""
        try:
            connection = await connect()
            async with connection:
                row = await (await connection.execute(_KEPT, [outgoing.message_id])).fetchone()
        except psycopg.Error as error:
            raise OutcomeUnknown("loopback's ledger could not be read") from error
        if row is None:
            return Finding(detail="it was never handed over")
        token, outcome = row
        if outcome != "accepted":
            return Finding(detail=f"it was handed over, and loopback was told to answer {outcome}")
        return Finding(ReceiptStage.ACCEPTED, f"loopback-{token}")

    async def _keep(self, outgoing: Outgoing, outcome: str) -> None:
        """Write one entry, together with all that arrive meanwhile."""
        entry = _Entry(outgoing, outcome, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await entry.written

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await connect()
                await self._connection.execute(
                    _INSERT,
                    [
                        [entry.outgoing.message_id for entry in batch],
                        [entry.outgoing.token for entry in batch],
                        [entry.outgoing.session_name for entry in batch],
                        [json.dumps(entry.outgoing.content) for entry in batch],
                        [entry.outcome for entry in batch],
                    ],
                )
            except psycopg.Error as error:
                # As with any engine that does not answer: it may have been kept.
                for entry in batch:
                    if not entry.written.cancelled():
                        entry.written.set_exception(OutcomeUnknown(f"loopback could not keep the message: {error}"))
            else:
                for entry in batch:
                    if not entry.written.cancelled():
                        entry.written.set_result(None)
