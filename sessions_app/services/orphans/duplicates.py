"""Which messages of an orphan waqueue knows as others: those in a line, and those that were sent."""

import json
import uuid
from collections.abc import Iterable, Sequence
from functools import lru_cache

from django.db import connection

from sessions_app.models import OrphanEntry

# A list goes as one JSON text: thousands of parameters take longer to write than their rows to find. `OFFSET 0` has
# each looked up in the index: of a table that has just grown PostgreSQL would rather read all.
_BY_ID = """
SELECT m.id FROM json_array_elements_text(%s) wanted
CROSS JOIN LATERAL (SELECT id FROM wa_message WHERE id = wanted.value::uuid OFFSET 0) m
"""
# That no reference is empty is said once more, for the index has none.
# What ended without having been sent and without anybody's wish is left out: the same in an orphan doubles nothing.
_BY_REFERENCE = """
SELECT wanted.index, m.id FROM json_to_recordset(%s) wanted(index int, ref text, "to" text, text text)
CROSS JOIN LATERAL (
    SELECT id FROM wa_message
    WHERE client_ref = wanted.ref AND client_ref <> '' AND status NOT IN ('failed', 'expired')
        AND recipient = wanted.to AND text = wanted.text
    LIMIT 1
) m
"""


# An act asks for the same few thousand more than once.
@lru_cache(4096)
def own_id(job_id: str) -> uuid.UUID | None:
    """The message that a job's id names; None for an id of somebody else's."""
    try:
        return uuid.UUID(job_id)
    except ValueError:
        return None


def known_messages(job_ids: Iterable[str]) -> set[uuid.UUID]:
    """Those of the messages that `job_ids` name for which PostgreSQL has a row."""
    ids = {str(pk) for job_id in job_ids if (pk := own_id(job_id)) is not None}
    with connection.cursor() as cursor:
        cursor.execute(_BY_ID, [json.dumps(list(ids))])
        return {row[0] for row in cursor.fetchall()}


def mark_known(entries: Sequence[OrphanEntry]) -> set[int]:
    """Mark those of an orphan's `entries` that are known as another message; return their row ids."""
    known = find_known(entries)
    marked = [entry for entry in entries if entry.index in known]
    for entry in marked:
        entry.duplicate_of = known[entry.index]
    OrphanEntry.objects.bulk_update(marked, ["duplicate_of"])
    return {entry.pk for entry in marked}


def find_known(entries: Sequence[OrphanEntry]) -> dict[int, uuid.UUID]:
    """Those of an orphan's `entries` that are in a line, or were sent, as another message, by their places.

    That is one with the entry's own id, or with the same id of the client's, recipient and text.
    """
    # The message of a deleted session is the entry's own: it was accepted, whatever else looks like it.
    foreign = [(entry, ref) for entry in entries if entry.message_id is None and (ref := _ref(entry))]
    if not foreign:
        return {}
    ids = known_messages(entry.job_id for entry, _ in foreign)
    wanted = [
        {"index": entry.index, "ref": ref, "to": entry.recipient, "text": entry.content.get("text", "")}
        for entry, ref in foreign
    ]
    with connection.cursor() as cursor:
        cursor.execute(_BY_REFERENCE, [json.dumps(wanted)])
        known: dict[int, uuid.UUID] = dict(cursor.fetchall())
    own_ids = ((entry.index, own_id(entry.job_id)) for entry, _ in foreign)
    return known | {index: own for index, own in own_ids if own is not None and own in ids}


def _ref(entry: OrphanEntry) -> str:
    return str(entry.content.get("client_ref") or entry.job_id)[:200]
