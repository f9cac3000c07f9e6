"""Batch: messages that one request handed in together."""

from collections.abc import Mapping

from django.db import models
from django.utils.translation import gettext_lazy as _

from sessions_app.models.message import UNSENT, Status, new_id
from sessions_app.models.session import Session


class BatchState(models.TextChoices):
    """How far a batch is. Told by its messages each time, and kept nowhere."""

    # All of it still waits.
    QUEUED = "queued", _("queued")
    SENDING = "sending", _("sending")
    # Nothing of it waits to be sent any more, whatever became of it.
    DONE = "done", _("done")
    # The same, and its rest was cancelled.
    CANCELLED = "cancelled", _("cancelled")


class Batch(models.Model):
    """Messages that one request handed in, in its order. Which they are stands in their `batch_id`.

    A batch stays with its session's history when that is deleted. Its messages may have moved into another session
    since: they are still of this batch.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    session = models.ForeignKey(
        Session, on_delete=models.PROTECT, related_name="batches", verbose_name=_("session"), db_index=False
    )
    # As it was called at the time, as in the audit.
    created_by = models.CharField(_("by"), max_length=200)
    accepted = models.PositiveIntegerField(_("accepted"))
    # How many entries did not fit. They are told in the answer and not kept.
    rejected = models.PositiveIntegerField(_("rejected"))
    created_at = models.DateTimeField(_("handed in"))
    # When its rest was cancelled for the first time, if something was left to cancel.
    cancelled_at = models.DateTimeField(_("cancelled"), null=True, blank=True)

    class Meta:
        db_table = "wa_batch"
        verbose_name = _("batch")
        verbose_name_plural = _("batches")
        ordering = ["-id"]
        permissions = [("operate_batch", _("Can cancel the rest of batches"))]
        indexes = [
            # A session's own batches, newest first.
            models.Index(fields=["session", "-id"], name="wa_batch_of_session"),
        ]

    def __str__(self) -> str:
        return str(self.id)

    def state(self, counts: Mapping[str, int]) -> BatchState:
        """How far it is, by how many of its messages are in which status."""
        waiting = sum(counts.get(status, 0) for status in (Status.SCHEDULED, Status.QUEUED))
        if not any(counts.get(status, 0) for status in UNSENT):
            return BatchState.CANCELLED if self.cancelled_at else BatchState.DONE
        return BatchState.QUEUED if waiting == self.accepted else BatchState.SENDING
