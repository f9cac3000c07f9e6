"""The contract of a transport: it sends and answers, or raises; it never decides about rows, pace or order."""

import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from sessions_app.exceptions import HookNotFound, InvalidInput, OutcomeUnknown, SecretUnreadable
from sessions_app.models import ObservedState, ReceiptStage
from sessions_app.transports.sealing import Unreadable, is_sealed, keyring


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One hand-over. `content` is `Message.content()`; `token` is the attempt's number, higher for a later attempt.

    `config` has its secrets in the open, and so neither it nor the content is shown where an Outgoing is printed.
    """

    message_id: uuid.UUID
    token: int
    session_name: str
    config: dict[str, Any] = field(repr=False)
    content: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReceiptIn:
    """What an engine says of a message later. `event_id` is the same when it says it again because nobody answered."""

    provider_id: str
    stage: ReceiptStage
    event_id: str
    occurred_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Hook:
    """What an engine said by itself. `has_news` means that the session may be in another state than it was."""

    receipts: tuple[ReceiptIn, ...] = ()
    has_news: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What an engine answered about a message. Without a stage it does not know it, and `detail` says what it says."""

    stage: ReceiptStage | None = None
    provider_id: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the engine says of a session: its state, why, and the phone it is linked to if it says."""

    state: ObservedState
    reason: str = ""
    phone: str = ""


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One setting of a session on this transport.

    A secret is text, goes in and never comes out again: its row holds it encrypted, and only `send` and `probe` get it
    in the open. A transport marks it and has nothing else to do.
    """

    name: str
    help: str
    type: type = str
    default: Any = ""
    required: bool = False
    secret: bool = False
    # For a secret: the setting that says where it is sent. Who changes that has to know the secret.
    sent_to: str = ""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


