"""Reconciliation: one run of compare, then repair, kept with what it found and did."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Trigger(models.TextChoices):
    STARTUP = "startup", _("start-up")
    TIMER = "timer", _("timer")
    COMMAND = "command", _("command")
    ADMIN = "admin", _("admin")
    API = "api", _("API")


class ReconciliationOutcome(models.TextChoices):
    RUNNING = "running", _("running")
    CLEAN = "clean", _("nothing found")
    REPAIRED = "repaired", _("everything repaired")
    FINDINGS = "findings", _("something is left")
    FAILED = "failed", _("could not run")


class FindingKind(models.TextChoices):
    ORPHAN_QUEUE = "orphan_queue", _("queue of no session")
    LEGACY_QUEUE = "legacy_queue", _("list of the old service")
    LEFTOVER_LIST = "leftover_list", _("list of an act that broke off")
    MISSING_JOB = "missing_job", _("open message without a job")
    WRONG_ORDER = "wrong_order", _("jobs in the wrong order")
    GENERATION_LOST = "generation_lost", _("Redis wiped or restarted")
    OLDER_DATABASE = "older_database", _("database older than Redis")
    FINAL_JOB = "final_job", _("job of a message that is final")
    UNKNOWN_JOB = "unknown_job", _("job without a message")
    DUPLICATE_JOB = "duplicate_job", _("job twice in its queue")
    MISSING_HASH = "missing_hash", _("job without its content")
    FOREIGN_KEY = "foreign_key", _("key that is no queue")
    UNREADABLE_ENTRY = "unreadable_entry", _("unreadable entry")
    STRANDED_SESSION = "stranded_session", _("session that nobody would look at")
    EMPTY_NAME = "empty_name", _("name of an empty queue")
    VANISHED_ORPHAN = "vanished_orphan", _("orphan that left Redis by other hands")
    OTHER_DEPLOYMENT = "other_deployment", _("Redis of another database")


# What is only said: it leaves nothing to be done.
NOTES = (FindingKind.FOREIGN_KEY, FindingKind.EMPTY_NAME)
# The action of a finding that could not be put right; its details say why.
FAILED_ACTION = "failed"
# How a run ends that could run.
FINISHED = (ReconciliationOutcome.CLEAN, ReconciliationOutcome.REPAIRED, ReconciliationOutcome.FINDINGS)


class ReconciliationQuerySet(models.QuerySet["Reconciliation"]):
    def whole(self) -> "ReconciliationQuerySet":
        """Those that acted, and on all there was."""
        return self.filter(dry_run=False, session_name="")

    def finished(self) -> "ReconciliationQuerySet":
        """Those that could run."""
        return self.filter(outcome__in=FINISHED)


class Reconciliation(models.Model):
    """One run. `counts` is the number of findings by kind."""

    trigger = models.CharField(_("begun by"), max_length=10, choices=Trigger.choices)
    dry_run = models.BooleanField(_("dry run"), default=False)
    # Where it looked only at what bears one name: it stands in for no whole run.
    session_name = models.CharField(_("only"), max_length=1000, blank=True, default="")
    # A timed run that found what the run before it had found, and had nothing to do: only the latest of these is kept.
    is_repeat = models.BooleanField(default=False, editable=False)
    started_at = models.DateTimeField(_("began"))
    finished_at = models.DateTimeField(_("ended"), null=True, blank=True)
    outcome = models.CharField(
        _("outcome"),
        max_length=10,
        choices=ReconciliationOutcome.choices,
        default=ReconciliationOutcome.RUNNING,
    )
    counts = models.JSONField(_("found"), default=dict, blank=True)
    error = models.CharField(_("why not"), max_length=500, blank=True, default="")

    objects = ReconciliationQuerySet.as_manager()

    class Meta:
        db_table = "wa_reconciliation"
        verbose_name = _("reconciliation")
        verbose_name_plural = _("reconciliations")
        ordering = ["-id"]
        permissions = [("run_reconciliation", _("Can run reconciliations"))]

    def __str__(self) -> str:
        return f"{self.trigger} {self.started_at:%Y-%m-%d %H:%M:%S}"


class ReconciliationFinding(models.Model):
    """One thing that a run found, and what was done about it: empty for nothing yet."""

    reconciliation = models.ForeignKey(Reconciliation, on_delete=models.CASCADE, related_name="findings")
    kind = models.CharField(_("what"), max_length=20, choices=FindingKind.choices)
    queue = models.CharField(_("queue"), max_length=1000, blank=True, default="")
    session = models.CharField(_("session"), max_length=1000, blank=True, default="")
    messages = models.PositiveIntegerField(_("messages"), default=0)
    action = models.CharField(_("done"), max_length=20, blank=True, default="")
    detail = models.CharField(_("details"), max_length=500, blank=True, default="")

    class Meta:
        db_table = "wa_reconciliation_finding"
        verbose_name = _("finding")
        verbose_name_plural = _("findings")
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.queue}"
