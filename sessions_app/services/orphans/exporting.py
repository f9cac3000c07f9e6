"""An orphan's messages as rows for CSV and JSON lines, all of them, also the unreadable ones.

JSON lines hold what stood in Redis byte by byte; CSV, which people open in spreadsheets, holds it escaped and cut.
"""

import base64
import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Literal

from sessions_app.models import Orphan, OrphanEntry
from sessions_app.queues.entries import printable
from sessions_app.services.orphans.listing import rows
from sessions_app.services.orphans.preview import waiting

_CONTENT = ("type", "text", "media_url", "filename", "caption", "template", "priority", "scheduled_at", "expires_at")
COLUMNS = (
    "index", "to", *_CONTENT, "client_ref", "created_at", "readable", "error", "duplicate_of", "message_id",
    "is_restored", "raw",
)  # fmt: skip
_CHUNK = 500
# A cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def begin_export(orphan: Orphan, kind: Literal["csv", "jsonl"]) -> tuple[int, Iterator[str]]:
    """How many messages wait in it, and the export with its first part read: later nobody could be told of an error.

    Raises QueueUnavailable for a live orphan.
    """
    count, pieces = waiting([orphan])[0], export_rows(orphan, kind)
    # The second piece is of the first message, whatever the kind.
    begin = [next(pieces, ""), next(pieces, "")]
    return count, chain(begin, pieces)


def export_rows(orphan: Orphan, kind: Literal["csv", "jsonl"]) -> Iterator[str]:
    """The export in pieces, ready to be streamed. Raises QueueUnavailable for a live orphan."""
    if kind == "csv":
        yield _csv_line(COLUMNS)
    for entry in _all(orphan):
        row = _row(entry)
        if kind == "csv":
            row["raw"] = printable(bytes(entry.raw))
            yield _csv_line([_cell(row[name]) for name in COLUMNS])
        else:
            yield json.dumps(row | _whole(bytes(entry.raw)), default=str, ensure_ascii=False) + "\n"


def _all(orphan: Orphan) -> Iterator[OrphanEntry]:
    start = 0
    while chunk := rows(orphan, start=start, count=_CHUNK):
        yield from chunk
        start = chunk[-1].index + 1


def _row(entry: OrphanEntry) -> dict[str, Any]:
    named = {
        "index": entry.index, "to": entry.recipient, "text": entry.content.get("text", ""),
        "client_ref": entry.content.get("client_ref") or entry.job_id,
        "created_at": entry.created_at, "readable": entry.readable, "error": entry.error,
        "duplicate_of": entry.duplicate_of, "message_id": entry.message_id,
        "is_restored": entry.restored_at is not None,
    }  # fmt: skip
    # Of what cannot be read, as much as there was.
    return {name: named[name] if name in named else entry.content.get(name) for name in COLUMNS}


def _whole(raw: bytes) -> dict[str, str | None]:
    """What stood in Redis: as text where it is text, else in base64."""
    try:
        return {"raw": raw.decode(), "raw_base64": None}
    except UnicodeDecodeError:
        return {"raw": None, "raw_base64": base64.b64encode(raw).decode()}


def _cell(value: object) -> str:
    text = "" if value is None else json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    is_formula = text.startswith(_FORMULA) and not text[1:].isdigit()
    return f"'{text}" if is_formula else text


def _csv_line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()
