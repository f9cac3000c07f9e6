"""Receipt: what the engine says of a message later. LookUp: a question to the engine about an uncertain one."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from sessions_app.models.message import Message
from sessions_app.models.session import Session


class ReceiptStage(models.TextChoices):
    """How far a message has come, in the engine's words made neutral."""

    # The engine has it: what the answer to the send says too.
    ACCEPTED = "accepted", _("taken by the engine")
    # WhatsApp's own server has it.
    SENT = "sent", _("sent to WhatsApp")
    DELIVERED = "delivered", _("delivered to the phone")
    READ = "read", _("read")
    # The engine says that it failed, and not whether any of it arrived.
    FAILED = "failed", _("failed, says the engine")


class ReceiptSource(models.TextChoices):
    HOOK = "hook", _("told by the engine")
    LOOK_UP = "look_up", _("found by a look-up")


class Receipt(models.Model):
    """What was heard, once. It may come before the send's own answer, so it may have to wait for its message."""

    # No constraints in the database: evidence, which is kept longer than what it is about.
    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )
    message = models.ForeignKey(
        Message, on_delete=models.CASCADE, db_constraint=False, null=True, blank=True, related_name="receipts"
    )
    # The newest attempt when it was heard: each attempt of a message has the same id at the engine.
    token = models.BigIntegerField(null=True, blank=True, editable=False)
    # The engine's bare id of the message, and of the event that told it.
    provider_id = models.CharField(_("engine's id"), max_length=200)
    event_id = models.CharField(_("event"), max_length=100)
    stage = models.CharField(_("stage"), max_length=10, choices=ReceiptStage.choices)
    source = models.CharField(_("source"), max_length=10, choices=ReceiptSource.choices, default=ReceiptSource.HOOK)
    # By the engine's clock; null where it gave none.
    occurred_at = models.DateTimeField(_("when"), null=True, blank=True)
    received_at = models.DateTimeField(_("received"), db_default=Now())
    # When to look again for its message, or whether that is still being sent; null for nothing left to do.
    next_look_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "wa_receipt"
        verbose_name = _("receipt")
        verbose_name_plural = _("receipts")
        ordering = ["id"]
        constraints = [
            # An event that is delivered again changes nothing.
            models.UniqueConstraint(fields=["session", "event_id"], name="wa_receipt_once"),
        ]
        indexes = [
            # Those that wait for their message.
            models.Index(fields=["next_look_at"], condition=Q(next_look_at__isnull=False), name="wa_receipt_waiting"),
        ]

    def __str__(self) -> str:
        return f"{self.stage}: {self.provider_id}"


class LookUpOutcome(models.TextChoices):
    """What the engine answered. Empty while it was not asked yet."""

    FOUND = "found", _("the engine has it")
    # Evidence, no proof: an engine may forget, or not have stored it yet.
    NOT_FOUND = "not_found", _("the engine does not know it")
    NO_ANSWER = "no_answer", _("the engine did not say")
    # What became of the message was known before it was asked.
    MOOT = "moot", _("not needed any more")


class LookUp(models.Model):
    """One question, written before it is asked."""

    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )
    message = models.ForeignKey(Message, on_delete=models.CASCADE, db_constraint=False, related_name="look_ups")
    # The attempt that ended without an answer; 0 for one that this database does not know.
    token = models.BigIntegerField()
    number = models.PositiveSmallIntegerField(_("number"))
    due_at = models.DateTimeField(_("due"))
    asked_at = models.DateTimeField(_("asked"), null=True, blank=True)
    outcome = models.CharField(_("outcome"), max_length=10, choices=LookUpOutcome.choices, blank=True, default="")
    detail = models.CharField(_("details"), max_length=500, blank=True, default="")

    class Meta:
        db_table = "wa_look_up"
        verbose_name = _("look-up")
        verbose_name_plural = _("look-ups")
        ordering = ["id"]
        indexes = [
            # Those to be asked.
            models.Index(fields=["due_at"], condition=Q(asked_at__isnull=True), name="wa_look_up_due"),
        ]

    def __str__(self) -> str:
        return f"look-up {self.number} of {self.message_id}"
