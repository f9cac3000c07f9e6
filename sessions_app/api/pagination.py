"""Lists by cursor: what is added or deleted meanwhile neither repeats nor hides a row."""

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, Self, TypeVar

from pydantic import BaseModel, Field, ValidationInfo, model_validator

from sessions_app.api.schemas.fields import Text, is_session_name
from sessions_app.exceptions import InvalidInput

T = TypeVar("T")
Row = TypeVar("Row", covariant=True)


class Rows(Protocol[Row]):
    """A query set or a sequence: what a page is cut from."""

    def __getitem__(self, part: slice, /) -> Iterable[Row]: ...


class Parameters(BaseModel):
    """The query of an address: a parameter that it does not know is refused, not ignored."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unknown(cls, data: Any, validate: Callable[[Any], Self], info: ValidationInfo) -> Self:
        known = cls.model_fields
        unknown = [name for name in (info.context or {})["request"].GET if name not in known]
        if unknown:
            message = f"is not a parameter of this address; there are: {', '.join(known)}"
            raise InvalidInput([{"field": name, "message": message} for name in unknown])
        return validate(data)


class PageParameters(Parameters):
    """Which part of a list."""

    cursor: Text | None = Field(None, description="`next` of the page before; opaque.")
    limit: int = Field(100, ge=1, le=1000, description="Items on a page.")


class Page(BaseModel, Generic[T]):
    """A part of a list. `next` is the cursor of the part after it, null at the end."""

    items: list[T]
    next: str | None = Field(description="The cursor of the next page; null on the last one.")


def write_cursor(kind: str, after: str) -> str:
    """Return the cursor of what comes after the row `after` of the list `kind`: opaque, safe in a URL."""
    return base64.urlsafe_b64encode(json.dumps([kind, after]).encode()).rstrip(b"=").decode()


def read_cursor(cursor: str | None, *kinds: str) -> tuple[str, str] | None:
    """Return kind and row of a cursor of one of the lists `kinds`. Raises InvalidInput naming `cursor`."""
    if not cursor:
        return None
    try:
        kind, after = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError):
        raise broken_cursor() from None
    if kind not in kinds or not isinstance(after, str):
        raise broken_cursor()
    return kind, after


def read_name(cursor: str | None, kind: str) -> str:
    """Return the session's name in a cursor of the list `kind`, empty at its beginning. Raises InvalidInput."""
    _, name = read_cursor(cursor, kind) or (kind, "")
    if name and not is_session_name(name):
        raise broken_cursor()
    return name


def broken_cursor() -> InvalidInput:
    """Return the error for a cursor that this list never gave."""
    return InvalidInput([{"field": "cursor", "message": "is none that this list gave: take `next` of its last page"}])


def cut(rows: Rows[T], limit: int, kind: str, place_of: Callable[[T], object]) -> tuple[list[T], str | None]:
    """Return the first `limit` of `rows` and the cursor of the next page, None after the last one.

    The cursor names the list by its `kind`, and the last row of this page by its place.
    """
    # One more than is shown says whether there is a next page.
    found = list(rows[: limit + 1])
    page = found[:limit]
    return page, write_cursor(kind, str(place_of(page[-1]))) if len(found) > limit else None
