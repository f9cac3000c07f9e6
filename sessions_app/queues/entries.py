"""What stands in a list that nobody owns, read without running anything: never unpickled, never called.

Two formats are known: RQ jobs whose data is JSON, and the entries of the old service, each a JSON object. Whatever else
stands there is kept as its bytes, with the reason why it cannot be read.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

# What one entry may unpack to; what is larger is no message.
_MAX_BYTES = 1024 * 1024
_TYPES = ("text", "image", "document", "template")


@dataclass(frozen=True, slots=True)
class ParsedEntry:
    """One entry. `to` is the phone as it stood there; `error` says in words why it cannot be read, if it cannot."""

    raw: bytes
    job_id: str = ""
    to: str = ""
    content: dict[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    error: str = ""


def printable(raw: bytes, limit: int = 1000) -> str:
    """Bytes as people read them: text where it is text, the rest escaped; at most `limit` characters."""
    text = raw[: limit * 4].decode("utf-8", "backslashreplace")
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def parse_legacy(raw: bytes) -> ParsedEntry:
    """An entry of the old service: `{"id", "phone", "message", "type", "createdAt" in ms, …}`."""
    if not raw:
        return ParsedEntry(raw, error="empty")
    if len(raw) > _MAX_BYTES:
        return ParsedEntry(raw, error=f"{len(raw)} bytes are too large for a message")
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return ParsedEntry(raw, error="no JSON")
    if not isinstance(entry, dict):
        return ParsedEntry(raw, error="JSON, but no object")
    return _message(raw, _text(entry.get("id")), entry, _time_of_ms(entry.get("createdAt")))


def parse_job(job_id: bytes, fields: Mapping[bytes, bytes] | None) -> ParsedEntry:
    """An RQ job by its id and its hash; None for a hash that is gone. Pickled data is not looked into."""
    name = printable(job_id, 200)
    if not fields:
        return ParsedEntry(job_id, name, error="its content is gone: only the id is left")
    raw = json.dumps(
        {"id": name, "hash": {key.decode("latin-1"): value.decode("latin-1") for key, value in fields.items()}}
    ).encode()
    created_at = _time_of_rq(fields.get(b"created_at", b""))
    data = _unpacked(fields.get(b"data", b""))
    if data is None:
        return ParsedEntry(raw, name, created_at=created_at, error="its data is too large or damaged")
    try:
        call = json.loads(data)
    except (ValueError, RecursionError):
        return ParsedEntry(raw, name, created_at=created_at, error="its data is no JSON (a pickle is never loaded)")
    if not (isinstance(call, list) and len(call) == 4 and isinstance(call[2], list) and isinstance(call[3], dict)):
        return ParsedEntry(raw, name, created_at=created_at, error="JSON, but no call of RQ")
    given = call[3] or next((value for value in call[2] if isinstance(value, dict)), {})
    return _message(raw, name, given, created_at)


def _message(raw: bytes, job_id: str, given: Mapping[str, Any], created_at: datetime | None) -> ParsedEntry:
    to = _text(given.get("to") or given.get("phone"))
    text = _text(given.get("text") or given.get("message"))
    kind = given.get("type") if given.get("type") in _TYPES else "text"
    content: dict[str, Any] = {"type": kind}
    if text:
        content["text"] = text
    for name in ("media_url", "filename", "caption", "client_ref"):
        if value := _text(given.get(name)):
            content[name] = value
    if isinstance(given.get("template"), dict):
        content["template"] = given["template"]
    error = ""
    if not to:
        error = "no phone"
    elif kind == "text" and not text:
        error = "no text"
    elif kind in ("image", "document") and "media_url" not in content:
        error = "no file"
    elif kind == "template" and "template" not in content:
        error = "no template"
    return ParsedEntry(raw, job_id, to, content, created_at, error)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    # PostgreSQL takes neither NUL nor half a surrogate pair.
    return str(value).replace("\x00", "").encode("utf-8", "replace").decode()


def _unpacked(data: bytes) -> bytes | None:
    unpack = zlib.decompressobj()
    try:
        unpacked = unpack.decompress(data, _MAX_BYTES)
    except zlib.error:
        # RQ itself takes what is not packed as it is.
        return data if len(data) <= _MAX_BYTES else None
    return None if unpack.unconsumed_tail else unpacked


def _time_of_ms(value: Any) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return _credible(datetime.fromtimestamp(value / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return None


def _time_of_rq(value: bytes) -> datetime | None:
    try:
        at = datetime.fromisoformat(value.decode())
    except (ValueError, UnicodeDecodeError):
        return None
    return _credible(at if at.tzinfo else at.replace(tzinfo=UTC))


def _credible(at: datetime) -> datetime | None:
    """A time at which a message may have been handed in: others are no times, and some cannot be kept or shown."""
    return at.astimezone(UTC) if 1970 <= at.year < 2200 else None
