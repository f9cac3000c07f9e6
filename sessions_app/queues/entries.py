"""What stands in a list that nobody owns, read without running anything: never unpickled, never called.

Two formats are known: RQ jobs whose data is JSON, and the entries of the old service, each a JSON object. Whatever else
stands there is kept as its bytes, with the reason why it cannot be read.
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sessions_app.models import Priority
from sessions_app.models.message import written_time
from sessions_app.queues.jobs import JOB_FUNCTION

# What one entry may unpack to; what is larger is no message.
_MAX_BYTES = 1024 * 1024
# What of an entry is kept at most, and how large the content of a job may be to be read at all.
WHOLE_BYTES = 16 * 1024 * 1024
# How deep a template may be nested: what is deeper is no template, and the stack ends somewhere.
_MAX_DEPTH = 32
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
    shown = raw[: limit * 4].decode("utf-8", "backslashreplace")
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def parse_legacy(raw: bytes) -> ParsedEntry:
    """An entry of the old service: `{"id", "phone", "message", "type", "createdAt" in ms, …}`."""
    if not raw:
        return ParsedEntry(raw, error="empty")
    if len(raw) > _MAX_BYTES:
        return ParsedEntry(raw[:WHOLE_BYTES], error=f"{len(raw)} bytes are too large for a message")
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return ParsedEntry(raw, error="no JSON")
    if not isinstance(entry, dict):
        return ParsedEntry(raw, error="JSON, but no object")
    return _message(raw, _text(entry.get("id")), entry, _time_of_ms(entry.get("createdAt")), {})


def too_large_job(job_id: bytes, size: int) -> ParsedEntry:
    """An RQ job whose content takes so many bytes that it is left unread."""
    return ParsedEntry(job_id[:WHOLE_BYTES], printable(job_id, 200), error=f"{size} bytes are too large for a message")


def parse_job(job_id: bytes, fields: Mapping[bytes, bytes]) -> ParsedEntry:
    """An RQ job by its id and its hash; empty where there is none. Pickled data is not looked into."""
    name = printable(job_id, 200)
    if not fields:
        return ParsedEntry(job_id[:WHOLE_BYTES], name, error="its content is gone: only the id is left")
    # In one order, whatever Redis says: what was kept already is known by its bytes.
    hash_ = {key.decode("latin-1"): value.decode("latin-1") for key, value in sorted(fields.items())}
    raw = json.dumps({"id": name, "hash": hash_}).encode()
    created_at = time_of_job(fields.get(b"created_at", b""))
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
    # Others may mean something else by these names.
    return _message(raw, name, given, created_at, _terms(given) if call[0] == JOB_FUNCTION else {})


def _terms(given: Mapping[str, Any]) -> dict[str, Any]:
    """When a message of ours was to go, as `Message.terms()` wrote it."""
    terms: dict[str, Any] = {}
    if given.get("priority") == Priority.HIGH and not isinstance(given["priority"], bool):
        terms["priority"] = int(Priority.HIGH)
    for name in ("scheduled_at", "expires_at"):
        value = given.get(name)
        at = time_of_job(value.encode("utf-8", "replace")) if isinstance(value, str) else None
        if at is not None:
            terms[name] = written_time(at)
    return terms


def _message(
    raw: bytes, job_id: str, given: Mapping[str, Any], created_at: datetime | None, terms: Mapping[str, Any]
) -> ParsedEntry:
    to = _text(given.get("to") or given.get("phone"))
    text = _text(given.get("text") or given.get("message"))
    kind = given.get("type") if given.get("type") in _TYPES else "text"
    content: dict[str, Any] = {"type": kind}
    if text:
        content["text"] = text
    for name in ("media_url", "filename", "caption", "client_ref"):
        if value := _text(given.get(name)):
            content[name] = value
    error = ""
    if isinstance(given.get("template"), dict):
        try:
            content["template"] = _json(given["template"], _MAX_DEPTH)
        except ValueError:
            error = "its template cannot be kept"
    if error:
        pass
    elif not to:
        error = "no phone"
    elif kind == "text" and not text:
        error = "no text"
    elif kind in ("image", "document") and "media_url" not in content:
        error = "no file"
    elif kind == "template" and "template" not in content:
        error = "no template"
    return ParsedEntry(raw, job_id, to, {**content, **terms}, created_at, error)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return _clean(str(value))


def _clean(text: str) -> str:
    """Text as PostgreSQL takes it: without NUL and without half a surrogate pair."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _json(value: Any, depth: int) -> Any:
    """JSON as PostgreSQL takes it. Raises ValueError for what it does not: NaN, Infinity, more than `depth` levels."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no number")
    if isinstance(value, (dict, list)) and not depth:
        raise ValueError("too deep")
    if isinstance(value, dict):
        return {_clean(name): _json(inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_json(inner, depth - 1) for inner in value]
    return value


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


def time_of_job(value: bytes) -> datetime | None:
    """A time as RQ writes it; None for what is none."""
    try:
        at = datetime.fromisoformat(value.decode())
    except (ValueError, UnicodeDecodeError):
        return None
    return _credible(at if at.tzinfo else at.replace(tzinfo=UTC))


def _credible(at: datetime) -> datetime | None:
    """A time at which a message may have been handed in: others are no times, and some cannot be kept or shown."""
    return at.astimezone(UTC) if 1970 <= at.year < 2200 else None
