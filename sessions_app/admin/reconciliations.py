"""The pages of reconciliations: each run with its report, and the buttons that run one."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.formats import number_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from sessions_app.admin import words
from sessions_app.admin.acts import Button
from sessions_app.admin.base import APP, RUN_RECONCILIATION, VIEW_ORPHAN, PageAdmin, actor_of, require
from sessions_app.admin.lists import ChoiceFilter, NewestFirstMixin
from sessions_app.admin.phrases import orphan_in, said
from sessions_app.exceptions import OtherDeployment, QueueUnavailable, primary_message
from sessions_app.models import (
    FAILED_ACTION,
    NOTES,
    FindingKind,
    Reconciliation,
    ReconciliationFinding,
    ReconciliationOutcome,
    Trigger,
)
from sessions_app.reconciliation.run import AlreadyRunning, reconcile
from sessions_app.services import audit

if TYPE_CHECKING:
    from django.urls import URLPattern

_PER_PAGE = 200
_TONES: dict[str, str] = {
    ReconciliationOutcome.RUNNING: words.BUSY,
    ReconciliationOutcome.CLEAN: words.OK,
    ReconciliationOutcome.REPAIRED: words.OK,
    ReconciliationOutcome.FINDINGS: words.WARN,
    ReconciliationOutcome.FAILED: words.BAD,
}
_KINDS = {kind.value: kind.label for kind in FindingKind}


class TriggerFilter(ChoiceFilter):
    """By who began it."""

    title = gettext_lazy("begun by")
    parameter_name = "trigger"
    values = Trigger


class OutcomeFilter(ChoiceFilter):
    """By outcome."""

    title = gettext_lazy("outcome")
    parameter_name = "outcome"
    values = ReconciliationOutcome


@admin.register(Reconciliation)
class ReconciliationAdmin(NewestFirstMixin, PageAdmin):
    """Reconciliations."""

    position = 22
    list_display = ("began", "begun_by", "took", "ended_as", "what_was_found")
    list_filter = (OutcomeFilter, TriggerFilter)
    actions = None
    empty_state = gettext_lazy(
        "Redis was never held against PostgreSQL yet. It is done at every start and then every minute by a worker; "
        "“Dry run” does it now."
    )

    @admin.display(description=gettext_lazy("when"))
    def began(self, run: Reconciliation) -> SafeString:
        """When it began."""
        return words.moment(run.started_at)

    @admin.display(description=gettext_lazy("begun by"))
    def begun_by(self, run: Reconciliation) -> SafeString:
        """Who began it, and whether it only looked."""
        return _begun_by(run)

    @admin.display(description=gettext_lazy("duration"))
    def took(self, run: Reconciliation) -> str:
        """How long it took."""
        return _duration(run)

    @admin.display(description=gettext_lazy("outcome"))
    def ended_as(self, run: Reconciliation) -> SafeString:
        """How it ended."""
        return _badge(run)

    @admin.display(description=gettext_lazy("found"))
    def what_was_found(self, run: Reconciliation) -> SafeString:
        """How many of what."""
        if run.error:
            return format_html('<span class="wa-quiet">{}</span>', said(run.error))
        return _counts(run) or format_html("{}", "-")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """The list, with the buttons that run one."""
        tools = []
        if request.user.has_perm(RUN_RECONCILIATION):
            tools = [Button(_("Dry run"), _url("dry_run")), Button(_("Run now"), _url("run"))]
        return super().changelist_view(request, {"tools": tools, **(extra_context or {})})

    def get_urls(self) -> "list[URLPattern]":
        """The pages that Django does not have."""
        wrap = self.admin_site.admin_view
        return [
            path("run/", wrap(self.run_view), {"dry_run": False}, name=f"{APP}_reconciliation_run"),
            path("dry-run/", wrap(self.run_view), {"dry_run": True}, name=f"{APP}_reconciliation_dry_run"),
            *super().get_urls(),
        ]

    def run_view(self, request: HttpRequest, *, dry_run: bool) -> HttpResponse:
        """Say what a run does; do it on a POST, and show its report."""
        require(request, RUN_RECONCILIATION)
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return HttpResponseRedirect(self._run(request, dry_run=dry_run))
        title = _("Look at Redis without changing anything?") if dry_run else _("Reconcile Redis with PostgreSQL?")
        context = {"title": title, "dry_run": dry_run, "back": _url("changelist")}
        return self.render(request, "reconciliation/run.html", context)

    def _run(self, request: HttpRequest, *, dry_run: bool) -> str:
        """Run one and tell what came of it; return where to go then."""
        audit.record(actor_of(request), "run reconciliation", dry_run=dry_run)
        try:
            done = reconcile(Trigger.ADMIN, dry_run=dry_run)
        except AlreadyRunning:
            text = _(
                "Another reconciliation is running just now, and finds what this one would have found. It is below."
            )
            self.message_user(request, text, messages.WARNING)
        except OtherDeployment:
            text = _("This Redis belongs to another waqueue: nothing in it was touched.")
            self.message_user(request, text, messages.ERROR)
        except QueueUnavailable:
            text = _("Redis cannot be reached: nothing was looked at and nothing was changed.")
            self.message_user(request, text, messages.ERROR)
        except Exception as error:
            # Its row says what was done before; the next run of the timer tries again.
            text = _("The reconciliation failed: %s") % primary_message(error)
            self.message_user(request, text, messages.ERROR)
        else:
            if done is not None:
                return reverse(f"admin:{APP}_reconciliation_change", args=[done.pk])
        return _url("changelist")

    def page(self, request: HttpRequest, run: Reconciliation) -> HttpResponse:
        """The report of a run, row by row."""
        page = Paginator(run.findings.order_by("pk"), _PER_PAGE).get_page(request.GET.get("p", 1))
        may_see_orphans = request.user.has_perm(VIEW_ORPHAN)
        rows = [_row(finding, may_see_orphans=may_see_orphans) for finding in page.object_list]
        buttons = []
        if request.user.has_perm(RUN_RECONCILIATION):
            if run.dry_run and run.outcome == ReconciliationOutcome.FINDINGS:
                buttons = [Button(_("Put it right now"), _url("run")), Button(_("Look again"), _url("dry_run"))]
            else:
                buttons = [Button(_("Dry run"), _url("dry_run")), Button(_("Run now"), _url("run"))]
        context = {
            "title": _("Reconciliation of %s") % words.exact(run.started_at, seconds=True),
            "run": run, "badge": _badge(run), "begun_by": _begun_by(run), "counts": _counts(run), "rows": rows,
            "page": page, "buttons": buttons, "error": said(run.error), "summary": _summary(run),
            "facts": [(_("Begun by"), _begun_by(run)), (_("Duration"), _duration(run)), (_("Outcome"), _badge(run))],
        }  # fmt: skip
        return self.render(request, "reconciliation/page.html", context)


def _row(finding: ReconciliationFinding, *, may_see_orphans: bool) -> dict[str, Any]:
    """One finding in words."""
    orphan = orphan_in(finding.detail) if may_see_orphans else None
    return {
        "what": _KINDS.get(finding.kind, finding.kind),
        "queue": finding.queue or "-",
        "session": finding.session or "-",
        "messages": finding.messages,
        "done": said(finding.action) if finding.action else _("noted") if finding.kind in NOTES else _("nothing yet"),
        "is_open": finding.action == FAILED_ACTION or (not finding.action and finding.kind not in NOTES),
        "detail": said(finding.detail),
        "orphan_url": reverse(f"admin:{APP}_orphan_change", args=[orphan]) if orphan else "",
    }


def _summary(run: Reconciliation) -> str:
    """What this outcome means for whoever reads it."""
    if run.dry_run and run.outcome == ReconciliationOutcome.FINDINGS:
        return _("This was a dry run: it only looked. What it found is below, and nothing was done about it.")
    texts: dict[str, Any] = {
        ReconciliationOutcome.RUNNING: _("It is running, or its process died before it could say how it ended."),
        ReconciliationOutcome.CLEAN: _("Redis holds what PostgreSQL says. There was nothing to do."),
        ReconciliationOutcome.REPAIRED: _("Everything that it found was dealt with."),
        ReconciliationOutcome.FINDINGS: _("Something is left for a person to decide."),
        ReconciliationOutcome.FAILED: _("It could not run to its end. What it did before is below, if anything."),
    }
    return str(texts.get(run.outcome, ""))


def _badge(run: Reconciliation) -> SafeString:
    return words.badge(_TONES.get(run.outcome, words.OFF), run.get_outcome_display())


def _begun_by(run: Reconciliation) -> SafeString:
    trigger = capfirst(run.get_trigger_display())
    limits = [_("dry run")] if run.dry_run else []
    limits += [_("only %s") % run.session_name] if run.session_name else []
    return format_html("{} ({})", trigger, ", ".join(limits)) if limits else format_html("{}", trigger)


def _counts(run: Reconciliation) -> SafeString:
    counts = run.counts if isinstance(run.counts, dict) else {}
    return format_html_join(
        ", ", "{}: {}", ((_KINDS.get(kind, kind), count) for kind, count in counts.items())
    )  # fmt: skip


def _duration(run: Reconciliation) -> str:
    if run.finished_at is None:
        return "-"
    seconds = (run.finished_at - run.started_at).total_seconds()
    return f"{number_format(seconds, 1)} s"


def _url(what: str) -> str:
    return reverse(f"admin:{APP}_reconciliation_{what}")
