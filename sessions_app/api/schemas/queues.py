"""Queues as clients read them."""

from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, Field

from sessions_app.api.pagination import Page
from sessions_app.api.schemas.fields import UtcTime
from sessions_app.services.queue_overview import QueueView


class QueueOut(BaseModel):
    """The queue of one session, or a queue in Redis whose session is not in PostgreSQL."""

    queue: str = Field(examples=["wa:test-session"])
    session: str = Field(examples=["test-session"])
    state: Literal["serving", "paused", "held", "orphan"]
    source: Literal["rq", "legacy"]
    depth: int = Field(description="Messages that are not sent yet, those in flight among them.", examples=[15])
    in_flight: int = Field(examples=[0])
    oldest_queued_at: UtcTime | None
    next_due_at: UtcTime | None = Field(description="null when there is nothing to do, and while Redis is away.")
    estimated_done_at: UtcTime | None = Field(
        description="When the last message goes at the earliest, as things stand: by pace (the middle of its "
        "interval), caps, quiet hours and retries; `per_recipient_ms` is not counted. null for an empty queue, while "
        "it does not move, and past a year."
    )

    @classmethod
    def of(cls, view: QueueView) -> "QueueOut":
        """Return one queue."""
        return cls(**asdict(view))


class QueueTotals(BaseModel):
    """Sums over all queues that the key sees, not only those of this page."""

    queued: int = Field(description="Messages that are not sent yet, those in flight among them.")
    in_flight: int
    orphan_queues: int | None = Field(description="null while Redis is away. A key limited to sessions sees none.")
    orphan_messages: int | None


class QueuePage(Page[QueueOut]):
    """The sessions' queues by name, then the orphans."""

    totals: QueueTotals
    degraded: bool = Field(
        description="Redis is away. Depths and totals are PostgreSQL's and right; due times and orphans are missing."
    )
