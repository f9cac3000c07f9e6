"""Worker: one worker process, its heartbeat, and what it has done."""

import uuid
from datetime import timedelta

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

# A worker beats every HEARTBEAT; silent for SILENCE it counts as dead; beating without a gap for STEADY it may judge.
HEARTBEAT = timedelta(seconds=3)
SILENCE = timedelta(seconds=15)
STEADY = timedelta(seconds=30)


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self) -> "WorkerQuerySet":
        """Those whose heartbeat is fresh by the database's own clock."""
        return self.filter(stopped_at=None, heartbeat_at__gt=Now() - SILENCE)

    def gone(self) -> "WorkerQuerySet":
        """Those that fell silent without saying goodbye."""
        return self.filter(stopped_at=None, heartbeat_at__lte=Now() - SILENCE)


class Worker(models.Model):
    """One worker process. A new process is a new row: ids are never used again."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(_("name"), max_length=200)
    hostname = models.CharField(_("host"), max_length=255)
    pid = models.PositiveIntegerField(_("process"))
    concurrency = models.PositiveIntegerField(_("at once, at most"))
    started_at = models.DateTimeField(_("started"))
    heartbeat_at = models.DateTimeField(_("heartbeat"))
    # Since when it has beaten without a gap: only such a worker may judge others.
    steady_since = models.DateTimeField(_("steady since"))
    stopped_at = models.DateTimeField(_("stopped"), null=True, blank=True)
    in_flight = models.PositiveIntegerField(_("in flight"), default=0)
    settled = models.PositiveBigIntegerField(_("settled"), default=0)
    # Set once when somebody was told that it fell silent.
    missed_at = models.DateTimeField(_("missed"), null=True, blank=True)

    objects = WorkerQuerySet.as_manager()

    class Meta:
        db_table = "wa_worker"
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return self.name
