"""The fence: one commit that decides, for all claimed sessions at once, which message each may send now.

Reserve, look, release. The reservation is the in-flight row; whoever has it is alone with the session's line, so the
look, which has a snapshot of its own, sees all that the last one settled. Nothing is skipped: a line whose first
message has to wait, waits.
"""

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import psycopg
from django.conf import settings

from sessions_app.models import IN_DOUBT, MAY_HAVE_ARRIVED, NEWEST_TOKEN
from sessions_app.queues.dispatch import ClaimedSession, SettledJob
from sessions_app.worker import clock
from sessions_app.worker.arrays import texts
from sessions_app.worker.outcomes import Flight

log = logging.getLogger(__name__)

_EXPIRED_IN_DOUBT = f"expired before it was sent again; {MAY_HAVE_ARRIVED}"
NO_LIMITS: Mapping[str, int] = MappingProxyType({})
Cursor = psycopg.AsyncCursor[tuple[Any, ...]]

# A message `m` as a transport gets it.
CONTENT = """
jsonb_strip_nulls(jsonb_build_object(
    'to', m.recipient, 'type', m.type, 'text', nullif(m.text, ''), 'media_url', nullif(m.media_url, ''),
    'filename', nullif(m.filename, ''), 'caption', nullif(m.caption, ''), 'template', m.template,
    'client_ref', nullif(m.client_ref, '')))
"""

_RESERVE = f"""
INSERT INTO wa_in_flight (session_id, slot, token, worker_id, fenced_at, deadline_at)
SELECT s.id, 0, nextval('wa_attempt_token'), %(worker)s, clock_timestamp(),
       clock_timestamp() + %(seconds)s * interval '1 second'
FROM unnest(%(names)s::text[]) AS c(name)
-- Each by itself, here and below: a join that is planned while there are hardly any sessions reads all of them.
CROSS JOIN LATERAL (SELECT id FROM wa_session WHERE name = c.name AND deleted_at IS NULL LIMIT 1) s
WHERE %(known)s <= ({NEWEST_TOKEN})
ORDER BY s.id
ON CONFLICT (session_id, slot) DO NOTHING
"""  # noqa: S608 (a statement of ours inside another)

