"""Sessions as clients write and read them."""

import uuid
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sessions_app.api.pagination import Page, Parameters
from sessions_app.api.schemas.fields import (
    Clock,
    JsonObject,
    RequestBody,
    Text,
    UtcTime,
    WholeNumber,
    at_most_bytes,
    is_session_name,
    optional,
    refuse,
)
from sessions_app.models import Hold, Session
from sessions_app.services.orphans import Adopted
from sessions_app.services.pacing import Pacing
from sessions_app.services.queue_overview import QueueView
from sessions_app.transports import registry

DesiredStateName = Literal["active", "paused", "stopped"]
ObservedStateName = Literal["stopped", "starting", "needs_pairing", "working", "failed"]
OnUncertainName = Literal["hold", "hold_session", "resend"]

_CONFIG_BYTES = 16 * 1024
_WINDOWS = (
    "Counted in windows of that length: each begins with the first message sent in it, the next one with the first "
    "message after its end. So up to twice the cap may go within that length across the border of two windows."
)


def _name(text: str) -> str:
    if not is_session_name(text):
        refuse("has to be 1 to 64 of A-Z a-z 0-9 _ . - and to start with a letter or a digit")
    return text


Config = Annotated[JsonObject, at_most_bytes(_CONFIG_BYTES)]


class QuietHours(RequestBody):
    """The hours of each day in which nothing is sent. When `end` is not after `start`, it is on the next day."""

    start: Clock
    end: Clock
    tz: Text = Field("UTC", min_length=1, max_length=64, description="A name of the IANA time zone database.")


class PacingIn(RequestBody):
    """How fast a session may send. Durations in milliseconds, caps in messages, 0 is no limit."""

    min_interval_ms: WholeNumber = optional(description="The least wait between two messages.")
    max_interval_ms: WholeNumber = optional(description="The longest; the wait is random between the two.")
    per_recipient_ms: WholeNumber = optional(description="The least wait between two messages to one phone.")
    hourly_cap: WholeNumber = optional(description=f"Messages in an hour, at most. {_WINDOWS}")
    daily_cap: WholeNumber = optional(description=f"Messages in a day (24 hours), at most. {_WINDOWS}")
    quiet_hours: QuietHours | None = optional(description="null for none.")

    def over(self, present: Pacing) -> Pacing:
        """Return `present` with the members that the client gave."""
        given = self.model_dump(include=self.model_fields_set - {"quiet_hours"})
        if "quiet_hours" in self.model_fields_set:
            quiet = self.quiet_hours
            given |= {
                "quiet_start": quiet and quiet.start,
                "quiet_end": quiet and quiet.end,
                "quiet_tz": quiet.tz if quiet else "",
            }
        return Pacing(**{name: getattr(present, name) for name in Pacing.__slots__} | given)


class SessionIn(RequestBody):
    """A session to be made."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "test-session"},
                {"name": "sales", "pacing": {"min_interval_ms": 1000, "max_interval_ms": 3000}},
            ]
        }
    )

    name: Annotated[Text, AfterValidator(_name)] = Field(
        description="1 to 64 of `A-Z a-z 0-9 _ . -`, starting with a letter or a digit. It never changes.",
        examples=["test-session"],
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"},
    )
    transport: Text = Field("loopback", max_length=20, description=f"One of: {', '.join(registry.names())}.")
    config: Config = Field(
        default_factory=dict, description="The transport's settings. What is secret goes in and never comes out."
    )
    pacing: PacingIn | None = Field(None, description="What is not given is as the transport recommends.")
    on_uncertain: OnUncertainName = Field(
        "hold",
        description="What becomes of a message of which nobody knows whether it was sent: `hold`, it waits for a "
        "person and the session goes on; `hold_session`, the session waits too; `resend`, it is sent again.",
    )
    max_in_flight: WholeNumber = Field(1, ge=1, le=1000, description="More than 1 only where the transport allows it.")
    desired_state: DesiredStateName = "active"


class SessionPatch(RequestBody):
    """What is to change of a session. What is not given stays; of `config` and `pacing`, each member by itself."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"pacing": {"hourly_cap": 200}}]})

    config: Config = optional()
    pacing: PacingIn = optional()
    on_uncertain: OnUncertainName = optional()
    max_in_flight: WholeNumber = optional(ge=1, le=1000)
    desired_state: DesiredStateName = optional()


class DeleteParameters(Parameters):
    """What becomes of the messages that a deleted session has not sent."""

    unsent: Literal["refuse", "cancel", "orphan"] = Field(
        "refuse",
        description="`refuse` answers 409 when there are some; `orphan` keeps them as one; `cancel` cancels them, but "
        "what waits to be sent again by its session's policy becomes `uncertain` instead, and counts as such.",
    )


class PacingOut(BaseModel):
    """How fast a session may send."""

    min_interval_ms: int
    max_interval_ms: int
    per_recipient_ms: int
    hourly_cap: int
    daily_cap: int
    quiet_hours: QuietHours | None


