"""BackgroundTask: a long act of staff, run by a worker, with its progress."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from sessions_app.models.message import new_id


class TaskState(models.TextChoices):
    WAITING = "waiting", _("waiting")
    RUNNING = "running", _("running")
    DONE = "done", _("done")
    CANCELLED = "cancelled", _("cancelled")
    FAILED = "failed", _("failed")


class BackgroundTask(models.Model):
    """One long act. What it did is kept as it goes, so that a cancelled or broken one says how far it came."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(_("what"), max_length=30)
    title = models.CharField(_("title"), max_length=300)
    parameters = models.JSONField(default=dict)
    actor = models.CharField(_("who"), max_length=200)
    state = models.CharField(_("state"), max_length=10, choices=TaskState.choices, default=TaskState.WAITING)
    done = models.PositiveIntegerField(_("done"), default=0)
    total = models.PositiveIntegerField(_("of"), default=0)
    is_cancel_requested = models.BooleanField(default=False)
    result = models.CharField(_("result"), max_length=500, blank=True, default="")
    created_at = models.DateTimeField(_("asked for"), auto_now_add=True)
    started_at = models.DateTimeField(_("began"), null=True, blank=True)
    finished_at = models.DateTimeField(_("ended"), null=True, blank=True)

    class Meta:
        db_table = "wa_background_task"
        verbose_name = _("background task")
        verbose_name_plural = _("background tasks")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.title
