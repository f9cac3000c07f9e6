"""The pages of sessions: the list, a session, its settings, adding and deleting one, and the big red button."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from sessions_app.admin import session_acts, session_orphans, words
from sessions_app.admin.acts import Act, ActsMixin, Button, Outcome
from sessions_app.admin.base import APP, actor_of, require
from sessions_app.admin.forms import NewSessionForm, SessionForm
from sessions_app.admin.session_page import SessionPage, deletion
from sessions_app.exceptions import InvalidInput, SessionExists, SessionHasUnsentMessages, SessionNotFound
from sessions_app.models import DesiredState, Hold, ObservedState, Session
from sessions_app.services import queue_overview
from sessions_app.services import sessions as service
from sessions_app.transports import registry

if TYPE_CHECKING:
    from django.urls import URLPattern

# More sessions than one waqueue serves.
_EVERYTHING_AT_MOST = 1_000_000


class SessionChangeList(ChangeList):
    """The list with each session's queue beside it, read for the whole page at once."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page, then the queues of its sessions."""
        super().get_results(request)
        self.result_list = list(self.result_list)
        for session, queue in zip(self.result_list, queue_overview.views(self.result_list), strict=True):
            session.queue = queue


class StateFilter(admin.SimpleListFilter):
    """By what keeps a session from sending. Deleted ones are only shown when they are asked for."""

    title = gettext_lazy("state")
    parameter_name = "state"
    states = {
        "serving": Q(deleted_at=None, desired_state=DesiredState.ACTIVE, dispatch__hold=Hold.NONE),
        "held": Q(deleted_at=None, desired_state=DesiredState.ACTIVE) & ~Q(dispatch__hold=Hold.NONE),
        "paused": Q(deleted_at=None, desired_state=DesiredState.PAUSED),
        "stopped": Q(deleted_at=None, desired_state=DesiredState.STOPPED),
        "deleted": Q(deleted_at__isnull=False),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """The states."""
        return [
            ("serving", gettext_lazy("serving")),
            ("held", gettext_lazy("held")),
            ("paused", gettext_lazy("paused")),
            ("stopped", gettext_lazy("stopped")),
            ("deleted", gettext_lazy("deleted")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those in that state; without one, all that are not deleted."""
        return queryset.filter(self.states.get(self.value() or "", Q(deleted_at=None)))


class TransportFilter(admin.SimpleListFilter):
    """By transport."""

    title = gettext_lazy("transport")
    parameter_name = "transport"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Those that this waqueue knows; one alone is no choice."""
        choices: list[tuple[str, Any]] = [(name, _(title)) for name, title in registry.choices()]
        return choices if len(choices) > 1 else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Sessions on that transport."""
        return queryset.filter(transport=self.value()) if self.value() else None


@admin.register(Session)
class SessionAdmin(ActsMixin):
    """Sessions."""

    position = 10
    acts = session_acts.ACTS
    list_display = ("name", "state", "depth", "in_flight", "oldest", "last_sent", "transport")
    list_filter = (StateFilter, TransportFilter)
    list_select_related = ("dispatch",)
    search_fields = ("name", "phone")
    search_help_text = gettext_lazy("A part of the name or of the phone.")
    empty_state = gettext_lazy(
        "There is no session yet. A session is one WhatsApp number. Add the first one: messages are sent through it."
    )
    confirm_columns = (gettext_lazy("Session"), gettext_lazy("State"), gettext_lazy("Waiting"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Whoever holds Django's own add permission."""
        return request.user.has_perm(f"{APP}.add_session")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever holds Django's own change permission; a deleted session is history."""
        return request.user.has_perm(f"{APP}.change_session") and (obj is None or obj.deleted_at is None)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever holds Django's own delete permission; a deleted session is deleted already."""
        return request.user.has_perm(f"{APP}.delete_session") and (obj is None or obj.deleted_at is None)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may view or change sessions."""
        return super().has_view_permission(request, obj) or request.user.has_perm(f"{APP}.change_session")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """The list with queues."""
        return SessionChangeList

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """The list, with the two buttons that touch every session."""
        tools = []
        if request.user.has_perm(session_acts.PAUSE.permission):
            every = session_acts.EVERYTHING.values()
            tools = [Button(act.label, self._everything_url(act), act.is_grave) for act in every]
        return super().changelist_view(request, {"tools": tools, **(extra_context or {})})

    @admin.display(description=gettext_lazy("state"), ordering="desired_state")
    def state(self, session: Any) -> SafeString:
        """What it does now; below it why it is held, or what people want and the engine says where that differs."""
        badge, dispatch = words.session_badge(session), session.dispatch
        is_active = session.desired_state == DesiredState.ACTIVE
        if session.deleted_at is not None:
            return badge
        if is_active and dispatch.hold != Hold.NONE:
            reason = Truncator(words.unphoned(dispatch.hold_reason, readable=False)).chars(120)
            return format_html(
                '{} {}<br>{}<br><span class="wa-quiet">{}</span>',
                badge, words.moment(dispatch.held_at), dispatch.get_hold_display(), reason,
            )  # fmt: skip
        if is_active and session.observed_state == ObservedState.WORKING:
            return badge
        wanted = _("wanted: %s") % session.get_desired_state_display()
        observed = _("engine: %s") % session.get_observed_state_display()
        return format_html('{}<br><span class="wa-quiet">{}<br>{}</span>', badge, wanted, observed)

    @admin.display(description=gettext_lazy("waiting"))
    def depth(self, session: Any) -> int:
        """How many messages stand in its line."""
        return cast("int", session.queue.depth)

    @admin.display(description=gettext_lazy("in flight"))
    def in_flight(self, session: Any) -> int:
        """How many are on their way just now."""
        return cast("int", session.queue.in_flight)

    @admin.display(description=gettext_lazy("oldest waits since"))
    def oldest(self, session: Any) -> SafeString:
        """Since when the oldest message of its line waits."""
        return words.moment(session.queue.oldest_queued_at)

    @admin.display(description=gettext_lazy("last sent"), ordering="dispatch__last_sent_at")
    def last_sent(self, session: Any) -> SafeString:
        """When it last sent anything."""
        return words.moment(session.dispatch.last_sent_at)

    def confirm_rows(self, request: HttpRequest, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """Name, state and what waits."""
        return [
            (session.name, words.session_badge(session), queue.depth)
            for session, queue in zip(rows, queue_overview.views(rows), strict=True)
        ]

    def perform(self, request: HttpRequest, act: Act, keys: list[Any]) -> Outcome:
        """Lock those that still fit, and act on them."""
        with transaction.atomic():
            fitting = Session.objects.filter(act.fits, pk__in=keys).select_for_update(of=("self",)).order_by("pk")
            ids = [session.pk for session in fitting]
            done = service.act_on(ids, cast("service.Act", act.name), actor=actor_of(request))
        return Outcome(done, len(keys) - done)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With what dispatch knows: every page says it."""
        return super().get_queryset(request).select_related("dispatch")

    def get_urls(self) -> "list[URLPattern]":
        """The pages that Django does not have."""
        wrap = self.admin_site.admin_view
        return [
            path("everything/<slug:what>/", wrap(self.everything_view), name=f"{APP}_session_everything"),
            path("<int:key>/settings/", wrap(self.settings_view), name=f"{APP}_session_settings"),
            *super().get_urls(),
        ]

    def everything_view(self, request: HttpRequest, what: str) -> HttpResponse:
        """Pause every active session or resume every paused one: ask, then do it to whatever fits at that moment."""
        act = session_acts.EVERYTHING.get(what)
        if act is None:
            raise Http404
        require(request, act.permission)
        if request.method == "POST" and request.POST.get("confirmed") == "yes":
            done = service.act_on_all(cast("Any", act.name), actor=actor_of(request))
            self.report(request, act, Outcome(done))
            if (asked := request.POST.get("expected", "")) != str(done):
                text = _("There were %s when you were asked; others came or went meanwhile.") % asked
                self.message_user(request, text, messages.INFO)
            return HttpResponseRedirect(self._list_url())
        url, every = self._everything_url(act), self.get_queryset(request)
        return self.ask_about(request, act, every, self._list_url(), url=url, most=_EVERYTHING_AT_MOST)

    def page(self, request: HttpRequest, session: Session) -> HttpResponse:
        """The session, deleted or not, as this person may read it."""
        buttons = self.buttons(request, session)
        if self.has_change_permission(request, session):
            buttons.append(Button(_("Settings"), self._url("settings", session.pk)))
        if self.has_delete_permission(request, session):
            buttons.append(Button(_("Delete"), self._url("delete", session.pk), is_grave=True))
        page = SessionPage(request, session)
        return self.render(
            request, "session/page.html", {"title": session.name, "session": session, "buttons": buttons, "page": page}
        )

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Choose a transport where there are several, then fill in what that transport needs."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        chosen = request.GET.get("transport", registry.names()[0] if len(registry.names()) == 1 else "")
        if chosen not in registry.names():
            # Whoever came with a name, from an orphan that bears it, keeps it.
            given = {key: request.GET[key] for key in ("name", "orphan") if key in request.GET}
            choices = [(urlencode({"transport": key} | given), _(title)) for key, title in registry.choices()]
            return self.render(request, "session/choose.html", {"title": _("Add a session"), "transports": choices})
        transport = registry.get(chosen)
        initial = SessionForm.initial_of(transport, None) | {"name": request.GET.get("name", "")}
        form = NewSessionForm(transport, request.POST or None, initial=initial)
        if request.method == "POST" and form.is_valid():
            name = form.cleaned_data["name"]
            state = DesiredState.PAUSED if form.cleaned_data["start_paused"] else DesiredState.ACTIVE
            left = session_orphans.left_to_choose(request, name)
            try:
                session, adopted = service.create(
                    name=name, transport=chosen, config=form.config, pacing=form.pacing, desired_state=state,
                    on_uncertain=form.cleaned_data["on_uncertain"], actor=actor_of(request),
                    leave=left.pk if left else None,
                )  # fmt: skip
            except InvalidInput as error:
                form.refuse(error)
            except SessionExists:
                form.add_error("name", _("There is a session of that name already."))
            else:
                if adopted is not None:
                    self.message_user(request, _("The session %s was added.") % name, messages.SUCCESS)
                    session_orphans.tell_adopted(request, adopted)
                else:
                    self.message_user(request, _("The session %s was there already, just so.") % name, messages.INFO)
                if left is not None:
                    return HttpResponseRedirect(reverse(f"admin:{APP}_orphan_restore", args=[left.pk]))
                return HttpResponseRedirect(self._url("change", session.pk))
        return self._form_page(request, form, title=_("Add a session"), submit=_("Add the session"))

    def settings_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """Change pace, policy and the transport's settings; name and transport stay."""
        session: Session = self.row(request, key)
        if not self.has_change_permission(request, session):
            raise PermissionDenied
        transport = registry.get(session.transport)
        initial = SessionForm.initial_of(transport, session)
        form = SessionForm(transport, request.POST or None, initial=initial, session=session)
        if request.method == "POST" and form.is_valid():
            try:
                service.update(
                    session, config=form.config, pacing=form.pacing, on_uncertain=form.cleaned_data["on_uncertain"],
                    actor=actor_of(request),
                )  # fmt: skip
            except InvalidInput as error:
                form.refuse(error)
            except SessionNotFound:
                self.message_user(request, _("The session was deleted meanwhile."), messages.ERROR)
                return HttpResponseRedirect(self._url("change", session.pk))
            else:
                text = _("The settings of %s were saved. They hold from the next message on.") % session.name
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(self._url("change", session.pk))
        return self._form_page(
            request, form, title=_("Settings of %s") % session.name, submit=_("Save"), session=session
        )

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Say how much is not sent, let the person choose what becomes of it, count again, delete."""
        session: Session = self.row(request, object_id)
        if not self.has_delete_permission(request, session):
            raise PermissionDenied
        found = deletion(session)
        problem = ""
        if request.method == "POST":
            choice = request.POST.get("unsent") if request.POST.get("unsent") in ("cancel", "orphan") else "refuse"
            if choice != "refuse" and request.POST.get("expected") != str(found.unsent):
                problem = _("The number of unsent messages has changed since you looked. Look again.")
            else:
                try:
                    done = service.delete(session, actor=actor_of(request), unsent=cast("Any", choice))
                except SessionHasUnsentMessages:
                    found = deletion(session)
                    problem = _("It was not deleted: it still has messages to send.")
                except SessionNotFound:
                    self.message_user(request, _("The session was deleted meanwhile."), messages.WARNING)
                    return HttpResponseRedirect(self._list_url())
                else:
                    session_orphans.tell_deleted(request, session, done)
                    return HttpResponseRedirect(self._list_url())
        context = {
            "title": _("Delete %s?") % session.name,
            "session": session, "found": found, "problem": problem, "back": self._url("change", session.pk),
        }  # fmt: skip
        return self.render(request, "session/delete.html", context)

    def _form_page(
        self, request: HttpRequest, form: SessionForm, *, title: str, submit: str, session: Session | None = None
    ) -> HttpResponse:
        context = {
            "title": title, "submit": submit, "session": session, "transport": _(form.transport.title), "form": form,
            "adminform": AdminForm(cast("Any", form), form.fieldsets(), {}),
            "back": self._list_url() if session is None else self._url("change", session.pk),
        }  # fmt: skip
        return self.render(request, "session/form.html", context)

    def _everything_url(self, act: Act) -> str:
        return reverse(f"admin:{APP}_session_everything", args=[act.name], current_app=self.admin_site.name)

    def _url(self, what: str, key: Any) -> str:
        return reverse(f"admin:{APP}_session_{what}", args=[key], current_app=self.admin_site.name)
