"""Message: one outbound message that we promised to send."""

import secrets
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Count, F, Q
from django.utils.translation import gettext_lazy as _

from sessions_app.models.session import Session

if TYPE_CHECKING:
    from sessions_app.models.mirrored import Mirrored


def new_id() -> uuid.UUID:
    """A UUIDv7 (RFC 9562, with the time below a millisecond in it): ids sort by the time they were made.

    Libraries that count on within a millisecond run ahead of the clock in a burst; a batch of thousands would then
    stand above what other processes make after it.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    return uuid.UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62))


def written_time(at: datetime) -> str:
    """A time as jobs and orphans carry it: as texts they sort as they do as times."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class MessageType(models.TextChoices):
    TEXT = "text", _("text")
    IMAGE = "image", _("image")
    DOCUMENT = "document", _("document")
    TEMPLATE = "template", _("template")


class Priority(models.IntegerChoices):
    """Sorted upwards: high goes before normal."""

    HIGH = 0, _("high")
    NORMAL = 1, _("normal")


class Status(models.TextChoices):
    SCHEDULED = "scheduled", _("scheduled")
    QUEUED = "queued", _("queued")
    SENDING = "sending", _("sending")
    SENT = "sent", _("sent")
    DELIVERED = "delivered", _("delivered")
    READ = "read", _("read")
    FAILED = "failed", _("failed")
    UNCERTAIN = "uncertain", _("uncertain")
    CANCELLED = "cancelled", _("cancelled")
    EXPIRED = "expired", _("expired")
    ORPHANED = "orphaned", _("orphaned")


