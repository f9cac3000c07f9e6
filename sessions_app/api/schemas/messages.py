"""Messages as clients write and read them."""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from sessions_app.api.pagination import Page, PageParameters
from sessions_app.api.schemas.fields import (
    HttpUrl,
    Instant,
    JsonObject,
    Phone,
    RequestBody,
    Text,
    UtcTime,
    VisibleText,
    at_most_bytes,
)
from sessions_app.exceptions import InvalidInput
from sessions_app.models import Message, MessageType, Priority
from sessions_app.services.messages import Draft

TypeName = Literal["text", "image", "document", "template"]
PriorityName = Literal["normal", "high"]
StatusName = Literal[
    "scheduled",
    "queued",
    "sending",
    "sent",
    "delivered",
    "read",
    "failed",
    "uncertain",
    "cancelled",
    "expired",
    "orphaned",
]

_ESTIMATE = (
    "The earliest as things stand: by pace (the middle of its interval), caps, quiet hours, the retry that the first "
    "in the line waits for, and `per_recipient_ms` for the 200 messages up to this one."
)
_TEXT_LENGTH = 65_536
_METADATA_BYTES = 8 * 1024
_TEMPLATE_BYTES = 64 * 1024
_FURTHEST_AHEAD = timedelta(days=365)
_PRIORITIES: dict[str, Priority] = {"normal": Priority.NORMAL, "high": Priority.HIGH}
# What each type has to have, and what it may have; a field of another type is refused, since it would not be sent.
_NEEDED: dict[str, str] = {"text": "text", "image": "media_url", "document": "media_url", "template": "template"}
_ALLOWED: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "image": ("media_url", "caption", "filename"),
    "document": ("media_url", "caption", "filename"),
    "template": ("template",),
}


class Template(RequestBody):
    """A template that WhatsApp has approved."""

    name: VisibleText = Field(max_length=512, examples=["order_update"])
    language: VisibleText = Field(max_length=20, examples=["es"])
    components: list[JsonObject] | None = Field(None, max_length=50, description="As the Cloud API takes them.")


class AssistanceReport(RequestBody):
    """A text to one phone, or a document with the text as its caption."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"phone": "1234567890", "message": "test"}]})

    phone: Phone
    message: VisibleText = Field(max_length=_TEXT_LENGTH, examples=["test"])
    document_url: HttpUrl | None = None
    scheduled_at: Instant | None = Field(None, description="Not before; within a year.")

    def draft(self, now: Callable[[], datetime]) -> Draft:
        """Return it as a message; `now` is asked where it names a time. Raises InvalidInput."""
        _raise_if(_time_errors(now, self.scheduled_at, None))
        if self.document_url is None:
            return Draft(to=self.phone, type=MessageType.TEXT, text=self.message, scheduled_at=self.scheduled_at)
        return Draft(
            to=self.phone,
            type=MessageType.DOCUMENT,
            media_url=self.document_url,
            caption=self.message,
            scheduled_at=self.scheduled_at,
        )


class MessageIn(RequestBody):
    """A message to be sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"to": "+51930246633", "text": "Your order is ready"},
                {
                    "to": "+51930246633",
                    "type": "document",
                    "media_url": "https://files.example.org/invoice.pdf",
                    "filename": "invoice.pdf",
                    "caption": "Your invoice",
                    "client_ref": "invoice-4711",
                },
            ]
        }
    )

    to: Phone = Field(description="A phone as people type it: 5 to 15 digits.")
    type: TypeName = "text"
    text: VisibleText | None = Field(None, max_length=_TEXT_LENGTH, description="For `text`.")
    media_url: HttpUrl | None = Field(None, description="For `image` and `document`: where the engine fetches it.")
    filename: VisibleText | None = Field(None, max_length=255, description="For `image` and `document`.")
    caption: Text | None = Field(None, max_length=_TEXT_LENGTH, description="For `image` and `document`.")
    template: Annotated[Template, at_most_bytes(_TEMPLATE_BYTES)] | None = Field(None, description="For `template`.")
    scheduled_at: Instant | None = Field(None, description="Not before; within a year.")
    expires_at: Instant | None = Field(None, description="After it, the message is not sent any more.")
    priority: PriorityName = Field("normal", description="`high` goes before all `normal` ones of its session.")
    client_ref: Text | None = Field(None, max_length=200, description="Your own name for it; lists can be asked by it.")
    metadata: Annotated[JsonObject, at_most_bytes(_METADATA_BYTES)] | None = Field(
        None, description="Kept and given back, never sent."
    )

    def draft(self, now: Callable[[], datetime]) -> Draft:
        """Return it as a message; `now` is asked where it names a time. Raises InvalidInput."""
        errors = _time_errors(now, self.scheduled_at, self.expires_at)
        needed = _NEEDED[self.type]
        if getattr(self, needed) is None:
            errors.append({"field": needed, "message": f"is needed for a message of type {self.type!r}"})
        contents = ("text", "media_url", "filename", "caption", "template")
        errors += [
            {"field": name, "message": f"does not belong to a message of type {self.type!r}, and would not be sent"}
            for name in contents
            if getattr(self, name) is not None and name not in _ALLOWED[self.type]
        ]
        _raise_if(errors)
        return Draft(
            to=self.to,
            type=self.type,
            text=self.text or "",
            media_url=self.media_url or "",
            filename=self.filename or "",
            caption=self.caption or "",
            template=self.template.model_dump(exclude_none=True) if self.template else None,
            priority=_PRIORITIES[self.priority],
            scheduled_at=self.scheduled_at,
            expires_at=self.expires_at,
            client_ref=self.client_ref or "",
            metadata=self.metadata or {},
        )


