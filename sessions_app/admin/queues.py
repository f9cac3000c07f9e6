"""The page of queues: every queue by name, of sessions and of none, with what PostgreSQL and Redis say of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, QueryDict
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.functional import cached_property
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from sessions_app.admin import session_acts, words
from sessions_app.admin.acts import Button
from sessions_app.admin.base import APP, RUN_RECONCILIATION, VIEW_ORPHAN
from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import DesiredState, Hold, Session
from sessions_app.services import orphans, queue_overview
from sessions_app.services.queue_overview import QueueView

if TYPE_CHECKING:
    from django.urls import URLPattern

_PER_PAGE = 100
_STATES = {
    "serving": Q(desired_state=DesiredState.ACTIVE, dispatch__hold=Hold.NONE),
    "held": Q(desired_state=DesiredState.ACTIVE) & ~Q(dispatch__hold=Hold.NONE),
    "paused": ~Q(desired_state=DesiredState.ACTIVE),
}


class QueueOptions:
    """What templates ask of a model, for what is none: queues are in Redis, and a table would be a lie."""

    app_label = APP
    model_name = "queue"
    object_name = "Queue"
    verbose_name_plural = gettext_lazy("queues")

    @property
    def app_config(self) -> Any:
        """The app."""
        return apps.get_app_config(APP)


@dataclass(frozen=True, slots=True)
class Row:
    """One queue as it stands on the page. `session_id` is empty for an orphan."""

    view: QueueView
    session: Session | None
    oldest_at: datetime | None

    @property
    def state(self) -> SafeString:
        """Its state in a word and a colour."""
        if self.session is None:
            return words.badge(words.WARN, _("ORPHAN"))
        return words.session_badge(self.session)

    @property
    def source(self) -> str:
        """Who made it."""
        return _("old service") if self.view.source == "legacy" else "RQ"

    @property
    def oldest(self) -> SafeString:
        """Since when its oldest message waits."""
        return words.moment(self.oldest_at)

    @property
    def next_due(self) -> SafeString:
        """When it is looked at next."""
        return words.moment(self.view.next_due_at)

    @property
    def done_about(self) -> str:
        """When the last message goes at the present pace."""
        return words.exact(self.view.estimated_done_at) if self.view.estimated_done_at else "-"


class QueuesPage:
    """One page of the queues, as asked for. A constant number of queries and round trips."""

    def __init__(self, asked: QueryDict, *, sees_orphans: bool) -> None:
        self.search = asked.get("q", "").strip().replace("\0", "")
        self.state = asked.get("state", "")
        self.has_redis = True
        self.hidden = 0
        try:
            ownerless = queue_overview.orphans()
        except QueueUnavailable:
            self.has_redis, ownerless = False, queue_overview.known_orphans()
        if not sees_orphans:
            self.hidden, ownerless = len(ownerless), []
        named: list[tuple[str, str, Any]] = [(name, "", pk) for pk, name in self._sessions()]
        named += [(view.session, view.place, view) for view in ownerless if self._is_asked_for(view)]
        named.sort(key=lambda entry: entry[:2])
        self.page = Paginator(named, _PER_PAGE).get_page(asked.get("p", 1))
        kept = asked.copy()
        kept.pop("p", None)
        self.kept = kept.urlencode()

    @property
    def is_filtered(self) -> bool:
        """Whether anything is left out."""
        return bool(self.search or self.state)

    @property
    def states(self) -> list[tuple[str, Any, bool]]:
        """The choices of the filter: value, words, chosen."""
        names = {
            "": _("All"), "orphan": _("orphans"), "serving": _("serving"), "held": _("held"),
            "paused": _("paused or stopped"),
        }  # fmt: skip
        return [(value, text, value == self.state) for value, text in names.items()]

    @cached_property
    def rows(self) -> list[Row]:
        """The queues of this page."""
        entries: list[Any] = list(self.page.object_list)
        keys = [what for *_, what in entries if not isinstance(what, QueueView)]
        sessions = {session.pk: session for session in Session.objects.filter(pk__in=keys).select_related("dispatch")}
        found = list(sessions.values())
        views = dict(zip(sessions, queue_overview.views(found), strict=True))
        oldest = self._oldest([what for *_, what in entries if isinstance(what, QueueView)])
        rows = []
        for *_name, what in entries:
            if isinstance(what, QueueView):
                rows.append(Row(what, None, oldest.get(what.key)))
            elif what in views:
                rows.append(Row(views[what], sessions[what], views[what].oldest_queued_at))
        return rows

    def _sessions(self) -> Sequence[tuple[int, str]]:
        if self.state and self.state not in _STATES:
            return []
        rows = Session.objects.alive().filter(_STATES.get(self.state, Q()))
        if self.search:
            rows = rows.filter(name__icontains=self.search)
        return list(rows.order_by().values_list("pk", "name"))

    def _is_asked_for(self, view: QueueView) -> bool:
        return self.state in ("", "orphan") and self.search.casefold() in view.queue.casefold()

    def _oldest(self, views: Sequence[QueueView]) -> dict[bytes, datetime | None]:
        if not (self.has_redis and views):
            return {}
        try:
            times = orphans.first_times([(view.key, view.source == "rq") for view in views])
        except QueueUnavailable:
            return {}
        return dict(zip((view.key for view in views), times, strict=True))


def address() -> str:
    """Where the page is."""
    return reverse(f"admin:{APP}_queue_changelist")


def is_visible(request: HttpRequest) -> bool:
    """Whether this person may see it."""
    return request.user.has_perm(f"{APP}.view_session")


def entry(request: HttpRequest) -> dict[str, Any] | None:
    """Its line among the pages of the app; None for whoever may not see it."""
    if not is_visible(request):
        return None
    return {
        "name": _("Queues"), "object_name": QueueOptions.object_name, "position": 15, "model": None,
        "admin_url": address(), "add_url": None, "view_only": True, "perms": {"view": True},
    }  # fmt: skip


def urls(site: admin.AdminSite) -> "list[URLPattern]":
    """Its address."""

    def view(request: HttpRequest) -> HttpResponse:
        return _show(request, site)

    return [path(f"{APP}/queue/", site.admin_view(view), name=f"{APP}_queue_changelist")]


def _show(request: HttpRequest, site: admin.AdminSite) -> HttpResponse:
    """The page. It only shows; its buttons lead to the questions of sessions and of reconciliation."""
    if not is_visible(request):
        raise PermissionDenied
    if request.method not in ("GET", "HEAD"):
        return HttpResponseNotAllowed(["GET"])
    may_operate = request.user.has_perm(session_acts.PAUSE.permission)
    sees_orphans = request.user.has_perm(VIEW_ORPHAN)
    tools = []
    if request.user.has_perm(RUN_RECONCILIATION) and request.user.has_perm(f"{APP}.view_reconciliation"):
        tools.append(Button(_("Reconcile now…"), reverse(f"admin:{APP}_reconciliation_dry_run")))
    request.current_app = site.name
    context = {
        **site.each_context(request),
        "opts": QueueOptions(),
        "title": _("Queues"),
        "subtitle": None,
        "buttons": tools,
        "queues": QueuesPage(request.GET, sees_orphans=sees_orphans),
        "acts": [
            (act, reverse(f"admin:{APP}_session_act", args=[act.name]))
            for act in (session_acts.PAUSE, session_acts.RESUME)
        ]
        if may_operate
        else [],
        "back": request.get_full_path(),
    }
    return TemplateResponse(request, f"admin/{APP}/queue/list.html", context)
