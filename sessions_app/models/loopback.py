"""LoopbackEntry: what the loopback transport was asked to send."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class LoopbackEntry(models.Model):
    """One hand-over to loopback, written the moment it arrives: what an engine would remember, in its own order."""

    message_id = models.UUIDField(_("message"), db_index=True)
    token = models.BigIntegerField(_("attempt"))
    session_name = models.CharField(_("session"), max_length=64, db_index=True)
    content = models.JSONField(_("content"))
    outcome = models.CharField(_("answered"), max_length=15)
    created_at = models.DateTimeField(_("when"))

    class Meta:
        db_table = "wa_loopback_entry"
        verbose_name = _("loopback entry")
        verbose_name_plural = _("sent by loopback")
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.session_name}: {self.message_id}"
