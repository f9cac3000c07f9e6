"""What WAHA's answers mean.

Facts are from the documentation of WAHA 2026.7.1 (waha.devlike.pro/docs/how-to: sessions, send-messages, security),
from its source (src/nestjs/AllExceptionsFilter.ts, src/core/abc/manager.abc.ts, src/core/manager.core.ts) and from the
issues named below (github.com/devlikeapro/waha). WAHA was not run: what it never documented is read with care.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from sessions_app.exceptions import (
    NotConnected,
    OutcomeUnknown,
    PermanentError,
    RetryableError,
    SendError,
    SessionRefused,
)
from sessions_app.models import ReceiptStage
from sessions_app.transports.base import Finding
from sessions_app.transports.http import Reply
from sessions_app.transports.redaction import redact

# ERROR says that WhatsApp or the link refused it, and not whether any of it arrived; WAHA gives no reason (issues 679,
# 2187).
_STAGES = {
    -1: ReceiptStage.FAILED,
    0: ReceiptStage.ACCEPTED,
    1: ReceiptStage.SENT,
    2: ReceiptStage.DELIVERED,
    3: ReceiptStage.READ,
    4: ReceiptStage.READ,
}
# What of an answer may be logged. A 500 has our whole request and a stack beside it.
_LOGGED = ("statusCode", "status", "expected", "error", "message", "name", "details")
_TITLE = re.compile(rb"<title>([^<]{1,200})", re.IGNORECASE)
# whatsmeow's words for a message that WhatsApp's own server refused (GOWS; seen in WEBJS too: issue 1904).
_SERVER_ERROR = re.compile(r"server returned error (\d{3})")


def message_id(document: Any) -> str:
    """The bare id in the answer to a send, as acks bear it; empty when there is none.

    The shape is documented for NOWEB only (issue 1379), so each place is tried that an engine of WAHA is known to use.
    """
    for path in (("id",), ("id", "_serialized"), ("_data", "key", "id"), ("key", "id")):
        value = document
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, str) and (bare := bare_id(value)):
            return bare
    return ""


def bare_id(serialized: str) -> str:
    """`3EB0` of `true_5511…@c.us_3EB0`, and of a group's `true_…@g.us_3EB0_<participant>`."""
    parts = serialized.split("_")
    if parts[0] in ("true", "false"):
        return parts[2] if len(parts) > 2 else ""
    return parts[-1]


def failure(reply: Reply, private: Sequence[str]) -> SendError:
    """Why a send that got this answer did not get an id. `private` is what must not be repeated."""
    code = str(reply.status)
    said = redact(_said(reply.document), private)
    if reply.is_success:
        return OutcomeUnknown("WAHA answered without an id", provider_code=code)
    if reply.status >= 500:
        return _server_failure(reply, said)
    if 300 <= reply.status < 400:
        return SessionRefused(
            "the address of WAHA leads to another one: set base_url to that, and resume the session", provider_code=code
        )
    match reply.status:
        case 401:
            return SessionRefused("WAHA refuses the api_key: set the right one, and resume", provider_code=code)
        case 404:
            return NotConnected(unknown_session(reply), provider_code=code)
        case 408 | 429:
            return RetryableError(
                "WAHA, or a proxy before it, takes no more just now", provider_code=code, after_ms=_asked_ms(reply)
            )
        case 413:
            return PermanentError("the message is too large for WAHA, or a proxy before it", provider_code=code)
    if not _said(reply.document):
        return SessionRefused(
            f"what answers {code} at base_url does not answer as WAHA does: mend it, and resume", provider_code=code
        )
    if reply.status == 422 and (state := redact(_state(reply.document), private)):
        return NotConnected(f"WAHA says that the session is {state}, not WORKING", provider_code=state)
    if reply.status == 422 and "only 'default' session" in _said(reply.document):
        return SessionRefused(
            "this WAHA is a Core: it knows the session 'default' alone. Set remote_name to default, and resume",
            provider_code=code,
        )
    if reply.status == 403:
        return SessionRefused(f"WAHA refuses the session: {said or 'forbidden'}", provider_code=code)
    return PermanentError(f"WAHA refuses the message: {said or 'it answered ' + code}", provider_code=code)


