"""AuditEntry: who did what to what, when, and to how many."""

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class AuditEntry(models.Model):
    """One act of a person, an API key or an operator's command. Never changed, never deleted by waqueue."""

    created_at = models.DateTimeField(_("when"), auto_now_add=True, db_index=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, verbose_name=_("user"), null=True, on_delete=models.SET_NULL, related_name="+"
    )
    # As it was called at the time: "admin", "key local (1f2e3d4c)", "command".
    actor = models.CharField(_("who"), max_length=200)
    action = models.CharField(_("what"), max_length=50)
    target = models.CharField(_("to what"), max_length=200, blank=True, default="")
    count = models.PositiveIntegerField(_("how many"), default=1)
    data = models.JSONField(_("details"), default=dict, blank=True)

    class Meta:
        db_table = "wa_audit_entry"
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit")
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} {self.target}"
