"""Orphans as clients read them, and what may be done with them."""

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from sessions_app.api.pagination import Page, PageParameters, Parameters
from sessions_app.api.schemas.fields import Instant, RequestBody, Text, UtcTime, WholeNumber
from sessions_app.models import BackgroundTask, Orphan
from sessions_app.services.orphans import EntryView, Selection

OrphanStateName = Literal["detected", "archived", "restored", "purged", "vanished"]
OrphanSourceName = Literal["rq", "legacy", "deleted_session", "unknown_jobs"]
_MAX_CHOSEN = 10_000


class OrphanParameters(PageParameters):
    """Which orphans."""

    state: OrphanStateName | Literal["unresolved", "all"] = Field(
        "unresolved", description="`unresolved` are those that wait for a decision: `detected` and `archived`."
    )
    session: Text | None = Field(None, description="Only those that bear this session's name.")


class OrphanOut(BaseModel):
    """A queue without an owner: `detected` is still in Redis, `archived` was copied out of it, whole."""

    id: uuid.UUID
    queue: str = Field(examples=["queue:940740243"])
    session_name: str = Field(examples=["940740243"])
    source: OrphanSourceName
    state: OrphanStateName
    reason: str
    messages: int = Field(description="Messages that wait in it.", examples=[9])
    unreadable: int = Field(description="Those of them that can never be sent.")
    oldest_at: UtcTime | None
    newest_at: UtcTime | None
    first_seen_at: UtcTime
    archived_at: UtcTime | None
    resolved_at: UtcTime | None
    resolved_by: str | None
    resolution: str | None

    @classmethod
    def of(cls, orphan: Orphan) -> "OrphanOut":
        """Return one orphan."""
        row: dict[str, Any] = {name: getattr(orphan, name) for name in cls.model_fields}
        return cls.model_validate(
            row | {"resolved_by": orphan.resolved_by or None, "resolution": orphan.resolution or None}
        )


class OrphanPage(Page[OrphanOut]):
    """Orphans, newest first."""


class EntryOut(BaseModel):
    """One message of an orphan, in its place."""

    index: int
    to: str | None
    text: str | None
    created_at: UtcTime | None
    readable: bool
    error: str | None = Field(description="Why it can never be sent.")
    raw: str | None = Field(description="What stood in Redis, escaped and cut.")
    duplicate_of: uuid.UUID | None = Field(description="A message that was sent already and is the same.")
    message_id: uuid.UUID | None = Field(description="The message that it was restored as.")

    @classmethod
    def of(cls, view: EntryView) -> "EntryOut":
        """Return one entry."""
        return cls(
            index=view.index, to=view.to or None, text=view.text or None, created_at=view.created_at,
            readable=view.readable, error=view.error or None, raw=view.raw or None, duplicate_of=view.duplicate_of,
            message_id=view.message_id,
        )  # fmt: skip


class EntryPage(Page[EntryOut]):
    """An orphan's messages, in order."""


class ExportParameters(Parameters):
    """How an orphan is exported."""

    format: Literal["csv", "jsonl"] = "jsonl"


class Only(RequestBody):
    """Which messages; without it all of them."""

    newer_than: Instant | None = Field(None, description="Only messages that were handed in after this time.")
    ids: list[WholeNumber] | None = Field(
        None,
        max_length=_MAX_CHOSEN,
        description="Only the messages at these places: their `index`. The places of a "
        "`detected` orphan shift: archive it first.",
    )

    def selection(self) -> Selection:
        """Return it as the services want it."""
        newer_than: datetime | None = self.newer_than
        return Selection(newer_than=newer_than, indexes=None if self.ids is None else tuple(self.ids))


class RestoreIn(RequestBody):
    """Where an orphan's messages go."""

    session: Text | None = Field(None, description="The session; without it the one of the orphan's own name.")
    create: bool = Field(False, description="Make that session if there is none.")
    transport: Text | None = Field(
        None, description="On which transport it is made: to be named where there are several. One that needs settings "
        "is made first, by itself."
    )  # fmt: skip
    only: Only | None = None
    with_duplicates: bool = Field(False, description="Also what was sent already.")


class PurgeIn(RequestBody):
    """How many messages are deleted for good."""

    expected_messages: WholeNumber = Field(
        ge=0, description="How many messages that are: 409 `orphan_changed` when it is another number by now."
    )
    only: Only | None = None


class TaskOut(BaseModel):
    """A long act, done in the background."""

    id: uuid.UUID
    title: str
    state: Literal["waiting", "running", "done", "cancelled", "failed"]
    done: int
    total: int
    result: str | None

    @classmethod
    def of(cls, task: BackgroundTask) -> "TaskOut":
        """Return one task."""
        row = {name: getattr(task, name) for name in cls.model_fields}
        return cls.model_validate(row | {"result": task.result or None})


class OrphanDone(BaseModel):
    """What was done. More than 1,000 messages are done in the background: `task` says how far it is."""

    orphan: OrphanOut
    restored: int | None = None
    purged: int | None = None
    duplicates: int | None = Field(default=None, description="Messages that were left because they were sent already.")
    session: str | None = None
    task: TaskOut | None = None
