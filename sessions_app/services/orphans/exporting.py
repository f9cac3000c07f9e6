"""An orphan's messages as rows for CSV and JSON lines, all of them, also the unreadable ones."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Literal

from sessions_app.models import Orphan
from sessions_app.services.orphans.listing import EntryView, entries

COLUMNS = (
    "index", "to", "text", "created_at", "readable", "error", "duplicate_of", "message_id", "is_restored", "raw",
)  # fmt: skip
_CHUNK = 500
# A cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export_rows(orphan: Orphan, kind: Literal["csv", "jsonl"]) -> Iterator[str]:
    """The export in pieces, ready to be streamed. Raises QueueUnavailable for a live orphan."""
    if kind == "csv":
        yield _csv_line(COLUMNS)
    for entry in _all(orphan):
        row = {name: value for name, value in asdict(entry).items() if name in COLUMNS}
        if kind == "csv":
            yield _csv_line([_cell(row[name]) for name in COLUMNS])
        else:
            yield json.dumps(row, default=str, ensure_ascii=False) + "\n"


def _all(orphan: Orphan) -> Iterator[EntryView]:
    start = 0
    while chunk := entries(orphan, start=start, count=_CHUNK):
        yield from chunk
        start = chunk[-1].index + 1


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    is_formula = text.startswith(_FORMULA) and not text[1:].isdigit()
    return f"'{text}" if is_formula else text


def _csv_line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()
