"""WAHA's webhooks: believed when they are signed, and read (docs/how-to/events, docs/how-to/security)."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sessions_app.exceptions import HookNotFound, HookRefused, HookUnsigned
from sessions_app.transports.base import Hook, ReceiptIn
from sessions_app.transports.waha.replies import bare_id, message_id, stage_of

# The time stands in the body, which is signed. WAHA gives up long before that: what comes later was kept by somebody.
_OLDEST = timedelta(days=1)
_ID_LENGTH = 200
_EVENT_LENGTH = 100


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    """Believe what was signed with `secret`: a hexadecimal HMAC-SHA512 of the bytes of the body."""
    if not secret:
        raise HookNotFound("nothing is received for this session: it has no webhook_secret")
    given = headers.get("X-Webhook-Hmac", "").strip().lower()
    if not given:
        raise HookUnsigned("the header X-Webhook-Hmac is missing: give WAHA the session's webhook_secret as hmac.key")
    right = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
    if not hmac.compare_digest(given.encode(), right.encode()):
        raise HookRefused("the signature does not fit: WAHA's hmac.key is not the session's webhook_secret")


def read(remote_name: str, body: bytes) -> Hook:
    """What a webhook says of the session that WAHA calls `remote_name`; nothing, if it is about another."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return Hook()
    if not isinstance(document, dict) or document.get("session") != remote_name:
        return Hook()
    at = _time(document.get("timestamp"))
    if at is not None and at < datetime.now(UTC) - _OLDEST:
        raise HookRefused("it is older than a day")
    payload = document.get("payload")
    match document.get("event"), payload:
        case "session.status", _:
            return Hook(has_news=True)
        case "message.ack", dict():
            return Hook(_receipts(document, payload, at, body))
    return Hook()


def _receipts(
    document: dict[str, Any], payload: dict[str, Any], at: datetime | None, body: bytes
) -> tuple[ReceiptIn, ...]:
    serialized, stage = payload.get("id"), stage_of(payload.get("ack"))
    is_ours = payload.get("fromMe") is True or (isinstance(serialized, str) and serialized.startswith("true_"))
    bare = bare_id(serialized) if isinstance(serialized, str) else message_id(payload)
    if stage is None or not is_ours or not bare or len(bare) > _ID_LENGTH or not bare.isprintable():
        return ()
    event = document.get("id")
    if not (isinstance(event, str) and event and len(event) <= _EVENT_LENGTH and event.isprintable()):
        event = hashlib.sha256(body).hexdigest()
    return (ReceiptIn(bare, stage, event, at),)


def _time(milliseconds: Any) -> datetime | None:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