def _server_failure(reply: Reply, said: str) -> SendError:
    """A 5xx says that the message was refused only where WhatsApp's own server is quoted. Else nobody knows."""
    code = str(reply.status)
    if refused := _SERVER_ERROR.search(_said(_exception(reply.document))):
        code = refused[1]
        if code == "463":
            # Reach-out timelock: no new chats for hours or days, replies still go (issues 1904, 1992). Further
            # tries to strangers may prolong it (Baileys issue 2441), so nothing goes until a person decides.
            return SessionRefused(
                "WhatsApp lets this number begin no new chats for now (463): wait, or cancel what is for strangers, "
                "and resume",
                provider_code=code,
            )
        if code == "400":
            # Until WAHA's session is restarted it meets every message; WAHA still says WORKING (issues 2084, 2110).
            return SessionRefused(
                "WhatsApp refuses what this session sends (400): restart the session in WAHA, and resume. If it is one "
                "recipient's alone, cancel that message",
                provider_code=code,
            )
        return RetryableError(f"WhatsApp refused the message ({code})", provider_code=code)
    if reply.status == 503 and "Retry-After" in reply.headers:
        return RetryableError("a proxy before WAHA is closed for now", provider_code=code, after_ms=_asked_ms(reply))
    # Among them `Connection Closed` and `async-lock timed out`: the message may have gone out before.
    return OutcomeUnknown(
        f"WAHA answered {code}: {said}" if said else f"WAHA answered {code}, and not what became of the message",
        provider_code=code,
    )


def finding(reply: Reply, asked: str, private: Sequence[str]) -> Finding:
    """What the answer to a look-up says of the message with the bare id `asked`. Raises OutcomeUnknown.

    How WAHA answers for a message that it does not have is not documented: its source returns null, which Nest sends as
    an empty 200, and WEBJS raises. Only the message itself, ours and without an error, is a find.
    """
    if reply.status == 404 or (reply.is_success and not reply.document):
        return Finding(detail=f"WAHA answered {reply.status}, without a message")
    if not reply.is_success:
        raise OutcomeUnknown(
            f"WAHA answered {reply.status}: {redact(_said(reply.document), private) or 'nothing else'}",
            provider_code=str(reply.status),
        )
    document = reply.document
    if not isinstance(document, dict) or message_id(document) != asked or document.get("fromMe") is not True:
        raise OutcomeUnknown("WAHA answered with something else", provider_code=str(reply.status))
    stage = stage_of(document.get("ack", 0))
    if stage is None or stage == ReceiptStage.FAILED:
        return Finding(detail=f"WAHA has it, with ack {redact(str(document.get('ack')), private)[:20]}")
    return Finding(stage, asked)


def stage_of(ack: Any) -> ReceiptStage | None:
    """How far a message has come (docs/how-to/events, message.ack); None for what is not documented."""
    if isinstance(ack, bool) or not isinstance(ack, int):
        return None
    return _STAGES.get(ack)


def unknown_session(reply: Reply) -> str:
    """Why a 404 came: WAHA does not know the session, or what answers is no WAHA."""
    if _said(reply.document):
        return "WAHA does not know the session, or has it stopped: start it there"
    return "there is no WAHA at base_url: it answers 404"


def summary(reply: Reply, private: Sequence[str]) -> str:
    """An answer for the log: what it says of itself, without what was sent."""
    if isinstance(reply.document, dict):
        found = {**reply.document, **_exception(reply.document)}
        parts = (f"{name}={redact(_text(found[name]), private) or '…'}" for name in _LOGGED if name in found)
        return " ".join(parts) or f"JSON of {len(reply.body)} bytes"
    kind = redact(reply.headers.get("Content-Type", "no type"), private)
    title = _TITLE.search(reply.body)
    named = f" {redact(title[1].decode('utf-8', 'replace'), private)!r}" if title else ""
    return f"{kind} of {len(reply.body)} bytes{named}"


def _said(document: Any) -> str:
    """The engine's own words, in whichever place it put them."""
    if not isinstance(document, dict):
        return ""
    exception = _exception(document)
    for value in (exception.get("message"), exception.get("details"), document.get("message"), document.get("error")):
        if value:
            return _text(value)
    return ""


def _exception(document: Any) -> dict[str, Any]:
    exception = document.get("exception") if isinstance(document, dict) else None
    return exception if isinstance(exception, dict) else {}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(_text(part) for part in value)
    if isinstance(value, dict):
        return _text(value.get("message", ""))
    return str(value)


def _state(document: Any) -> str:
    """The state of a session that is not the expected one; empty when the answer is about something else."""
    state = document.get("status") if isinstance(document, dict) and "expected" in document else None
    return state[:40] if isinstance(state, str) else ""


def _asked_ms(reply: Reply) -> int:
    """The wait that `Retry-After` asks for, in milliseconds: as seconds or as a date; 0 for none."""
    asked = reply.headers.get("Retry-After", "").strip()
    if asked.isascii() and asked.isdigit():
        return int(asked[:9]) * 1000
    try:
        at = parsedate_to_datetime(asked)
    except ValueError:
        return 0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0, int((at - datetime.now(UTC)).total_seconds() * 1000))
