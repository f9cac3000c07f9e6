"""The transport to WAHA, which links WhatsApp numbers as WhatsApp Web does. Unofficial: WhatsApp may ban a number."""

import logging
import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import quote

from django.utils.translation import gettext_noop as _
from yarl import URL

from sessions_app.exceptions import InvalidInput, NotConnected, OutcomeUnknown, PermanentError, SessionRefused
from sessions_app.models import ObservedState
from sessions_app.transports import client_ids
from sessions_app.transports.addresses import clean_base_url
from sessions_app.transports.base import ConfigField, Finding, Hook, Observation, Outgoing, Transport
from sessions_app.transports.http import EngineClient, Reply
from sessions_app.transports.redaction import redact
from sessions_app.transports.waha import hooks, replies

log = logging.getLogger(__name__)

# The states of a session in WAHA (docs/how-to/sessions). Those of pairing by passkey are new in 2026.7.1.
_STATES = {
    "STOPPED": (ObservedState.STOPPED, "the session is stopped in WAHA: start it there"),
    "STARTING": (ObservedState.STARTING, ""),
    "SCAN_QR_CODE": (ObservedState.NEEDS_PAIRING, "scan the QR code that WAHA shows with the phone"),
    "WORKING": (ObservedState.WORKING, ""),
    "FAILED": (ObservedState.FAILED, "the session failed in WAHA: restart it there, and pair the phone if it asks"),
}
_PASSKEY = "PASSKEY"
_DIGITS = re.compile(r"\+?(\d{5,15})")
_NAME_LENGTH = 100
_BAD_KEY = _("has to be letters, digits and signs of ASCII, without spaces")
_BAD_NAME = _("has to be a name of 100 characters at most, without spaces around it")


class WahaTransport(Transport):
    """Sends texts through one of WAHA's sessions. WAHA runs somewhere of its own, often beside us."""

    name: ClassVar[str] = "waha"
    title: ClassVar[str] = _("WAHA (unofficial, over WhatsApp Web)")
    fields: ClassVar[tuple[ConfigField, ...]] = (
        ConfigField("base_url", _("the address of WAHA, like http://127.0.0.1:3000"), required=True),
        ConfigField("api_key", _("WAHA's API key, if it asks for one"), secret=True, sent_to="base_url"),
        ConfigField("webhook_secret", _("the key with which WAHA signs its webhooks"), secret=True),
        ConfigField("remote_name", _("the session's name in WAHA, if it is not its name here")),
    )
    # WAHA's advice against bans: a random wait of 30 to 60 seconds, and not around the clock
    # (docs/overview/how-to-avoid-blocking). A thousand messages are twelve hours at that pace.
    default_pacing: ClassVar[dict[str, Any]] = {
        "min_interval_ms": 30_000,
        "max_interval_ms": 60_000,
        "daily_cap": 1_000,
    }

    looks_up: ClassVar[bool] = True

    def __init__(self) -> None:
        self._client = EngineClient()

    async def open(self) -> None:
        """Make the connections of this process, without connecting yet."""
        await self._client.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def send(self, outgoing: Outgoing) -> str:
        """`POST /api/sendText`; return the bare id of the message (docs/how-to/send-messages)."""
        config, content = outgoing.config, outgoing.content
        text, chat = _text_of(content), _chat_of(content)
        name = _remote_name(outgoing.session_name, config)
        # Without a preview: WAHA would have to fetch what a link leads to before it sends.
        document = {
            "session": name, "chatId": chat, "text": text, "linkPreview": False,
            # With it, receipts and look-ups are known as this message's, also when no answer comes.
            "id": client_ids.client_id(outgoing.message_id),
        }  # fmt: skip
        reply = await self._client.request(
            "POST", _text_address(str(config.get("base_url", ""))), headers=_headers(config), document=document
        )
        if reply.is_success and (provider_id := replies.message_id(reply.document)):
            return provider_id
        private = (text, *_secrets(config))
        log.info(
            "WAHA answered %d for message %s of session %s: %s",
            reply.status, outgoing.message_id, outgoing.session_name, replies.summary(reply, private),
        )  # fmt: skip
        raise replies.failure(reply, private)

    async def probe(self, session_name: str, config: dict[str, Any]) -> Observation:
        """`GET /api/sessions/{name}` (docs/how-to/sessions)."""
        name = quote(_remote_name(session_name, config), safe="")
        try:
            reply = await self._client.request("GET", _address(config, "sessions", name), headers=_headers(config))
        except OutcomeUnknown as error:
            raise NotConnected(error.detail, provider_code=error.provider_code) from error
        match reply.status:
            case 200:
                return _observed(reply, _secrets(config))
            case 401:
                return Observation(ObservedState.FAILED, "WAHA refuses the api_key")
            case 404:
                return Observation(ObservedState.STOPPED, replies.unknown_session(reply))
        log.info(
            "WAHA answered %d for session %s: %s", reply.status, session_name, replies.summary(reply, _secrets(config))
        )
        raise NotConnected(f"WAHA answered {reply.status}", provider_code=str(reply.status))

    async def look_up(self, outgoing: Outgoing) -> Finding:
        """`GET /api/{session}/chats/{chatId}/messages/{id}` (docs/how-to/chats, "Get message by id"; issues 159, 1892).

        All engines take the long form of the id; NOWEB needs its store switched on, without it nothing is found.
        """
        config, chat = outgoing.config, _chat_of(outgoing.content)
        bare = client_ids.client_id(outgoing.message_id)
        name = quote(_remote_name(outgoing.session_name, config), safe="")
        address = _address(config, name, "chats", chat, "messages", f"true_{chat}_{bare}").with_query(
            downloadMedia="false"
        )
        reply = await self._client.request("GET", address, headers=_headers(config))
        return replies.finding(reply, bare, _secrets(config))

    @classmethod
    def engine(cls, config: dict[str, Any]) -> str:
        """The address of its WAHA."""
        return str(config.get("base_url", ""))

    @classmethod
    def client_id(cls, message_id: uuid.UUID) -> str:
        """The bare id that `send` asks WAHA to use."""
        return client_ids.client_id(message_id)

    @classmethod
    def ids_around(cls, client_id: str, now: datetime) -> tuple[uuid.UUID, uuid.UUID] | None:
        """See `client_ids`."""
        return client_ids.ids_around(client_id, now)

    @classmethod
    def receive(cls, session_name: str, config: dict[str, Any], headers: Mapping[str, str], body: bytes) -> Hook:
        """A webhook of WAHA. See `hooks`."""
        hooks.verify(str(config.get("webhook_secret") or ""), headers, body)
        return hooks.read(_remote_name(session_name, config), body)

    @classmethod
    def clean_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """As any transport, and: the address is one, the key fits into a header, the name into a path."""
        cleaned = super().clean_config(config)
        errors = []
        try:
            cleaned["base_url"] = clean_base_url(cleaned["base_url"])
        except ValueError as error:
            errors.append({"field": "config.base_url", "message": str(error)})
        if not all("!" <= character <= "~" for character in cleaned["api_key"]):
            errors.append({"field": "config.api_key", "message": _BAD_KEY})
        name = cleaned["remote_name"]
        if name in (".", "..") or len(name) > _NAME_LENGTH or not name.isprintable() or name != name.strip():
            errors.append({"field": "config.remote_name", "message": _BAD_NAME})
        if errors:
            raise InvalidInput(errors)
        return cleaned