_LOOK = (
    f"""
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now, %(known)s > ({NEWEST_TOKEN}) AS is_older),
"""  # noqa: S608
    """
line_head AS MATERIALIZED (
    SELECT c.name, c.place, s.id AS session_id, s.transport, s.config, s.on_uncertain, s.observed_state,
           s.min_interval_ms, d.hold, m.id AS message_id, m.max_attempts, m.has_more, m.expires_at, m.old_token,
           m.attempts, m.deaths,
           """
    + IN_DOUBT
    + """ AS is_doubted,
           -- A suspect is tried in a process of its own, and read only there: to read it may be what kills.
           CASE WHEN m.deaths = 0 THEN """
    + CONTENT
    + """ END AS content,
           f.token, f.deadline_at, wait.until AS wait_until,
           CASE
               WHEN clock.is_older THEN 'older'
               WHEN s.id IS NULL THEN 'gone'
               WHEN f.worker_id IS DISTINCT FROM %(worker)s OR f.message_id IS NOT NULL THEN 'in_flight'
               WHEN s.desired_state <> 'active' THEN 'stopped'
               -- Also with an empty line: its engine is asked until it works again, and nobody has to look at it.
               WHEN d.hold <> '' THEN 'held'
               WHEN m.id IS NULL THEN 'empty'
               WHEN m.status = 'sending' THEN 'abandoned'
               WHEN m.expires_at <= clock.now THEN 'expired'
               WHEN d.quiet_until <= clock.now THEN 'quiet_over'
               WHEN wait.until > clock.now THEN 'wait'
               ELSE 'send'
           END AS wish
    FROM clock
    CROSS JOIN unnest(%(names)s::text[]) WITH ORDINALITY AS c(name, place)
    LEFT JOIN LATERAL (SELECT * FROM wa_session WHERE name = c.name AND deleted_at IS NULL LIMIT 1) s ON true
    LEFT JOIN wa_session_dispatch d ON d.session_id = s.id
    LEFT JOIN wa_in_flight f ON f.session_id = s.id AND f.slot = 0
    LEFT JOIN LATERAL (
        SELECT line.*, line.token AS old_token,
               lead(line.id) OVER (ORDER BY line.priority, line.seq) IS NOT NULL AS has_more
        FROM (
            SELECT * FROM wa_message
            WHERE session_id = s.id AND status IN ('queued', 'sending')
            ORDER BY priority, seq LIMIT 2
        ) line
        ORDER BY line.priority, line.seq LIMIT 1
    ) m ON true
    LEFT JOIN wa_recipient_pace r
        ON s.per_recipient_ms > 0 AND r.session_id = s.id AND r.recipient = m.recipient
    CROSS JOIN LATERAL (
        SELECT greatest(m.next_attempt_at, d.next_send_at, r.next_send_at,
                        CASE WHEN d.quiet_from <= clock.now THEN d.quiet_until END) AS until
    ) wait
),
-- A transport may have less room than the worker: then those go that were named first.
head AS MATERIALIZED (
    SELECT l.*,
           CASE WHEN l.wish = 'send' AND row_number() OVER (PARTITION BY l.transport, l.wish = 'send' ORDER BY l.place)
                                         > (%(room)s::jsonb ->> l.transport)::int
                THEN 'busy' ELSE l.wish END AS verdict
    FROM line_head l
),
-- Only heads that were chosen already, so that nothing is overtaken: one that somebody is changing just now is looked
-- at again, and the others do not wait for it.
locked AS MATERIALIZED (
    SELECT m.id FROM head h
    CROSS JOIN LATERAL (
        SELECT id FROM wa_message WHERE id = h.message_id AND status = 'queued' FOR UPDATE SKIP LOCKED
    ) m
    WHERE h.verdict IN ('send', 'expired')
),
taken AS (
    UPDATE wa_message m
    SET status = 'sending', attempts = m.attempts + 1, token = h.token, next_attempt_at = NULL
    FROM head h JOIN locked l ON l.id = h.message_id
    WHERE h.verdict = 'send' AND m.id = h.message_id
    RETURNING m.id, m.attempts, h.session_id, h.token
),
flown AS (
    UPDATE wa_in_flight f SET message_id = t.id
    FROM taken t WHERE f.session_id = t.session_id AND f.slot = 0
),
tried AS (
    INSERT INTO wa_attempt (token, message_id, session_id, number, worker_id, fenced_at, outcome, provider_id,
                            error_code, error_detail, late_outcome)
    SELECT t.token, t.id, t.session_id, t.attempts, %(worker)s, clock.now, '', '', '', '', '' FROM taken t, clock
),
expired AS (
    UPDATE wa_message m
    SET status = CASE WHEN h.is_doubted THEN 'uncertain' ELSE 'expired' END, next_attempt_at = NULL,
        error_class = CASE WHEN h.is_doubted THEN 'uncertain' ELSE m.error_class END,
        error_code = CASE WHEN h.is_doubted THEN '' ELSE m.error_code END,
        error_detail = CASE WHEN h.is_doubted THEN %(doubt)s ELSE m.error_detail END
    FROM head h JOIN locked l ON l.id = h.message_id
    WHERE h.verdict = 'expired' AND m.id = h.message_id
    RETURNING m.id, m.session_id, m.status
),
told AS (
    INSERT INTO wa_event (kind, session_id, message_id, data)
    SELECT 'message.' || status, session_id, id,
           CASE WHEN status = 'uncertain' THEN jsonb_build_object('error', %(doubt)s::text) ELSE '{}' END
    FROM expired
)
-- A head that somebody else has locked was not decided here.
SELECT h.name,
       CASE WHEN h.verdict = 'send' AND t.id IS NULL OR h.verdict = 'expired' AND e.id IS NULL THEN 'overtaken'
            ELSE h.verdict END,
       h.session_id, h.transport, h.config, h.on_uncertain, h.observed_state, h.min_interval_ms, h.hold, h.message_id,
       coalesce(t.attempts, h.attempts), h.max_attempts, h.has_more,
       CASE WHEN h.verdict = 'abandoned' THEN h.old_token ELSE h.token END, h.content, h.deaths,
       h.is_doubted,
       -- A head that expires before it may go does so on time.
       (1000 * extract(epoch FROM
           CASE h.verdict WHEN 'in_flight' THEN h.deadline_at ELSE least(h.wait_until, h.expires_at) END
           - clock.now))::bigint
FROM clock CROSS JOIN head h
LEFT JOIN taken t ON t.session_id = h.session_id
LEFT JOIN expired e ON e.session_id = h.session_id
"""
)

_RELEASE = """
DELETE FROM wa_in_flight f
-- Also of a session that was deleted since the reservation.
USING unnest(%(names)s::text[]) AS c(name) JOIN wa_session s ON s.name = c.name
WHERE f.session_id = s.id AND f.slot = 0 AND f.worker_id = %(worker)s AND f.message_id IS NULL
"""

_OWN = """
SELECT f.token, f.message_id, f.session_id, s.name, s.transport, s.on_uncertain, m.attempts, m.max_attempts
FROM wa_in_flight f JOIN wa_session s ON s.id = f.session_id JOIN wa_message m ON m.id = f.message_id
WHERE f.worker_id = %(worker)s AND f.fenced_at <= clock_timestamp() - %(age)s * interval '1 second'
"""