class Transport(ABC):
    """The adapter to one kind of engine. One instance per worker process serves all sessions of its kind."""

    name: ClassVar[str]
    title: ClassVar[str]
    fields: ClassVar[tuple[ConfigField, ...]] = ()
    # More than one only where the engine keeps order per recipient by itself.
    max_in_flight: ClassVar[int] = 1
    # What a new session's state is before the engine has said anything.
    first_state: ClassVar[ObservedState] = ObservedState.STARTING
    # What does not get a number banned, as keyword arguments of `Pacing`.
    default_pacing: ClassVar[dict[str, Any]] = {}
    # Whether `look_up` can be asked.
    looks_up: ClassVar[bool] = False
    # The names of the fields that are secret.
    secret_names: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.secret_names = frozenset(setting.name for setting in cls.fields if setting.secret)

    async def open(self) -> None:  # noqa: B027 (most transports have nothing to open)
        """Get ready to send, in the running loop."""

    async def close(self) -> None:  # noqa: B027
        """Let go of everything. Called once, when nothing is in flight."""

    @abstractmethod
    async def send(self, outgoing: Outgoing) -> str:
        """Hand one message over; return the engine's id for it.

        Raises RetryableError, NotConnected, PermanentError or SessionRefused when the engine did not accept it,
        OutcomeUnknown when it may have. Anything else that it raises counts as OutcomeUnknown. It is cancelled when
        the wall clock of the attempt has run out, which counts as OutcomeUnknown too.
        """

    @abstractmethod
    async def probe(self, session_name: str, config: dict[str, Any]) -> Observation:
        """Ask the engine how a session is. Raises NotConnected when it does not answer."""

    async def look_up(self, outgoing: Outgoing) -> Finding:
        """Ask the engine whether it has a message whose answer never came; its token is the last attempt's.

        Only a stage is proof. Raises a SendError when the engine does not say. Called where `looks_up` is set.
        """
        raise OutcomeUnknown(f"{self.name} cannot be asked")

    @classmethod
    def engine(cls, config: dict[str, Any]) -> str:
        """Which engine serves a session of this `config`: what one that hangs must not hold up for the others."""
        return cls.name

    @classmethod
    def client_id(cls, message_id: uuid.UUID) -> str:
        """The id that `send` gives a message, the same in each attempt; empty where the engine takes none.

        It matches receipts and look-ups. It makes no second hand-over safe.
        """
        return ""

    @classmethod
    def ids_around(cls, client_id: str, now: datetime) -> tuple[uuid.UUID, uuid.UUID] | None:
        """The least and the greatest id of a message whose `client_id` this can be; None when it is none of ours."""
        return None

    @classmethod
    def receive(cls, session_name: str, config: dict[str, Any], headers: Mapping[str, str], body: bytes) -> Hook:
        """What an engine sent to the hook of a session, once it was verified. `headers` are by name, in any case.

        Raises HookUnsigned or HookRefused when it cannot be believed, HookNotFound when nothing is expected.
        """
        raise HookNotFound(f"nothing is received for sessions of {cls.name}")

    @classmethod
    def clean_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return `config` with defaults filled in. Raises InvalidInput naming each setting that does not fit."""
        known = {field.name: field for field in cls.fields}
        names = ", ".join(known) or "none"
        errors = [
            {"field": f"config.{name}", "message": f"unknown to {cls.name}; it knows: {names}"}
            for name in config
            if name not in known
        ]
        cleaned: dict[str, Any] = {}
        for name, setting in known.items():
            value = config.get(name, setting.default)
            if problem := _problem(setting, value):
                errors.append({"field": f"config.{name}", "message": problem})
            cleaned[name] = value
        if errors:
            raise InvalidInput(errors)
        return cleaned

    @classmethod
    def stored_config(cls, given: dict[str, Any], kept: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a session's row is to hold: `given` over what it holds now, cleaned, its secrets sealed.

        A secret that did not change keeps its ciphertext, and one that cannot be read stays as it is unless it is given
        anew. Raises InvalidInput naming each setting that does not fit.
        """
        kept = kept or {}
        present = cls.readable_config(kept)
        cleaned = cls.clean_config(present | given)
        if errors := [
            {"field": f"config.{one.name}", "message": f"has to be given again: config.{one.sent_to} changes"}
            for one in cls.fields
            if one.sent_to
            and present.get(one.name)
            and one.name not in given
            and cleaned[one.sent_to] != present.get(one.sent_to)
        ]:
            raise InvalidInput(errors)
        for name in cls.secret_names & cleaned.keys():
            value = cleaned[name]
            if isinstance(value, Unreadable):
                cleaned[name] = value.sealed
            elif name in kept and value == present.get(name) and is_sealed(kept[name]):
                cleaned[name] = kept[name]
            elif value:
                cleaned[name] = keyring().seal(value)
        return cleaned

    @classmethod
    def open_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A row's `config` with its secrets in the open: for handing to `send` and `probe`, and for nothing else.

        Raises SecretUnreadable when one was sealed with a key that is not set.
        """
        if not cls.secret_names:
            return config
        opened = cls.readable_config(config)
        if locked := [name for name in cls.secret_names if isinstance(opened.get(name), Unreadable)]:
            names = ", ".join(sorted(locked))
            raise SecretUnreadable(
                f"the secrets of this session cannot be read with the keys that are set: {names}. Set the "
                "key they were encrypted with in WAQUEUE_ENCRYPTION_KEYS, or enter them anew; then resume the session",
                provider_code="secret_unreadable",
            )
        return opened

    @classmethod
    def readable_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A row's `config` with its secrets in the open and an `Unreadable` for each that no key opens: to compare."""
        opened = dict(config)
        for name in cls.secret_names:
            if is_sealed(sealed := config.get(name)):
                plain = keyring().open(sealed)
                opened[name] = Unreadable.of(sealed) if plain is None else plain
        return opened

    @classmethod
    def public_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """`config` without its secrets, and without what was one when it was written."""
        return {name: value for name, value in config.items() if not (name in cls.secret_names or is_sealed(value))}


def _problem(field: ConfigField, value: Any) -> str:
    if field.required and value in ("", None):
        return f"is needed: {field.help}"
    if field.type in (int, float):
        # JSON as Python reads it knows infinity and "not a number".
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or (field.type is int and value != int(value)):
            return f"a {'whole number' if field.type is int else 'number'}: {field.help}"
        if (field.minimum is not None and value < field.minimum) or (
            field.maximum is not None and value > field.maximum
        ):
            return f"{field.minimum:g} to {field.maximum:g}: {field.help}"
    elif not isinstance(value, field.type):
        return f"has to be text: {field.help}"
    if field.choices and value not in field.choices:
        return f"one of {', '.join(field.choices)}: {field.help}"
    return ""
