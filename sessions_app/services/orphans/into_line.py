"""Entries of an orphan become messages at the end of a session's line, where both are: in PostgreSQL.

One statement, so that nothing goes to a process and back but the ids: read, made into messages and written again, an
entry took four times as long.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from django.conf import settings
from django.db import connection

from sessions_app.models import Orphan, Session, new_id
from sessions_app.models.line import columns_of_new, row_of_new
from sessions_app.services.orphans.duplicates import OWN_ID, REFERENCE, TEXT

# Rows are looked up one by one in an index: `OFFSET 0` keeps PostgreSQL from reading a whole table for a thousand.
_PLACE = """
WITH chosen AS (
    SELECT given.fresh, entry.*
    FROM unnest(%(entries)s::bigint[], %(fresh)s::uuid[]) AS given(entry, fresh)
    CROSS JOIN LATERAL (
        SELECT id, index, message_id, job_id, recipient, content, created_at, {own_id} AS own,
               coalesce(nullif(content->>'expires_at', '')::timestamptz <= %(now)s, false) AS has_expired
        FROM wa_orphan_entry WHERE id = given.entry OFFSET 0
    ) entry
), counted AS (
    -- One job that stood in its list twice, by its id or by what `duplicates` knows it by. It waits for the next part,
    -- which finds the first of them as any other message. What has expired unsent makes no other one a second.
    SELECT *, own IS NOT NULL AND row_number() OVER (PARTITION BY own ORDER BY index) > 1 AS is_again,
        message_id IS NULL AND {reference} <> '' AND count(*) FILTER (WHERE NOT has_expired) OVER (
            PARTITION BY message_id IS NULL, {reference}, recipient, {text} ORDER BY index
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) > 0 AS is_alike
    FROM chosen
), wanted AS (
    SELECT * FROM counted WHERE %(with_duplicates)s OR NOT (is_again OR is_alike)
), drawn AS (
    -- Whoever draws next waits for this commit, and stands behind it.
    UPDATE wa_session_counter SET next_seq = next_seq + (SELECT count(*) FROM wanted) WHERE session_id = %(session)s
    RETURNING next_seq - (SELECT count(*) FROM wanted) AS first
), timed AS (
    SELECT wanted.*, drawn.first + row_number() OVER (ORDER BY index) - 1 AS seq, former.id IS NOT NULL AS is_moved,
        CASE WHEN former.id IS NULL THEN nullif(content->>'scheduled_at', '')::timestamptz
             ELSE former.scheduled_at END AS later,
        CASE WHEN former.id IS NULL THEN nullif(content->>'expires_at', '')::timestamptz
             ELSE former.expires_at END AS expires_at,
        former.resends
    FROM wanted CROSS JOIN drawn
    -- The message of a deleted session moves into its new line.
    LEFT JOIN LATERAL (
        SELECT * FROM wa_message WHERE wa_message.id = wanted.message_id AND status = 'orphaned' OFFSET 0
    ) former ON true
), placed AS (
    SELECT *,
        -- The job's own id, so that whoever handed the message in still finds it. A new one only where a second message
        -- is wanted, or its former one is no orphan any more: else what somebody else placed meanwhile must not pass.
        CASE WHEN is_moved THEN message_id
             WHEN own IS NULL OR is_again OR own = message_id THEN fresh
             WHEN %(with_duplicates)s AND (SELECT true FROM wa_message WHERE wa_message.id = own) THEN fresh
             ELSE own END AS message,
        -- It keeps a time that lies ahead, and is not sent once it has expired. How one ends that was sent again, and
        -- so may have arrived, is said where it is queued.
        CASE WHEN expires_at <= %(now)s THEN CASE WHEN resends > 0 THEN 'queued' ELSE 'expired' END
             WHEN later > %(now)s THEN 'scheduled' ELSE 'queued' END AS status
    FROM timed
), moved AS (
    UPDATE wa_message SET session_id = %(session)s, seq = placed.seq, status = placed.status, orphan_id = NULL,
        queued_at = CASE WHEN placed.status <> 'scheduled' THEN %(now)s::timestamptz END,
        scheduled_at = CASE WHEN placed.status = 'scheduled' THEN placed.later END, next_attempt_at = NULL,
        max_attempts = attempts + %(max_attempts)s
    FROM placed WHERE placed.is_moved AND wa_message.id = placed.message
), made AS (
    INSERT INTO wa_message ({columns})
    SELECT {values} FROM placed, json_populate_record(NULL::wa_message, %(new)s) new
    WHERE NOT placed.is_moved ORDER BY placed.seq
), marked AS (
    UPDATE wa_orphan_entry SET message_id = placed.message, restored_at = %(now)s
    FROM placed WHERE wa_orphan_entry.id = placed.id
), told AS (
    INSERT INTO wa_event (kind, session_id, message_id, data)
    SELECT 'message.' || status, %(session)s, message, %(told)s::jsonb FROM placed ORDER BY seq
)
SELECT count(*), min(seq) FROM placed
"""
# What a message gets of its entry; all else is as in a new one. What is too long for a column was somebody else's.
_COLUMNS = {
    "id": "placed.message",
    "session_id": "%(session)s",
    "seq": "placed.seq",
    "status": "placed.status",
    "recipient": "placed.recipient",
    "type": "coalesce(content->>'type', 'text')",
    "text": TEXT,
    "media_url": "coalesce(left(content->>'media_url', 2000), '')",
    "filename": "coalesce(left(content->>'filename', 255), '')",
    "caption": "coalesce(content->>'caption', '')",
    "template": "nullif(content->'template', 'null')",
    "priority": "coalesce((content->>'priority')::int, 1)",
    "max_attempts": "%(max_attempts)s",
    "scheduled_at": "CASE WHEN placed.status = 'scheduled' THEN placed.later END",
    "expires_at": "placed.expires_at",
    "client_ref": REFERENCE,
    "metadata": "%(origin)s::jsonb",
    "created_at": "coalesce(placed.created_at, %(now)s)",
    "queued_at": "CASE WHEN placed.status <> 'scheduled' THEN %(now)s::timestamptz END",
}


@dataclass(frozen=True, slots=True)
class Placed:
    """How many messages were placed, and where the first of them stands; the others follow it."""

    count: int
    first: int


def place(
    orphan: Orphan,
    session: Session,
    entry_ids: Sequence[int],
    *,
    with_duplicates: bool,
    now: datetime,
    told: dict[str, str],
) -> Placed:
    """Make messages of `session` of these entries, mark those as restored, and tell of each; the caller commits.

    Of those that are one the first alone, unless `with_duplicates`. None is placed where the session is deleted. `told`
    is what the events say. Raises the errors of django.db.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _statement(),
            {
                "entries": list(entry_ids), "fresh": [new_id() for _ in entry_ids], "session": session.pk, "now": now,
                "with_duplicates": with_duplicates, "max_attempts": settings.WAQUEUE_MAX_ATTEMPTS, "new": row_of_new(),
                "origin": json.dumps({"orphan": str(orphan.pk)}), "told": json.dumps(told),
            },
        )  # fmt: skip
        count, first = cursor.fetchone()
    return Placed(count, first or 0)


@cache
def _statement() -> str:
    columns, values = columns_of_new(**_COLUMNS)
    return _PLACE.format(own_id=OWN_ID, reference=REFERENCE, text=TEXT, columns=columns, values=values)