class Verdict(StrEnum):
    """Why a claimed session sends nothing now. Those that are not listed here do send."""

    GONE = "gone"
    IN_FLIGHT = "in_flight"
    EMPTY = "empty"
    STOPPED = "stopped"
    HELD = "held"
    ABANDONED = "abandoned"
    EXPIRED = "expired"
    QUIET_OVER = "quiet_over"
    WAIT = "wait"
    OVERTAKEN = "overtaken"
    BUSY = "busy"
    OLDER = "older"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A claimed session that sends nothing now, with the wait that its verdict asks for; None for no wait known."""

    claimed: ClaimedSession
    verdict: Verdict
    delay_ms: int | None = None
    session_id: int = 0
    transport: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    hold: str = ""


@dataclass(slots=True)
class Fenced:
    """What one fence decided."""

    flights: list[Flight] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    # Rows that say `sending` though nothing is in flight: what became of them nobody knows.
    abandoned: list[Flight] = field(default_factory=list)
    # Jobs of messages that expired: out of the mirror with them.
    expired: list[SettledJob] = field(default_factory=list)


async def fence(
    connection: psycopg.AsyncConnection[Any],
    worker: uuid.UUID,
    claimed: Sequence[ClaimedSession],
    room: Mapping[str, int] = NO_LIMITS,
    *,
    known: int = 0,
) -> Fenced:
    """Decide for all of `claimed` and commit it. `room` is how many more a transport may send, where that is limited.

    A database that does not have the attempt `known` is older than it should be: nothing of it is sent.
    Raises psycopg.Error, after which the commit may have happened.
    """
    # Before the first statement: the deadline on this clock is never later than the one in the database.
    fenced_at = clock.now()
    # Whoever is named twice would be sent twice.
    claimed = list({session.name: session for session in claimed}.values())
    # A pipeline is one transaction, without a BEGIN: everything up to its end commits or fails together.
    async with connection.pipeline():
        await connection.execute(
            _RESERVE,
            {
                "worker": worker, "names": texts(session.name for session in claimed), "known": known,
                "seconds": settings.WAQUEUE_SEND_SECONDS,
            },
        )  # fmt: skip
        looked = await look(connection, worker, claimed, room, known)
    return await read(looked, claimed, fenced_at)


async def look(
    connection: psycopg.AsyncConnection[Any],
    worker: uuid.UUID,
    claimed: Sequence[ClaimedSession],
    room: Mapping[str, int],
    known: int,
) -> Cursor:
    """Have PostgreSQL decide for the sessions that were reserved in this transaction, and release the others.

    As a part of a pipeline; `read` then reads its answer.
    """
    parameters = {
        "worker": worker,
        "names": texts(session.name for session in claimed),
        "room": json.dumps(dict(room)),
        "known": known,
        "doubt": _EXPIRED_IN_DOUBT,
    }
    looked = await connection.execute(_LOOK, parameters)
    await connection.execute(_RELEASE, parameters)
    return looked


async def read(looked: Cursor, claimed: Sequence[ClaimedSession], fenced_at: float) -> Fenced:
    """What was decided, from the answer to `look`, which was called at `fenced_at` on `clock.now()` or later."""
    by_name = {session.name: session for session in claimed}
    fenced = Fenced()
    for (
        name, verdict, session_id, transport, config, on_uncertain, observed_state, pace_ms, hold, message_id,
        attempts, max_attempts, has_more, token, content, deaths, is_doubted, delay_ms,
    ) in await looked.fetchall():  # fmt: skip
        if verdict in ("send", "abandoned"):
            flight = Flight(
                token=token, message_id=message_id, session_id=session_id, session_name=name, transport=transport,
                on_uncertain=on_uncertain, attempts=attempts, max_attempts=max_attempts, has_more=has_more,
                fenced_at=fenced_at, deadline=fenced_at + settings.WAQUEUE_SEND_SECONDS, claimed=by_name[name],
                observed_state=observed_state, config=config, content=content or {}, deaths=deaths, pace_ms=pace_ms,
                is_doubted=is_doubted,
            )  # fmt: skip
            (fenced.flights if verdict == "send" else fenced.abandoned).append(flight)
            continue
        if verdict == "expired":
            fenced.expired.append(SettledJob(name, str(message_id)))
            if is_doubted:
                log.warning("session %s: message %s %s", name, message_id, _EXPIRED_IN_DOUBT)
        waiting = Waiting(by_name[name], Verdict(verdict), delay_ms, session_id or 0, transport, config, hold or "")
        fenced.waiting.append(waiting)
    return fenced


async def newest_token(connection: psycopg.AsyncConnection[Any]) -> int:
    """The highest attempt token that this database has committed."""
    row = await (await connection.execute(NEWEST_TOKEN)).fetchone()
    return 0 if row is None else int(row[0])


async def own_flights(
    connection: psycopg.AsyncConnection[Any], worker: uuid.UUID, *, older_than_seconds: float = 0
) -> list[Flight]:
    """The flights that the database has for `worker`: to find those of a fence whose commit was not answered."""
    rows = await (await connection.execute(_OWN, {"worker": worker, "age": older_than_seconds})).fetchall()
    now = clock.now()
    return [
        Flight(
            token=token, message_id=message_id, session_id=session_id, session_name=name, transport=transport,
            on_uncertain=on_uncertain, attempts=attempts, max_attempts=max_attempts, has_more=True,
            fenced_at=now, deadline=now,
        )
        for token, message_id, session_id, name, transport, on_uncertain, attempts, max_attempts in rows
    ]  # fmt: skip
