"""Attempts that the database has lost: a standby was promoted that had not heard of them, and others go on with it.

Its newest attempt tells nothing of that as soon as another worker has fenced there. But whoever handed a message over
remembers it, and the database has no attempt of that number for it.
"""

import logging
import uuid
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import psycopg

from sessions_app.models import NEWEST_TOKEN
from sessions_app.worker import clock
from sessions_app.worker.arrays import numbers
from sessions_app.worker.outcomes import Flight

log = logging.getLogger(__name__)

_WHY = "it was handed over, and PostgreSQL has lost the attempt: it may have arrived, and be sent twice by now"

_PUT_BACK = f"""
WITH missing AS MATERIALIZED (
    SELECT r.* FROM unnest(%(token)s::bigint[], %(message_id)s::uuid[], %(number)s::int[], %(left_ms)s::bigint[])
        AS r(token, message_id, number, left_ms)
    -- A server that lost its last commits gives tokens out again.
    WHERE (SELECT a.message_id FROM wa_attempt a WHERE a.token = r.token) IS DISTINCT FROM r.message_id
      -- A database that has none as high is older, and has to be seen as that: this must not hide it.
      AND %(known)s <= ({NEWEST_TOKEN})
),
lost AS MATERIALIZED (
    SELECT r.token, r.number, r.left_ms, m.* FROM missing r
    CROSS JOIN LATERAL (
        SELECT id, session_id, status, token AS known_token FROM wa_message WHERE id = r.message_id FOR UPDATE
    ) m
    -- As the message is now, and not when this statement began: its worker may put it back twice at once.
    WHERE m.known_token IS DISTINCT FROM r.token
),
-- What is with its engine still is in flight again, if nobody else has sent for its session.
flown AS (
    INSERT INTO wa_in_flight (session_id, slot, token, worker_id, message_id, fenced_at, deadline_at)
    SELECT l.session_id, 0, l.token, %(worker)s, l.id, clock_timestamp(),
           clock_timestamp() + l.left_ms * interval '1 ms'
    FROM lost l
    WHERE l.left_ms >= 0 AND l.status IN ('scheduled', 'queued')
      AND (SELECT a.token FROM wa_attempt a WHERE a.token = l.token) IS NULL
    ON CONFLICT (session_id, slot) DO NOTHING
    RETURNING token
),
kept AS (
    INSERT INTO wa_attempt (token, message_id, session_id, number, worker_id, fenced_at, finished_at, outcome,
                            provider_id, error_code, error_detail, late_outcome)
    SELECT l.token, l.id, l.session_id, l.number, %(worker)s, now(), CASE WHEN f.token IS NULL THEN now() END,
           CASE WHEN f.token IS NULL THEN 'uncertain' ELSE '' END, '', '',
           CASE WHEN f.token IS NULL THEN %(why)s ELSE '' END, ''
    FROM lost l LEFT JOIN flown f ON f.token = l.token
    ON CONFLICT (token) DO NOTHING
    RETURNING token
),
-- The others end as nobody knows how, and so does one whose number was given out meanwhile.
ending AS MATERIALIZED (
    SELECT l.*, k.token AS kept_token, f.token IS NULL OR k.token IS NULL AS is_over
    FROM lost l LEFT JOIN flown f ON f.token = l.token LEFT JOIN kept k ON k.token = l.token
),
put_back AS (
    UPDATE wa_message m
    SET status = CASE WHEN e.is_over THEN 'uncertain' ELSE 'sending' END, next_attempt_at = NULL,
        -- Where somebody else has it in flight, it has gone twice: neither answer alone decides.
        token = CASE WHEN e.status <> 'sending' THEN e.kept_token END,
        look_up_token = CASE WHEN NOT e.is_over THEN m.look_up_token END,
        attempts = greatest(m.attempts, e.number),
        error_class = CASE WHEN e.is_over THEN 'uncertain' ELSE m.error_class END,
        error_code = CASE WHEN e.is_over THEN '' ELSE m.error_code END,
        error_detail = CASE WHEN e.is_over THEN %(why)s ELSE m.error_detail END
    FROM ending e
    WHERE m.id = e.id AND (
        e.status IN ('scheduled', 'queued', 'sending')
        -- Called uncertain with all that waited: an answer that comes yet is one to this attempt.
        OR e.status = 'uncertain' AND coalesce(e.known_token, 0) < e.kept_token)
),
given_up AS (
    UPDATE wa_attempt a SET outcome = 'uncertain', finished_at = now()
    FROM ending e WHERE e.status = 'sending' AND a.token = e.known_token AND a.outcome = ''
),
told AS (
    INSERT INTO wa_event (kind, session_id, message_id, data)
    SELECT 'message.uncertain', e.session_id, e.id, jsonb_build_object('attempt', e.token, 'error', %(why)s::text)
    FROM ending e WHERE e.is_over AND e.status <> 'uncertain'
)
SELECT token, is_over FROM ending
"""  # noqa: S608 (a statement of ours inside another)


class Handed(NamedTuple):
    """An attempt that was handed over, or was about to be."""

    token: int
    message_id: uuid.UUID
    number: int
    # On `clock.now()`.
    deadline: float
    # Whether one before it may have arrived, which was lost as well then.
    is_doubted: bool

    @classmethod
    def of(cls, flight: Flight) -> "Handed":
        """What has to be remembered of a flight."""
        return cls(flight.token, flight.message_id, flight.attempts, flight.deadline, flight.is_doubted)


class Lost(NamedTuple):
    """An attempt that the database had lost. One that is not over is in flight once more."""

    token: int
    is_over: bool


async def put_back(
    connection: psycopg.AsyncConnection[Any],
    worker: uuid.UUID,
    handed: Iterable[Handed],
    flying: Collection[int],
    *,
    known: int,
) -> list[Lost]:
    """Give the database the attempts among `handed` that it does not have, and return those.

    Only one that has the attempt `known`, which is none of less: an older one has lost more than that.

    The messages of those in `flying`, by token, are being sent again, as they are, but for those that may have gone
    before; the others become uncertain, which is told. An attempt of a message that was sent or ended otherwise
    meanwhile is told of, too. Raises psycopg.Error.
    """
    # In one order, so that two who lock at once never wait for each other in a ring.
    ordered = sorted(handed, key=lambda one: one.message_id)
    now = clock.now()
    cursor = await connection.execute(
        _PUT_BACK,
        {
            "worker": worker, "why": _WHY, "known": known,
            "token": numbers(one.token for one in ordered),
            "message_id": numbers(one.message_id for one in ordered),
            "number": numbers(one.number for one in ordered),
            # Negative for what ends here.
            "left_ms": numbers(
                max(0, int(1000 * (one.deadline - now))) if one.token in flying and not one.is_doubted else -1
                for one in ordered
            ),
        },
    )  # fmt: skip
    if lost := [Lost(*row) for row in await cursor.fetchall()]:
        log.warning(
            "PostgreSQL has lost its last commits: %d attempts of this worker were put back, %d of them as uncertain",
            len(lost), sum(one.is_over for one in lost),
        )  # fmt: skip
    return lost
