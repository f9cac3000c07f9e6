"""The settle: what came of many attempts, written in one statement.

Everything goes by token, and by message: a database that lost its last commits gives a token out again. An answer that
comes after a newer attempt was fenced, or after a person decided, changes nothing and is kept on its attempt as
evidence; so a settle whose commit was not answered can simply be written again.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from django.conf import settings

from sessions_app.models import Status
from sessions_app.worker.arrays import numbers, texts
from sessions_app.worker.outcomes import Flight, Settlement

Cursor = psycopg.AsyncCursor[tuple[Any, ...]]

_SETTLE = """
WITH result AS MATERIALIZED (
    SELECT * FROM unnest(
        %(token)s::bigint[], %(session_id)s::bigint[], %(message_id)s::uuid[], %(outcome)s::text[], %(status)s::text[],
        %(event)s::text[], %(provider_id)s::text[], %(error_class)s::text[], %(error_code)s::text[],
        %(error_detail)s::text[], %(retry_ms)s::bigint[], %(refund)s::int[], %(resend)s::int[], %(hold)s::text[],
        %(observed)s::text[], %(is_paced)s::bool[], %(death)s::int[], %(goes_on)s::bool[]
    ) AS r(token, session_id, message_id, outcome, status, event, provider_id, error_class, error_code, error_detail,
           retry_ms, refund, resend, hold, observed, is_paced, death, goes_on)
),
message AS (
    UPDATE wa_message m
    SET status = r.status,
        attempts = m.attempts - r.refund,
        resends = m.resends + r.resend,
        -- Whoever came through killed nobody.
        deaths = CASE WHEN r.outcome IN ('sent', 'failed', 'retry') THEN 0 ELSE m.deaths + r.death END,
        next_attempt_at = CASE WHEN r.retry_ms > 0 THEN now() + r.retry_ms * interval '1 ms' END,
        provider_id = r.provider_id,
        error_class = r.error_class, error_code = r.error_code, error_detail = r.error_detail,
        sent_at = CASE WHEN r.status = 'sent' THEN now() ELSE m.sent_at END,
        failed_at = CASE WHEN r.status = 'failed' THEN now() END
    FROM result r
    WHERE m.id = r.message_id AND m.token = r.token
      AND (m.status = 'sending'
           -- A late answer to an attempt that was given up as uncertain, or whose resend has not begun.
           OR m.status IN ('uncertain', 'queued') AND r.outcome IN ('sent', 'failed')
              -- Not EXISTS, here and below: the planner might read the whole table for it.
              AND (SELECT a.outcome FROM wa_attempt a WHERE a.token = r.token) = 'uncertain')
    RETURNING m.token, m.session_id, m.recipient
),
landed AS (
    DELETE FROM wa_in_flight f USING result r
    WHERE f.session_id = r.session_id AND f.slot = 0 AND f.token = r.token AND f.message_id = r.message_id
      AND NOT r.goes_on
),
-- A session that goes on keeps its place in flight: the fence that follows in this transaction finds it reserved.
reserved AS (
    UPDATE wa_in_flight f
    SET message_id = NULL, token = nextval('wa_attempt_token'), fenced_at = clock_timestamp(),
        deadline_at = clock_timestamp() + %(seconds)s * interval '1 second'
    FROM result r
    WHERE f.session_id = r.session_id AND f.slot = 0 AND f.token = r.token AND f.message_id = r.message_id
      AND r.goes_on
),
attempt AS (
    UPDATE wa_attempt a
    SET finished_at = coalesce(a.finished_at, now()),
        outcome = CASE WHEN r.is_current THEN r.outcome ELSE a.outcome END,
        -- What is heard late adds to the evidence, and takes nothing of it away.
        provider_id = CASE WHEN r.is_current OR r.provider_id <> '' THEN r.provider_id ELSE a.provider_id END,
        error_code = CASE WHEN r.is_current OR r.error_code <> '' THEN r.error_code ELSE a.error_code END,
        error_detail = CASE WHEN r.is_current OR r.error_detail <> '' THEN r.error_detail ELSE a.error_detail END,
        late_outcome = CASE WHEN NOT r.is_current AND a.outcome <> r.outcome THEN r.outcome ELSE a.late_outcome END
    -- A hashed subplan: for a join the planner expects one row and compares every result with every message.
    FROM (SELECT *, token IN (SELECT token FROM message) AS is_current FROM result) r
    WHERE a.token = r.token AND a.message_id = r.message_id
    RETURNING a.token
),
event AS (
    INSERT INTO wa_event (kind, session_id, message_id, data)
    SELECT r.event, r.session_id, r.message_id,
           jsonb_strip_nulls(jsonb_build_object('attempt', r.token, 'error', nullif(r.error_detail, '')))
    FROM result r JOIN message m ON m.token = r.token
    WHERE r.event <> ''
),
observed AS (
    UPDATE wa_session s
    SET observed_state = r.observed, observed_reason = left(r.error_detail, 500), updated_at = now()
    FROM result r
    WHERE r.observed <> '' AND s.id = r.session_id AND (r.observed <> 'working' OR s.desired_state <> 'stopped')
    RETURNING s.id
),
recipient AS (
    INSERT INTO wa_recipient_pace (session_id, recipient, next_send_at)
    SELECT s.id, m.recipient, now() + s.per_recipient_ms * interval '1 ms'
    FROM result r JOIN message m ON m.token = r.token JOIN wa_session s ON s.id = r.session_id
    WHERE s.per_recipient_ms > 0 AND r.is_paced
    ON CONFLICT (session_id, recipient) DO UPDATE SET next_send_at = excluded.next_send_at
),
pace AS MATERIALIZED (
    SELECT r.session_id, r.token, r.outcome, r.is_paced, r.error_detail, d.next_send_at,
           s.hourly_cap, s.daily_cap,
           CASE WHEN r.is_paced AND s.max_interval_ms > 0
                THEN now() + (s.min_interval_ms + random() * (s.max_interval_ms - s.min_interval_ms)) * interval '1 ms'
           END AS pause_until,
           CASE WHEN d.hour_began_at > now() - interval '1 hour' THEN d.hour_began_at ELSE now() END AS hour_began_at,
           CASE WHEN d.hour_began_at > now() - interval '1 hour' THEN d.hour_count ELSE 0 END + r.is_paced::int
               AS hour_count,
           -- Not a day, which is 23 or 25 hours where the connection's time zone changes its clocks.
           CASE WHEN d.day_began_at > now() - interval '24 hours' THEN d.day_began_at ELSE now() END AS day_began_at,
           CASE WHEN d.day_began_at > now() - interval '24 hours' THEN d.day_count ELSE 0 END + r.is_paced::int
               AS day_count,
           CASE r.outcome WHEN 'uncertain' THEN least(d.uncertain_streak + 1, 1000)
                          WHEN 'sent' THEN 0 WHEN 'failed' THEN 0 ELSE d.uncertain_streak END AS streak,
           CASE WHEN r.hold <> '' THEN r.hold
                WHEN r.outcome = 'uncertain' AND d.uncertain_streak >= 1 THEN 'doubt' ELSE '' END AS new_hold,
           -- A late answer has settled the message that the session was held for.
           d.hold = 'uncertain' AND r.status IN ('sent', 'failed') AND NOT EXISTS (
               SELECT 1 FROM wa_message u
               WHERE u.status = 'uncertain' AND u.session_id = r.session_id AND u.id <> r.message_id) AS is_freed,
           s.max_interval_ms > 0 OR s.hourly_cap > 0 OR s.daily_cap > 0 AS has_pace
    FROM result r
    JOIN wa_session s ON s.id = r.session_id
    JOIN wa_session_dispatch d ON d.session_id = r.session_id
    JOIN message m ON m.token = r.token
    -- The session's row before its dispatch row, as everybody else locks them.
    LEFT JOIN observed o ON o.id = r.session_id
),
dispatch AS (
    UPDATE wa_session_dispatch d
    -- A pacing that was changed since this statement began has set another wait, whose pause counts this hand-over too.
    SET next_send_at = CASE WHEN p.is_paced AND d.next_send_at IS NOT DISTINCT FROM p.next_send_at THEN greatest(
            p.pause_until,
            CASE WHEN p.hourly_cap > 0 AND p.hour_count >= p.hourly_cap THEN p.hour_began_at + interval '1 hour' END,
            CASE WHEN p.daily_cap > 0 AND p.day_count >= p.daily_cap THEN p.day_began_at + interval '24 hours' END
        ) ELSE d.next_send_at END,
        hour_began_at = p.hour_began_at, hour_count = p.hour_count,
        day_began_at = p.day_began_at, day_count = p.day_count,
        uncertain_streak = p.streak,
        hold = CASE WHEN d.hold = '' OR p.is_freed THEN p.new_hold ELSE d.hold END,
        hold_reason = CASE WHEN d.hold = '' AND p.new_hold <> '' THEN left(p.error_detail, 500) ELSE d.hold_reason END,
        held_at = CASE WHEN d.hold = '' AND p.new_hold <> '' THEN now() ELSE d.held_at END,
        last_sent_at = CASE WHEN p.outcome = 'sent' THEN now() ELSE d.last_sent_at END
    FROM pace p
    WHERE d.session_id = p.session_id
      -- A session without a pace is written at most once in five seconds: its row is not worth a write a message.
      AND (p.has_pace OR p.streak <> d.uncertain_streak OR p.new_hold <> '' OR p.is_freed
           OR p.outcome = 'sent' AND (d.last_sent_at IS NULL OR d.last_sent_at < now() - interval '5 seconds'))
    RETURNING d.session_id, d.next_send_at, d.hold, d.held_at = now() AS is_new_hold
),
held AS (
    INSERT INTO wa_event (kind, session_id, data)
    SELECT 'session.held', d.session_id, jsonb_build_object('hold', d.hold, 'reason', p.error_detail)
    FROM dispatch d JOIN pace p ON p.session_id = d.session_id WHERE d.is_new_hold
)
SELECT r.token,
       -- Written before, and its answer was lost: the same as now.
       m.token IS NOT NULL OR r.outcome = (SELECT a.outcome FROM wa_attempt a WHERE a.token = r.token)
           AND coalesce(
               (SELECT w.token = r.token
                       -- A receipt may have come meanwhile.
                       AND (w.status = r.status OR r.status = 'sent' AND w.status IN ('delivered', 'read'))
                FROM wa_message w WHERE w.id = r.message_id), false),
       greatest(0, r.retry_ms, (1000 * extract(epoch FROM d.next_send_at - now()))::bigint),
       coalesce(d.hold, ''), coalesce(d.is_new_hold, false), r.token NOT IN (SELECT token FROM attempt)
