"""The contract of a transport: it sends and answers, or raises; it never decides about rows, pace or order."""

import math
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from sessions_app.exceptions import InvalidInput
from sessions_app.models import ObservedState


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One hand-over. `content` is `Message.content()`; `token` is the attempt's number, higher for a later attempt."""

    message_id: uuid.UUID
    token: int
    session_name: str
    config: dict[str, Any]
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Observation:
    """What the engine says of a session: its state, why, and the phone it is linked to if it says."""

    state: ObservedState
    reason: str = ""
    phone: str = ""


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One setting of a session on this transport. A secret goes in and never comes out again."""

    name: str
    help: str
    type: type = str
    default: Any = ""
    required: bool = False
    secret: bool = False
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
    def public_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """`config` without its secrets."""
        secrets = {field.name for field in cls.fields if field.secret}
        return {name: value for name, value in config.items() if name not in secrets}


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