def _text_of(content: dict[str, Any]) -> str:
    kind = content.get("type", "text")
    if kind != "text":
        raise PermanentError(f"waha sends texts only so far, and this is of type {kind}: the rest is a later issue")
    return str(content.get("text", ""))


def _chat_of(content: dict[str, Any]) -> str:
    """`5511…@c.us` for `+5511…`."""
    digits = _DIGITS.fullmatch(str(content.get("to", "")))
    if digits is None:
        raise PermanentError("the recipient is not a phone")
    return f"{digits[1]}@c.us"


def _remote_name(session_name: str, config: dict[str, Any]) -> str:
    return str(config.get("remote_name") or session_name)


def _address(config: dict[str, Any], *path: str) -> URL:
    """An address of WAHA's API; `path` is quoted already."""
    try:
        return _api(str(config.get("base_url", ""))).joinpath(*path, encoded=True)
    except ValueError:
        raise SessionRefused("the session has no address of WAHA: set base_url, and resume") from None


# Engines are few, and messages many.
@lru_cache(maxsize=1024)
def _text_address(base_url: str) -> URL:
    return _address({"base_url": base_url}, "sendText")


@lru_cache(maxsize=1024)
def _api(base_url: str) -> URL:
    return URL(clean_base_url(base_url)).joinpath("api", encoded=True)


def _headers(config: dict[str, Any]) -> dict[str, str]:
    key = config.get("api_key")
    return {"X-Api-Key": key} if key else {}


def _secrets(config: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(config[name]) for name in WahaTransport.secret_names if config.get(name))


def _observed(reply: Reply, private: tuple[str, ...]) -> Observation:
    document = reply.document if isinstance(reply.document, dict) else {}
    said = document.get("status")
    if not isinstance(said, str):
        return Observation(ObservedState.FAILED, "WAHA answered without the state of the session")
    me = document.get("me")
    phone = _phone(me.get("id")) if isinstance(me, dict) else ""
    if said.startswith(_PASSKEY):
        return Observation(ObservedState.NEEDS_PAIRING, "confirm the passkey that WAHA asks for", phone)
    if said not in _STATES:
        return Observation(ObservedState.FAILED, f"WAHA says {redact(said, private)}, which is not known here", phone)
    state, reason = _STATES[said]
    return Observation(state, reason, phone)


def _phone(serialized: Any) -> str:
    """`+5511…` of `5511…@c.us` or `5511…:12@s.whatsapp.net`; empty for an id that hides the phone."""
    user, _, server = str(serialized or "").partition("@")
    digits = _DIGITS.fullmatch(user.partition(":")[0])
    return f"+{digits[1]}" if digits and server in ("c.us", "s.whatsapp.net") else ""
