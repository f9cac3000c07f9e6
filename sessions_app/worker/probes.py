"""Ask the engines of held sessions whether they work again. A hold for want of a link ends with the link's return."""

import asyncio
import logging
from typing import Any

import psycopg

from sessions_app.exceptions import SendError
from sessions_app.models import ObservedState
from sessions_app.transports.base import Observation, Transport
from sessions_app.worker.fence import Waiting

log = logging.getLogger(__name__)

# A session that waits for its engine is asked about so often.
INTERVAL_MS = 15_000
# The first time sooner: most links are back at once.
FIRST_MS = 3_000
_TIMEOUT_SECONDS = 10

_OBSERVED = """
WITH session AS (
    UPDATE wa_session
    SET observed_state = %(state)s, observed_reason = %(reason)s, updated_at = now(),
        phone = CASE WHEN %(phone)s <> '' THEN %(phone)s ELSE phone END
    WHERE id = %(id)s AND (observed_state <> %(state)s OR observed_reason <> %(reason)s)
    RETURNING id
),
released AS (
    UPDATE wa_session_dispatch SET hold = '', hold_reason = '', held_at = NULL, uncertain_streak = 0
    WHERE session_id = %(id)s AND %(state)s = 'working' AND hold IN ('not_connected', 'doubt')
    RETURNING session_id
)
INSERT INTO wa_event (kind, session_id, data)
SELECT 'session.state_changed', %(id)s,
       jsonb_build_object('observed_state', %(state)s::text, 'reason', %(reason)s::text)
WHERE EXISTS (SELECT 1 FROM session) OR EXISTS (SELECT 1 FROM released)
"""


async def probe(transport: Transport, waiting: Waiting) -> Observation:
    """What the engine says of a held session; FAILED with the reason when it does not answer."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await transport.probe(waiting.claimed.name, transport.open_config(waiting.config))
    except SendError as error:
        return Observation(ObservedState.FAILED, error.detail)
    except TimeoutError:
        return Observation(ObservedState.FAILED, f"the engine did not answer within {_TIMEOUT_SECONDS} seconds")
    except Exception as error:  # the engine's adapter is foreign ground: whatever it raises, the session stays held
        log.exception("probing %s failed", waiting.claimed.name)
        return Observation(ObservedState.FAILED, f"the probe failed: {type(error).__name__}")


async def write(connection: psycopg.AsyncConnection[Any], session_id: int, observation: Observation) -> None:
    """Write what was observed, and end the session's hold if its engine works."""
    await connection.execute(
        _OBSERVED,
        {
            "id": session_id,
            "state": observation.state.value,
            "reason": observation.reason[:500],
            "phone": observation.phone[:16],
        },
    )