# Open: they stand in the session's line, and what is behind them waits.
OPEN = (Status.QUEUED, Status.SENDING)
# Unsent: deleting the session has to say what becomes of them.
UNSENT = (Status.SCHEDULED, Status.QUEUED, Status.SENDING)
# Accepted: the engine gave an id for them.
ACCEPTED = (Status.SENT, Status.DELIVERED, Status.READ)
# Final: nothing more is done unless a person asks.
FINAL = (*ACCEPTED, Status.FAILED, Status.CANCELLED, Status.EXPIRED)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What stands before a message in its line: `count` messages, of which the first waits `until` then, if it does."""

    count: int
    until: datetime | None


class MessageQuerySet(models.QuerySet["Message"]):
    def open(self) -> "MessageQuerySet":
        """Those that stand in a line, in any session."""
        return self.filter(status__in=OPEN)

    def in_order(self) -> "MessageQuerySet":
        """As their session sends them."""
        return self.order_by("session_id", "priority", "seq")

    def counted_by_batch(self, batch_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, dict[str, int]]:
        """How many messages of each batch are in which status, in one look into one index."""
        counts: dict[uuid.UUID, dict[str, int]] = {batch_id: {} for batch_id in batch_ids}
        rows = self.filter(batch_id__in=list(counts)).order_by().values_list("batch_id", "status")
        for batch_id, status, count in rows.annotate(Count("pk")):
            counts[batch_id][status] = count
        return counts


class Message(models.Model):
    """One outbound message. Its place in the line is (`priority`, `seq`) and is kept through every retry.

    Transitions are conditional UPDATEs that count rows: those of sending are in `sessions_app.worker`, those of people
    in `sessions_app.services.messages`.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    session = models.ForeignKey(
        Session, on_delete=models.PROTECT, related_name="messages", verbose_name=_("session"), db_index=False
    )
    # E.164 with a plus where the number has a country code, else the digits alone.
    recipient = models.CharField(_("to"), max_length=16)
    type = models.CharField(_("type"), max_length=10, choices=MessageType.choices, default=MessageType.TEXT)
    text = models.TextField(_("text"), blank=True, default="")
    media_url = models.CharField(_("file address"), max_length=2000, blank=True, default="")
    filename = models.CharField(_("file name"), max_length=255, blank=True, default="")
    caption = models.TextField(_("caption"), blank=True, default="")
    template = models.JSONField(_("template"), null=True, blank=True)

    priority = models.SmallIntegerField(_("priority"), choices=Priority.choices, default=Priority.NORMAL)
    seq = models.BigIntegerField(_("place"))
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.QUEUED)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    max_attempts = models.PositiveSmallIntegerField(_("attempts at most"), default=5)
    # How often it was handed over again although the engine may have had it: by policy or by a person.
    resends = models.PositiveSmallIntegerField(_("resent"), default=0)
    # How often the process that was sending it died, since it last came through.
    deaths = models.PositiveSmallIntegerField(_("deaths"), default=0, editable=False)
    # The token of the newest attempt: only its outcome may change the message.
    token = models.BigIntegerField(null=True, blank=True, editable=False)
    # The attempt whose look-ups are planned; a newer one that ends uncertain has its own. 0 for none that is known.
    look_up_token = models.BigIntegerField(null=True, blank=True, editable=False)
    next_attempt_at = models.DateTimeField(_("not before"), null=True, blank=True)
    scheduled_at = models.DateTimeField(_("scheduled for"), null=True, blank=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)

    provider_id = models.CharField(_("engine's id"), max_length=200, blank=True, default="")
    error_class = models.CharField(_("error class"), max_length=20, blank=True, default="")
    error_code = models.CharField(_("error code"), max_length=100, blank=True, default="")
    error_detail = models.CharField(_("error"), max_length=1000, blank=True, default="")

    client_ref = models.CharField(_("client reference"), max_length=200, blank=True, default="")
    metadata = models.JSONField(_("metadata"), default=dict, blank=True)
    # Where it waits while it is `orphaned`.
    orphan = models.ForeignKey(
        "sessions_app.Orphan", on_delete=models.SET_NULL, null=True, blank=True, db_index=False, related_name="+"
    )
    # A Batch. No foreign key: ten thousand checks of the same row would be the dearest part of taking one in.
    batch_id = models.UUIDField(_("batch"), null=True, blank=True)

    created_at = models.DateTimeField(_("created"))
    queued_at = models.DateTimeField(_("queued"), null=True, blank=True)
    sent_at = models.DateTimeField(_("sent"), null=True, blank=True)
    delivered_at = models.DateTimeField(_("delivered"), null=True, blank=True)
    read_at = models.DateTimeField(_("read"), null=True, blank=True)
    failed_at = models.DateTimeField(_("failed"), null=True, blank=True)

    # What stood before it when it was appended, by itself; None where nobody has looked.
    ahead: Ahead | None = None

    objects = MessageQuerySet.as_manager()

    class Meta:
        db_table = "wa_message"
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        permissions = [
            ("view_message_content", _("Can read recipients and contents")),
            ("operate_message", _("Can retry, cancel and resolve messages")),
        ]
        constraints = [
            # The fence: the first open message of a session. Two never hold one place in a line.
            models.UniqueConstraint(
                fields=["session", "priority", "seq"], condition=Q(status__in=OPEN), name="wa_message_line"
            ),
        ]
        indexes = [
            # Promotion: what was scheduled and has come due.
            models.Index(fields=["scheduled_at"], condition=Q(status=Status.SCHEDULED), name="wa_message_scheduled"),
            # Expiry: what waits and has an end.
            models.Index(
                fields=["expires_at"],
                condition=Q(status=Status.QUEUED, expires_at__isnull=False),
                name="wa_message_expires",
            ),
            # The worklist and the lists of what needs a person.
            models.Index(
                fields=["status", "id"],
                condition=Q(status__in=[Status.UNCERTAIN, Status.FAILED, Status.ORPHANED]),
                name="wa_message_attention",
            ),
            # Lists, newest first: ids sort by time.
            models.Index(fields=["session", "-id"], name="wa_message_of_session"),
            models.Index(fields=["recipient", "-id"], name="wa_message_to"),
            models.Index(fields=["client_ref"], condition=~Q(client_ref=""), name="wa_message_client_ref"),
            # A receipt's message, by the engine's id. Loopback gives none.
            models.Index(
                fields=["provider_id"],
                condition=~Q(provider_id="") & ~Q(provider_id__startswith="loopback-"),
                name="wa_message_of_engine",
            ),
            # Planning: what nobody knows the outcome of, and whose look-ups are not planned yet.
            models.Index(
                fields=["id"],
                condition=(Q(status=Status.UNCERTAIN) | Q(status=Status.QUEUED, resends__gt=0))
                & (Q(look_up_token__isnull=True) | Q(look_up_token__lt=F("token"))),
                name="wa_message_to_look_up",
            ),
            # A batch's messages, newest first; and, without a look at their rows, how many are in which status.
            models.Index(
                fields=["batch_id", "id"],
                include=["status"],
                condition=Q(batch_id__isnull=False),
                name="wa_message_of_batch",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    def content(self: "Message | Mirrored") -> dict[str, Any]:
        """What is sent, as plain JSON: what a transport gets, and what an orphan can be read from."""
        filled: dict[str, Any] = {"to": self.recipient, "type": self.type}
        for name in ("text", "media_url", "filename", "caption", "template", "client_ref"):
            if value := getattr(self, name):
                filled[name] = value
        return filled

    def terms(self: "Message | Mirrored") -> dict[str, Any]:
        """When it may go, as plain JSON: what an orphan needs beside the content to give the message back as it was."""
        named: dict[str, Any] = {}
        if self.priority != Priority.NORMAL:
            named["priority"] = int(self.priority)
        for name in ("scheduled_at", "expires_at"):
            if at := getattr(self, name):
                named[name] = written_time(at)
        return named


def built(values: dict[str, Any]) -> Message:
    """An unsaved message of these values by their columns, the rest as in a new one; in a third of the usual time."""
    return Message(*(blank_values() | values).values())  # type: ignore[misc]


@cache
def blank_values() -> dict[str, Any]:
    """A new message of nobody, by its attributes."""
    blank = Message()
    return {field.attname: getattr(blank, field.attname) for field in Message._meta.concrete_fields}
