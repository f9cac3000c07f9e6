"""Batches as clients write and read them. Their entries are single messages, read by the same code."""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from sessions_app.api.pagination import Page, PageParameters
from sessions_app.api.schemas.fields import RequestBody, Text, UtcTime
from sessions_app.api.schemas.messages import MessageIn
from sessions_app.api.schemas.problems import FieldError
from sessions_app.api.validation import named
from sessions_app.exceptions import InvalidInput
from sessions_app.models import Batch
from sessions_app.services.batches import MOST, Cancelled
from sessions_app.services.messages import Draft

StateName = Literal["queued", "sending", "done", "cancelled"]
# For the document: the view reads its body by itself.
BATCH_IN: dict[str, Any] = {
    "title": "BatchIn",
    "description": "Messages to be sent, in their order.",
    "type": "object",
    "properties": {
        "messages": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/MessageIn"},
            "minItems": 1,
            "maxItems": MOST,
        }
    },
    "required": ["messages"],
    "additionalProperties": False,
    "examples": [
        {
            "messages": [
                {"to": "+51930246633", "text": "Ana arrived at 8:02", "client_ref": "ana-1"},
                {"to": "+5215512345678", "text": "Luis arrived at 8:05", "client_ref": "luis-1"},
            ]
        }
    ],
}


class _Envelope(RequestBody):
    # Not MessageIn: a bad entry must not sink the good ones.
    messages: list[Any] = Field(min_length=1, max_length=MOST)


class Rejected(BaseModel):
    """An entry that does not fit, and is not kept."""

    index: int = Field(description="Its place in `messages`; the first is 0.")
    errors: list[FieldError] = Field(description="`entry` is the field where it is no message at all.")


class BatchAccepted(BaseModel):
    """What was kept of a batch. What was rejected can be mended and sent as another one."""

    batch_id: uuid.UUID
    accepted: int = Field(description="How many messages are kept; 0 when no entry fits.")
    rejected: list[Rejected]
    estimated_done_at: UtcTime | None = Field(
        description="When the last of them goes at the earliest, as `estimated_send_at` says of it. null while its "
        "session does not send, and past a year."
    )


class Counts(BaseModel):
    """How many messages are in which status."""

    scheduled: int = 0
    queued: int = 0
    sending: int = 0
    sent: int = 0
    delivered: int = 0
    read: int = 0
    failed: int = 0
    uncertain: int = 0
    cancelled: int = 0
    expired: int = 0
    orphaned: int = 0


class BatchOut(BaseModel):
    """Messages that were handed in together, and how far they are."""

    id: uuid.UUID
    session: str = Field(examples=["test-session"])
    created_at: UtcTime
    created_by: str = Field(examples=["key local (1f2e3d4c)"])
    accepted: int
    rejected: int
    status: StateName = Field(
        description="`queued`: all of it waits. `sending`: a part of it does, or is on its way. `done`: nothing of it "
        "waits any more; `counts` says what became of it. `cancelled`: the same, and its rest was cancelled."
    )
    counts: Counts
    cancelled_at: UtcTime | None = Field(description="When its rest was cancelled for the first time.")
    estimated_done_at: UtcTime | None = Field(
        None,
        description="When the last of them goes at the earliest, as `estimated_send_at` says of it. null when nothing "
        "waits, while its session does not send, past a year, and in lists.",
    )

    @classmethod
    def of(cls, batch: Batch, counts: dict[str, int], **computed: Any) -> Self:
        """Return a batch, which has its session at hand, with what is not in its row."""
        row = {name: getattr(batch, name) for name in _AS_THEY_ARE}
        return cls.model_validate(
            {**row, "session": batch.session.name, "status": batch.state(counts), "counts": counts, **computed}
        )


class BatchPage(Page[BatchOut]):
    """Batches, newest first."""


class BatchCancelled(BatchOut):
    """A batch after its rest was cancelled."""

    cancelled: int = Field(description="How many messages this request cancelled.")
    not_cancelled: int = Field(description="How many of the batch were sent, are on their way, or ended otherwise.")

    @classmethod
    def after(cls, done: Cancelled, batch: Batch, counts: dict[str, int], at: datetime | None) -> Self:
        """Return a batch with what a cancel did."""
        return cls.of(
            batch, counts, cancelled=done.cancelled, not_cancelled=done.left_alone, estimated_done_at=at
        )  # fmt: skip


class BatchParameters(PageParameters):
    """Which batches."""

    session: Text | None = Field(
        None, min_length=1, description="The session's name; batches of deleted ones of it are among them."
    )


_AS_THEY_ARE = ("id", "created_at", "created_by", "accepted", "rejected", "cancelled_at")


def entries_of(body: Any) -> list[Any]:
    """Return the entries of a batch, unread. Raises InvalidInput."""
    try:
        return _Envelope.model_validate(body).messages
    except ValidationError as error:
        raise InvalidInput(named(error, "body")) from None


def read(entries: list[Any], now: Callable[[], datetime]) -> tuple[list[Draft], list[Rejected]]:
    """Return the entries that are messages, and those that are not, each in their order.

    `now` is asked where they name a time.
    """
    drafts: list[Draft] = []
    rejected: list[Rejected] = []
    for index, entry in enumerate(entries):
        try:
            drafts.append(MessageIn.model_validate(entry).draft(now))
        except ValidationError as error:
            rejected.append(_rejected(index, named(error, "entry")))
        except InvalidInput as error:
            rejected.append(_rejected(index, error.errors))
    return drafts, rejected


def _rejected(index: int, errors: list[dict[str, str]]) -> Rejected:
    return Rejected(index=index, errors=[FieldError(**error) for error in errors])
