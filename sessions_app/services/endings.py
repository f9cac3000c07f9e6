"""Ends of messages that are not sent any more: expired or cancelled.

One that its policy sends again is uncertain instead: nobody knows whether an earlier attempt has arrived.
"""

import json
import uuid
from collections.abc import Sequence
from typing import Any

from django.db import connection

from sessions_app.models import IN_DOUBT, MAY_HAVE_ARRIVED, Status

_END = f"""
WITH ending AS MATERIALIZED (
    SELECT m.id, {IN_DOUBT} AS is_doubted FROM wa_message m WHERE m.id = ANY(%(ids)s)
), ended AS (
    UPDATE wa_message m
    SET status = CASE WHEN e.is_doubted THEN 'uncertain' ELSE %(status)s END, next_attempt_at = NULL,
        error_class = CASE WHEN e.is_doubted THEN 'uncertain' ELSE m.error_class END,
        error_code = CASE WHEN e.is_doubted THEN '' ELSE m.error_code END,
        error_detail = CASE WHEN e.is_doubted THEN %(why)s ELSE m.error_detail END
    -- What waits, here or in an orphan: whoever was first in spite of a caller's lock has decided.
    FROM ending e WHERE m.id = e.id AND m.status IN ('queued', 'scheduled', 'orphaned')
    RETURNING m.id, m.session_id, m.status
), told AS (
    INSERT INTO wa_event (kind, session_id, message_id, data)
    SELECT 'message.' || status, session_id, id,
           %(data)s::jsonb || CASE WHEN status = 'uncertain' THEN jsonb_build_object('error', %(why)s::text)
                                   ELSE '{{}}'::jsonb END
    FROM ended
)
SELECT id FROM ended WHERE status = 'uncertain'
"""  # noqa: S608 (a statement of ours inside another)

_IN_DOUBT = f"SELECT m.id FROM wa_message m WHERE m.id = ANY(%s) AND {IN_DOUBT}"  # noqa: S608 (likewise)


def in_doubt(message_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of these messages that would end uncertain, whatever else ended them. Raises the errors of django.db."""
    if not message_ids:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(_IN_DOUBT, [list(message_ids)])
        return {pk for (pk,) in cursor.fetchall()}


def end(message_ids: Sequence[uuid.UUID], status: Status, **data: Any) -> set[uuid.UUID]:
    """End unsent messages as `status`, and tell of each; return those that are uncertain instead.

    The caller has locked their rows, in a statement before: only then no attempt is overlooked. One that has an end
    already, or is being sent, is left alone. `data` is what the events say. Raises the errors of django.db.
    """
    if not message_ids:
        return set()
    why = f"{status} before it was sent again; {MAY_HAVE_ARRIVED}"
    values: dict[str, Any] = {"ids": list(message_ids), "status": status, "why": why, "data": json.dumps(data)}
    with connection.cursor() as cursor:
        cursor.execute(_END, values)
        return {pk for (pk,) in cursor.fetchall()}