class SessionOut(BaseModel):
    """One WhatsApp number and its link, with what its queue is doing."""

    name: str = Field(examples=["test-session"])
    transport: str = Field(examples=["loopback"])
    config: dict[str, Any] = Field(description="Without what is secret.", examples=[{"delay_ms": 0}])
    desired_state: DesiredStateName = Field(description="What you want.")
    observed_state: ObservedStateName = Field(description="What the engine reports.")
    observed_reason: str | None = Field(description="Why it is so, and why the queue is held, if it is.")
    phone: str | None
    pacing: PacingOut
    on_uncertain: OnUncertainName
    max_in_flight: int
    depth: int = Field(description="Messages that are not sent yet, those in flight among them.")
    in_flight: int = Field(description="Messages that are on their way to the engine now.")
    oldest_queued_at: UtcTime | None
    next_due_at: UtcTime | None = Field(
        description="When the queue is looked at next; null when there is nothing to do, and while Redis is away."
    )
    last_sent_at: UtcTime | None
    created_at: UtcTime
    updated_at: UtcTime

    @classmethod
    def of(cls, session: Session, queue: QueueView) -> Self:
        """Return a session, which has its dispatch row at hand, with its queue."""
        row = {name: getattr(session, name) for name in _AS_THEY_ARE}
        return cls.model_validate(
            {
                **row,
                "config": registry.get(session.transport).public_config(session.config),
                "observed_reason": _reason(session),
                "phone": session.phone or None,
                "pacing": _pacing(session),
                "depth": queue.depth,
                "in_flight": queue.in_flight,
                "oldest_queued_at": queue.oldest_queued_at,
                "next_due_at": queue.next_due_at,
                "last_sent_at": session.dispatch.last_sent_at,
            }
        )


_AS_THEY_ARE = (
    "name", "transport", "desired_state", "observed_state", "on_uncertain", "max_in_flight", "created_at", "updated_at",
)  # fmt: skip


def _reason(session: Session) -> str | None:
    observed, dispatch = session.observed_reason, session.dispatch
    parts = [observed] if observed else []
    if dispatch.hold != Hold.NONE:
        is_news = dispatch.hold_reason and dispatch.hold_reason != observed
        parts.append(f"held ({dispatch.hold})" + (f": {dispatch.hold_reason}" if is_news else ""))
    return "; ".join(parts) or None


def _pacing(session: Session) -> dict[str, Any]:
    quiet = None
    if session.has_quiet_hours:
        quiet = {"start": str(session.quiet_start), "end": str(session.quiet_end), "tz": session.quiet_tz or "UTC"}
    numbers = ("min_interval_ms", "max_interval_ms", "per_recipient_ms", "hourly_cap", "daily_cap")
    return {name: getattr(session, name) for name in numbers} | {"quiet_hours": quiet}


class RestoredOut(BaseModel):
    """Messages that waited under the name of a new session and are in its queue now."""

    messages: int = Field(examples=[9])


class RestoringOut(BaseModel):
    """More messages than an answer waits for: a worker puts those that are young enough into the queue, in order."""

    messages: int = Field(description="At most so many.", examples=[20000])
    task: uuid.UUID = Field(description="How far it is: `GET /whatsapp/tasks/{task}`.")


class WaitingOrphanOut(BaseModel):
    """Messages that wait under the name of a new session until a person decides."""

    id: uuid.UUID
    messages: int
    reason: str


def _is_none(value: object) -> bool:
    return value is None


class SessionCreated(SessionOut):
    """A session, with what was found under its name when it was made."""

    restored: RestoredOut | None = Field(None, exclude_if=_is_none, description="Left out for none.")
    restoring: list[RestoringOut] | None = Field(None, exclude_if=_is_none, description="Left out for none.")
    orphan: WaitingOrphanOut | None = Field(
        None, exclude_if=_is_none, description="The newest that waits for a person; left out for none."
    )

    @classmethod
    def made(cls, session: SessionOut, adopted: Adopted | None) -> Self:
        """Return a session with what it found."""
        found = adopted or Adopted()
        newest = found.waiting[-1] if found.waiting else None
        return cls(
            **session.model_dump(),
            restored=RestoredOut(messages=found.restored) if found.restored else None,
            restoring=[RestoringOut(messages=task.total, task=task.pk) for task in found.tasks] or None,
            orphan=WaitingOrphanOut(id=newest.pk, messages=newest.messages, reason=newest.reason) if newest else None,
        )


class SessionPage(Page[SessionOut]):
    """Sessions, by name."""


class SessionDeleted(BaseModel):
    """What was done."""

    session: str
    cancelled: int = Field(description="Unsent messages that were cancelled with it.")
    uncertain: int = Field(
        description="Messages that were to be cancelled and are `uncertain` now: they waited to be sent again by "
        "policy, and an earlier attempt may have arrived."
    )
    orphaned: int = Field(description="Unsent messages that were kept in an orphan.")