def _time_errors(
    now: Callable[[], datetime], scheduled_at: datetime | None, expires_at: datetime | None
) -> list[dict[str, str]]:
    errors = []
    if scheduled_at is not None and scheduled_at > now() + _FURTHEST_AHEAD:
        errors.append({"field": "scheduled_at", "message": "has to be within a year from now"})
    if expires_at is not None and expires_at <= now():
        errors.append({"field": "expires_at", "message": "has to be in the future"})
    elif expires_at is not None and scheduled_at is not None and expires_at <= scheduled_at:
        errors.append({"field": "expires_at", "message": "has to be after scheduled_at"})
    return errors


def _raise_if(errors: list[dict[str, str]]) -> None:
    if errors:
        raise InvalidInput(errors)


class Resolution(RequestBody):
    """What became of an uncertain message."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"as": "sent"}]})

    outcome: Literal["sent", "failed", "resend"] = Field(
        alias="as", description="`resend` hands it over once more, at its old place."
    )


class MessageParameters(PageParameters):
    """Which messages: all that is given has to fit."""

    session: Text | None = Field(
        None, min_length=1, description="The session's name; messages of deleted ones of it are among them."
    )
    status: StatusName | None = None
    to: Phone | None = None
    batch: uuid.UUID | None = None
    client_ref: Text | None = Field(None, min_length=1)
    created_after: Instant | None = None


class Submitted(BaseModel):
    """A message that is kept: whatever happens to Redis or the engine, it is not lost."""

    id: uuid.UUID
    session: str = Field(examples=["test-session"])
    to: str = Field(examples=["1234567890"])
    status: StatusName = Field(examples=["queued"])
    position: int | None = Field(description="1 is next; past 200 an upper bound. null while it is only scheduled.")
    estimated_send_at: UtcTime | None = Field(
        description=f"{_ESTIMATE} null while its session does not send, and past a year."
    )
    created_at: UtcTime

    @classmethod
    def of(cls, message: Message, *, position: int | None, estimated_send_at: datetime | None) -> Self:
        """Return a message, which has its session at hand."""
        return cls.model_validate(
            {
                "id": message.pk,
                "session": message.session.name,
                "to": message.recipient,
                "status": message.status,
                "position": position,
                "estimated_send_at": estimated_send_at,
                "created_at": message.created_at,
            }
        )


class MessageError(BaseModel):
    """Why it was not accepted, or why nobody knows."""

    code: str | None = Field(description="The engine's own word.")
    title: str = Field(examples=["refused for good"])
    detail: str | None
    class_: str = Field(
        alias="class", description="`retry`, `not_connected`, `permanent`, `refused`, `uncertain` or `poison`."
    )


class HistoryItem(BaseModel):
    """One thing that happened to a message."""

    at: UtcTime
    what: str = Field(examples=["message.queued"])
    by: str | None = Field(examples=["key local (1f2e3d4c)"])
    detail: str | None


class MessageOut(BaseModel):
    """One outbound message."""

    id: uuid.UUID
    session: str
    to: str
    type: TypeName
    text: str | None
    media_url: str | None
    filename: str | None
    caption: str | None
    template: dict[str, Any] | None
    priority: PriorityName
    seq: int = Field(description="Its place in its session's line; it never changes.")
    status: StatusName
    position: int | None = Field(
        None, description="1 is next; past 200 an upper bound. null when it stands in no line, and in lists."
    )
    attempts: int
    max_attempts: int
    next_attempt_at: UtcTime | None
    scheduled_at: UtcTime | None
    expires_at: UtcTime | None
    estimated_send_at: UtcTime | None = Field(
        None, description=f"{_ESTIMATE} null while its session does not send, past a year, and in lists."
    )
    provider_id: str | None = Field(description="The engine's id of it.")
    error: MessageError | None
    client_ref: str | None
    metadata: dict[str, Any]
    batch_id: uuid.UUID | None
    orphan_id: uuid.UUID | None = Field(description="Where it waits while it is `orphaned`.")
    created_at: UtcTime
    queued_at: UtcTime | None
    sent_at: UtcTime | None
    delivered_at: UtcTime | None
    read_at: UtcTime | None
    failed_at: UtcTime | None

    @classmethod
    def of(cls, message: Message, **computed: Any) -> Self:
        """Return a message, which has its session at hand, with what is not in its row."""
        row = {name: getattr(message, name) for name in _AS_THEY_ARE}
        filled = {name: getattr(message, name) or None for name in _EMPTY_IS_NULL}
        return cls.model_validate(
            {
                **row,
                **filled,
                "session": message.session.name,
                "to": message.recipient,
                "priority": "high" if message.priority == Priority.HIGH else "normal",
                "error": _error(message),
                **computed,
            }
        )


class MessageDetail(MessageOut):
    """One message with everything that happened to it."""

    history: list[HistoryItem] = Field(description="Attempts, receipts and acts, oldest first.")


class MessagePage(Page[MessageOut]):
    """Messages, newest first."""


_AS_THEY_ARE = (
    "id", "type", "template", "seq", "status", "attempts", "max_attempts", "next_attempt_at", "scheduled_at",
    "expires_at", "metadata", "batch_id", "orphan_id", "created_at", "queued_at", "sent_at", "delivered_at", "read_at",
    "failed_at",
)  # fmt: skip
_EMPTY_IS_NULL = ("text", "media_url", "filename", "caption", "provider_id", "client_ref")
_ERROR_TITLES = {
    "retry": "refused for now",
    "not_connected": "the session was not connected",
    "permanent": "refused for good",
    "refused": "the session was refused",
    "uncertain": "nobody knows whether it was accepted",
    "poison": "each process that sends it dies",
}


def _error(message: Message) -> dict[str, str | None] | None:
    if not message.error_class:
        return None
    return {
        "class": message.error_class,
        "code": message.error_code or None,
        "title": _ERROR_TITLES.get(message.error_class, message.error_class),
        "detail": message.error_detail or None,
    }
