"""Which messages of an orphan waqueue knows as others: those in a line, and those that were sent."""

import json
import re
import uuid
from collections.abc import Sequence

from django.db import connection

from sessions_app.models import OrphanEntry

# An id as waqueue, and most others, write it.
_ID = "[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"
_is_id = re.compile(_ID).fullmatch
# The message that an entry's job names, for statements; null for an id of somebody else's.
OWN_ID = f"CASE WHEN job_id ~ '^{_ID}$' THEN job_id::uuid END"
# What becomes `client_ref` of a restored message, likewise, and its text.
REFERENCE = "left(coalesce(nullif(content->>'client_ref', ''), job_id), 200)"
TEXT = "coalesce(content->>'text', '')"

# That no reference is empty is said, for the index has none.
# What ended without having been sent and without anybody's wish is left out: the same in an orphan doubles nothing.
_KNOWN = """
SELECT key, message FROM (
    SELECT wanted.key, coalesce(
        (SELECT id FROM wa_message WHERE id = wanted.own),
        (SELECT id FROM wa_message
         WHERE client_ref = wanted.ref AND client_ref <> '' AND status NOT IN ('failed', 'expired')
             AND recipient = wanted.to AND text = wanted.text
         LIMIT 1)
    ) AS message FROM {wanted}
) found WHERE message IS NOT NULL
"""
_GIVEN = """json_to_recordset(%s) AS wanted(key int, own uuid, ref text, "to" text, text text)"""
# The message of a deleted session is the entry's own: it was accepted, whatever else looks like it.
_KEPT = """(
    SELECT id AS key, {own_id} AS own, {reference} AS ref, recipient AS to, {text} AS text
    FROM wa_orphan_entry WHERE id = ANY(%s) AND message_id IS NULL
) AS wanted"""
_MARK_KNOWN = """
UPDATE wa_orphan_entry entry SET duplicate_of = known.message
FROM ({known}) known WHERE entry.id = known.key
RETURNING entry.id
"""
_FIND = _KNOWN.format(wanted=_GIVEN)
_MARK = _MARK_KNOWN.format(known=_KNOWN.format(wanted=_KEPT.format(own_id=OWN_ID, reference=REFERENCE, text=TEXT)))


def own_id(job_id: str) -> uuid.UUID | None:
    """The message that a job's id names; None for an id of somebody else's."""
    return uuid.UUID(job_id) if _is_id(job_id) else None


def mark_known(entry_ids: Sequence[int]) -> set[int]:
    """Mark those of these kept entries that are known as another message; return their row ids."""
    with connection.cursor() as cursor:
        cursor.execute(_MARK, [list(entry_ids)])
        return {row[0] for row in cursor.fetchall()}


def find_known(entries: Sequence[OrphanEntry]) -> dict[int, uuid.UUID]:
    """Those of an orphan's `entries` that are in a line, or were sent, as another message, by their places.

    That is one with the entry's own id or, of what can be read, with the same id of the client's, recipient and text.
    """
    wanted = []
    for entry in entries:
        if entry.message_id is None:
            ref, to, text = likeness(entry) if entry.readable else ("", "", "")
            own = entry.job_id if _is_id(entry.job_id) else None
            wanted.append({"key": entry.index, "own": own, "ref": ref, "to": to, "text": text})
    if not wanted:
        return {}
    with connection.cursor() as cursor:
        # As one JSON text: thousands of parameters take longer to write than their rows to find.
        cursor.execute(_FIND, [json.dumps(wanted)])
        return dict(cursor.fetchall())


def likeness(entry: OrphanEntry) -> tuple[str, str, str]:
    """What two entries are one by if their ids name no message: the same id of the client's, recipient and text."""
    reference = str(entry.content.get("client_ref") or entry.job_id)[:200]
    return reference, entry.recipient, entry.content.get("text", "")