FROM result r LEFT JOIN message m ON m.token = r.token LEFT JOIN dispatch d ON d.session_id = r.session_id
"""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one settlement.

    `is_current` says that it decided the message, and was not only kept as evidence. `delay_ms` is the wait that pace
    and retry ask of the session. `hold` is what now holds it, and `is_new_hold` that this settlement is why.
    `is_lost` says that the database does not have the attempt.
    """

    settlement: Settlement
    is_current: bool
    delay_ms: int
    hold: str
    is_new_hold: bool
    is_lost: bool

    @property
    def is_open(self) -> bool:
        """Whether the message still stands in its line."""
        return self.settlement.status == Status.QUEUED


async def settle(connection: psycopg.AsyncConnection[Any], settlements: Sequence[Settlement]) -> list[Settled]:
    """Write all of `settlements`, of different sessions, and commit.

    Raises psycopg.Error, after which it may be called again with the same ones.
    """
    return await read(await send(connection, settlements), settlements)


async def send(
    connection: psycopg.AsyncConnection[Any], settlements: Sequence[Settlement], going: Container[str] = ()
) -> Cursor:
    """Have PostgreSQL write them, as a part of a transaction or of a pipeline. `read` then reads its answer.

    The sessions that are named in `going` stay reserved for the fence that has to follow in the same transaction.
    """
    # In one order, so that two who write at once never wait for each other in a ring.
    ordered = sorted(settlements, key=_session_id)
    parameters = {
        "token": numbers(s.flight.token for s in ordered),
        "session_id": numbers(s.flight.session_id for s in ordered),
        "message_id": numbers(s.flight.message_id for s in ordered),
        "outcome": texts(s.outcome for s in ordered),
        "status": texts(s.status for s in ordered),
        "event": texts(s.event for s in ordered),
        "provider_id": texts(s.provider_id for s in ordered),
        "error_class": texts(s.error_class for s in ordered),
        "error_code": texts(s.error_code for s in ordered),
        "error_detail": texts(s.error_detail for s in ordered),
        "retry_ms": numbers(s.retry_ms for s in ordered),
        "refund": numbers(s.refund for s in ordered),
        "resend": numbers(s.resend for s in ordered),
        "hold": texts(s.hold for s in ordered),
        "observed": texts(s.observed for s in ordered),
        "is_paced": numbers(s.is_paced for s in ordered),
        "death": numbers(s.death for s in ordered),
        "goes_on": numbers(s.flight.session_name in going for s in ordered),
        "seconds": settings.WAQUEUE_SEND_SECONDS,
    }
    return await connection.execute(_SETTLE, parameters)


async def read(cursor: Cursor, settlements: Sequence[Settlement]) -> list[Settled]:
    """What became of them, from the answer to `send`."""
    by_token = {s.flight.token: s for s in settlements}
    return [Settled(by_token[row[0]], *row[1:]) for row in await cursor.fetchall()]


def _session_id(settlement: Settlement) -> int:
    flight: Flight = settlement.flight
    return flight.session_id
