"""What does not fit, by the names that the client wrote."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from sessions_app.exceptions import InvalidInput

_MESSAGES = {
    "missing": "is needed",
    "extra_forbidden": "is not a field of this request",
    "model_type": "has to be a JSON object",
    "model_attributes_type": "has to be a JSON object",
    "dict_type": "has to be a JSON object",
    "list_type": "has to be a JSON array",
    "string_type": "has to be text",
    "string_unicode": "holds half a character (a lone surrogate)",
    "int_type": "has to be a whole number",
    "int_parsing": "has to be a whole number",
    "too_long": "has to be at most {max_length} long; it is {actual_length}",
    "string_too_long": "has to be at most {max_length} long",
    "too_short": "has to be at least {min_length} long",
    "string_too_short": "has to be at least {min_length} long",
}


def from_pydantic(errors: Iterable[Mapping[str, Any]]) -> InvalidInput:
    """Return what ninja says of a request as the error that names its fields."""
    return InvalidInput([{"field": _field(error["loc"]), "message": _message(error)} for error in errors])


def named(error: ValidationError, whole: str) -> list[dict[str, str]]:
    """Return what pydantic says of a value that we gave to it; `whole` is what the value itself is called."""
    return [
        {"field": ".".join(map(str, each["loc"])) or whole, "message": _message(each)}
        for each in error.errors(include_url=False, include_input=False)
    ]


def _field(place: tuple[str | int, ...]) -> str:
    # ninja puts the source first and, for a body, the name of the view's argument second.
    path = place[2:] if place[0] == "body" else place[1:]
    return ".".join(str(part) for part in path) or str(place[0])


def _message(error: Mapping[str, Any]) -> str:
    if known := _MESSAGES.get(error["type"]):
        return known.format(**error.get("ctx", {}))
    return str(error["msg"]).removeprefix("Input ").replace("should", "has to", 1)
