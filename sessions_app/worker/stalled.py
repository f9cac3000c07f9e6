"""Flights whose worker died: nobody knows what became of them.

A flight is given up only when its own deadline is past and its worker's heartbeat is silent as well, and only by a
worker that has itself been beating without a gap: after an outage of PostgreSQL everybody looks dead to everybody, and
all first get the time to settle what they know.
"""

import uuid
from typing import Any

import psycopg

from sessions_app.exceptions import OutcomeUnknown
from sessions_app.models.worker import SILENCE, STEADY
from sessions_app.worker import clock
from sessions_app.worker.outcomes import Flight, Settlement, died, refused

_STALLED = """
SELECT f.token, f.message_id, f.session_id, s.name, s.transport, s.on_uncertain, m.attempts, m.max_attempts, w.name,
       -- One that said goodbye only left something behind, and of one without a row nothing is known.
       w.id IS NOT NULL AND w.stopped_at IS NULL
FROM wa_in_flight f
JOIN wa_session s ON s.id = f.session_id
JOIN wa_message m ON m.id = f.message_id
LEFT JOIN wa_worker w ON w.id = f.worker_id
WHERE f.deadline_at < clock_timestamp()
  AND (w.id IS NULL OR w.stopped_at IS NOT NULL OR w.heartbeat_at < clock_timestamp() - %(silence)s)
  AND EXISTS (
      SELECT 1 FROM wa_worker judge
      WHERE judge.id = %(worker)s AND judge.steady_since < clock_timestamp() - %(steady)s
        AND judge.heartbeat_at > clock_timestamp() - %(silence)s
  )
ORDER BY f.session_id
LIMIT 500
"""


async def judge(connection: psycopg.AsyncConnection[Any], worker: uuid.UUID) -> list[Settlement]:
    """The settlements of all flights that are to be given up now."""
    parameters = {"worker": worker, "silence": SILENCE, "steady": STEADY}
    rows = await (await connection.execute(_STALLED, parameters)).fetchall()
    now = clock.now()
    given_up: list[Settlement] = []
    for token, message_id, session_id, name, transport, on_uncertain, attempts, max_attempts, owner, is_death in rows:
        flight = Flight(
            token=token, message_id=message_id, session_id=session_id, session_name=name, transport=transport,
            on_uncertain=on_uncertain, attempts=attempts, max_attempts=max_attempts, has_more=True,
            fenced_at=now, deadline=now,
        )  # fmt: skip
        why = f"its worker {owner or ''} died while it was being sent"
        given_up.append(died(flight, why) if is_death else refused(flight, OutcomeUnknown(why)))
    return given_up
