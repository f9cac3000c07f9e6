"""The kinds of fields that requests and answers are made of."""

import json
import re
from datetime import UTC, datetime, time
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, Strict
from pydantic import WithJsonSchema as Documented
from pydantic_core import PydanticCustomError

from sessions_app.exceptions import InvalidInput
from sessions_app.models.session import SESSION_NAME
from sessions_app.services import phones

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?\Z", re.ASCII)
# Deeper than any real document; PostgreSQL and Python read it without strain.
_MAX_DEPTH = 32


class RequestBody(BaseModel):
    """A body that a client sends: what it does not know it refuses, so that a misspelt field is never ignored."""

    model_config = ConfigDict(extra="forbid")


def optional(**constraints: Any) -> Any:
    """Return a field that may be left out and has no value then: `model_fields_set` says whether it was given."""
    return Field(default_factory=lambda: None, **constraints)


def refuse(message: str) -> NoReturn:
    """Say what does not fit in the field at hand."""
    raise PydanticCustomError("invalid", "{message}", {"message": message})


def is_storable(text: str) -> bool:
    """Say whether PostgreSQL can keep `text`: it refuses NUL bytes and lone surrogates."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_session_name(text: str) -> bool:
    """Say whether a session can have this name."""
    return re.match(SESSION_NAME.regex, text) is not None


def _storable(text: str) -> str:
    if not is_storable(text):
        refuse("holds a NUL byte or half a character (a lone surrogate), which cannot be kept")
    return text


def _visible(text: str) -> str:
    if not text.strip():
        refuse("has to hold more than blanks")
    return text


def _storable_json(value: dict[str, Any]) -> dict[str, Any]:
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            refuse(f"is nested more than {_MAX_DEPTH} deep")
        if isinstance(item, str):
            _storable(item)
        elif isinstance(item, dict):
            waiting += [(key, depth) for key in item] + [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list):
            waiting += [(inner, depth + 1) for inner in item]
    return value


def at_most_bytes(limit: int) -> AfterValidator:
    """Refuse a JSON value that takes more than `limit` bytes."""

    def check(value: Any) -> Any:
        plain = value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value
        size = len(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode())
        if size > limit:
            refuse(f"takes {size} bytes as JSON; at most {limit} are kept")
        return value

    return AfterValidator(check)


def _phone(text: str) -> str:
    try:
        return phones.normalise(text)
    except InvalidInput as error:
        refuse(error.errors[0]["message"])


def _instant(value: Any) -> datetime:
    if isinstance(value, str) and _RFC_3339.match(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    refuse("has to be a time with its zone, by RFC 3339: 2027-01-31T09:30:00Z (in an address, + is written %2B)")


def _clock(value: Any) -> time:
    if not (isinstance(value, str) and _CLOCK.match(value)):
        refuse("has to be a time of day, like 21:00")
    return time.fromisoformat(value)


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_fit = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_fit = False
    if not is_fit or any(character <= " " or character == "\x7f" for character in text):
        refuse("has to be an address that begins with http:// or https://")
    return text


def _rfc_3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _hours_and_minutes(at: time) -> str:
    return at.isoformat("seconds" if at.second else "minutes")


# In requests.
Text = Annotated[str, AfterValidator(_storable)]
VisibleText = Annotated[Text, AfterValidator(_visible)]
WholeNumber = Annotated[int, Strict()]
Phone = Annotated[Text, AfterValidator(_phone), Field(examples=["+51930246633"])]
Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    Documented({"type": "string", "format": "date-time", "examples": ["2027-01-31T09:30:00Z"]}),
]
HttpUrl = Annotated[
    Text,
    AfterValidator(_http_url),
    Field(max_length=2000, examples=["https://files.example.org/report.pdf"]),
]
JsonObject = Annotated[dict[str, Any], AfterValidator(_storable_json)]

# In requests and answers.
Clock = Annotated[
    time,
    BeforeValidator(_clock),
    PlainSerializer(_hours_and_minutes, return_type=str),
    Documented({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$", "examples": ["21:00"]}),
]

# In answers.
UtcTime = Annotated[
    datetime,
    PlainSerializer(_rfc_3339, return_type=str),
    Documented({"type": "string", "format": "date-time", "examples": ["2027-01-31T09:30:00.000Z"]}),
]
