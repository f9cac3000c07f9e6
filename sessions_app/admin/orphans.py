"""The pages of orphans: the list, live and archived in one, and an orphan with its messages."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from sessions_app.admin import orphan_acts, words
from sessions_app.admin.acts import Act, ActsMixin, Button, Outcome
from sessions_app.admin.base import APP, PURGE_ORPHAN, RESTORE_ORPHAN, VIEW_CONTENT, require
from sessions_app.admin.lists import ChoiceFilter, NewestFirstChangeList, NewestFirstMixin, SessionNameFilter
from sessions_app.admin.orphan_export import export
from sessions_app.admin.orphan_page import OrphanPage, source_of, state_badge
from sessions_app.admin.orphan_purge import purge_view
from sessions_app.admin.orphan_restore import restore_view
from sessions_app.admin.phrases import said_in_turn
from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import UNRESOLVED, Orphan, OrphanSource, OrphanState, Session
from sessions_app.services import orphans

if TYPE_CHECKING:
    from django.urls import URLPattern

_SHOWN_NAME = 80


class OrphanChangeList(NewestFirstChangeList):
    """The list with what Redis holds of the live ones, read for the whole page at once."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page, then the lists of its live orphans."""
        super().get_results(request)
        rows = list(self.result_list)
        live = [row for row in rows if row.state == OrphanState.DETECTED and not row.staging_key]
        try:
            counts = orphans.waiting(rows)
            times = orphans.first_times([(bytes(row.key), row.source == OrphanSource.RQ) for row in live])
        except QueueUnavailable:
            return
        for row, count in zip(rows, counts, strict=True):
            row.messages = count
        for row, at in zip(live, times, strict=True):
            row.oldest_at = at


class OrphanStateFilter(admin.SimpleListFilter):
    """By state. Without one, those that wait for a person."""

    title = gettext_lazy("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """The states."""
        return [
            (OrphanState.DETECTED.value, gettext_lazy("in Redis")),
            (OrphanState.ARCHIVED.value, gettext_lazy("archived")),
            (OrphanState.RESTORED.value, gettext_lazy("restored")),
            (OrphanState.PURGED.value, gettext_lazy("purged")),
            (OrphanState.VANISHED.value, gettext_lazy("gone from Redis")),
            ("all", gettext_lazy("All")),
        ]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """The first one is not all of them."""
        for at, choice in enumerate(super().choices(changelist)):
            yield {**choice, "display": _("Waiting for a decision")} if at == 0 else choice

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Orphans in that state."""
        if self.value() == "all":
            return None
        return queryset.filter(state__in=[self.value()] if self.value() in OrphanState.values else UNRESOLVED)


class SourceFilter(ChoiceFilter):
    """By where they come from."""

    title = gettext_lazy("source")
    parameter_name = "source"
    values = OrphanSource


class OrphanNameFilter(SessionNameFilter):
    """By the whole name of the session that there is none of, typed."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """The names that wait."""
        names = Orphan.objects.unresolved().order_by("session_name").values_list("session_name", flat=True)
        self.names = list(dict.fromkeys(names[:200]))
        return []

    def narrow(self, queryset: QuerySet[Any], name: str) -> QuerySet[Any]:
        """Orphans of that name."""
        return queryset.filter(session_name=name)


@admin.register(Orphan)
class OrphanAdmin(ActsMixin, NewestFirstMixin):
    """Orphans."""

    position = 17
    acts = orphan_acts.ACTS
    list_display = ("name", "state_now", "held", "oldest", "seen", "origin", "resolved")
    list_filter = (OrphanStateFilter, SourceFilter, OrphanNameFilter)
    search_fields = ("queue",)
    search_help_text = gettext_lazy("A part of the name of the queue.")
    empty_state = gettext_lazy(
        "No orphan waits: every queue in Redis belongs to a session. Reconciliation looks every minute; to look now, "
        "go to the reconciliations."
    )
    confirm_columns = (
        gettext_lazy("Queue"), gettext_lazy("Session"), gettext_lazy("Source"), gettext_lazy("State"),
        gettext_lazy("Messages"), gettext_lazy("Oldest"),
    )  # fmt: skip

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """The list with what is in Redis."""
        return OrphanChangeList

    @admin.display(description=gettext_lazy("queue"))
    def name(self, orphan: Orphan) -> SafeString:
        """Its name, cut where somebody made it long."""
        short = Truncator(orphan.queue).chars(_SHOWN_NAME)
        return format_html('<span class="wa-name" title="{}">{}</span>', orphan.queue, short)

    @admin.display(description=gettext_lazy("state"))
    def state_now(self, orphan: Orphan) -> SafeString:
        """Where it is."""
        return state_badge(orphan)

    @admin.display(description=gettext_lazy("messages"))
    def held(self, orphan: Orphan) -> SafeString:
        """How many wait in it, and how many of them cannot be read: known once it was archived."""
        if not orphan.unreadable:
            return format_html("{}", orphan.messages)
        text = ngettext("%d unreadable", "%d unreadable", orphan.unreadable) % orphan.unreadable
        return format_html('{}<br><span class="wa-quiet">{}</span>', orphan.messages, text)

    @admin.display(description=gettext_lazy("source"))
    def origin(self, orphan: Orphan) -> str:
        """Where it comes from, in short."""
        return source_of(orphan)

    @admin.display(description=gettext_lazy("oldest"))
    def oldest(self, orphan: Orphan) -> SafeString:
        """How old its oldest message is."""
        return words.moment(orphan.oldest_at)

    @admin.display(description=gettext_lazy("seen since"))
    def seen(self, orphan: Orphan) -> SafeString:
        """Since when it is known."""
        return words.moment(orphan.first_seen_at)

    @admin.display(description=gettext_lazy("resolved"))
    def resolved(self, orphan: Orphan) -> SafeString:
        """Who decided, and what."""
        if not (orphan.resolved_by or orphan.resolution):
            return format_html("{}", "-")
        return format_html(
            '{} {}<br><span class="wa-quiet">{}</span>',
            orphan.resolved_by, words.moment(orphan.resolved_at, empty=""), said_in_turn(orphan.resolution),
        )  # fmt: skip

    def confirm_rows(self, request: HttpRequest, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """What it is, and the session that its name means."""
        names = set(Session.objects.alive().filter(name__in={row.session_name for row in rows}).values_list("name"))
        return [
            (
                Truncator(row.queue).chars(_SHOWN_NAME),
                row.session_name if (row.session_name,) in names else _("%s (does not exist)") % row.session_name,
                source_of(row), state_badge(row), count, words.moment(row.oldest_at),
            )
            for row, count in zip(rows, _counts(rows), strict=True)
        ]  # fmt: skip

    def confirm_extra(self, request: HttpRequest, act: Act, rows: Sequence[Any]) -> dict[str, Any]:
        """How many messages each holds: what the person is told is what is done, or nothing."""
        counts = _counts(rows)
        hidden = [("counts", ",".join(str(count) for count in counts))]
        return {"hidden": hidden, "typed": sum(counts)} if act is orphan_acts.PURGE else {"hidden": hidden}

    def warning(self, act: Act, rows: Sequence[Any]) -> str:
        """How many messages that is."""
        total = sum(_counts(rows))
        return ngettext("%d message in all.", "%d messages in all.", total) % total

    def objection(self, request: HttpRequest, act: Act) -> str:
        """A purge wants the number typed."""
        if act is orphan_acts.PURGE:
            total = sum(_counts_of(request).values())
            if request.POST.get("typed", "").strip() != str(total):
                return _("The number that you typed is not the number of messages. Nothing was deleted.")
        return ""

    def perform(self, request: HttpRequest, act: Act, keys: list[Any]) -> Outcome:
        """One service call an orphan; each counts its messages again."""
        told = _counts_of(request)
        tally = orphan_acts.perform(request, act, {key: told.get(str(key), -1) for key in keys})
        if tally.done and not (tally.tasks and not tally.messages):
            text = {
                "archive": ngettext("%d message was archived.", "%d messages were archived.", tally.messages),
                "restore": ngettext("%d message was restored.", "%d messages were restored.", tally.messages),
                "purge": ngettext("%d message was deleted.", "%d messages were deleted.", tally.messages),
            }[act.name]
            self.message_user(request, text % tally.messages, messages.SUCCESS)
        if tally.left:
            text = ngettext(
                "%d message stays: it was sent already or cannot be read.",
                "%d messages stay: they were sent already or cannot be read.",
                tally.left,
            )
            self.message_user(request, text % tally.left, messages.WARNING)
        if tally.tasks:
            self.message_user(request, _in_background(len(tally.tasks)), messages.INFO)
        if tally.is_redis_away:
            text = _("Redis cannot be reached, or is not this waqueue's: what is in it was not touched.")
            self.message_user(request, text, messages.ERROR)
        return tally.outcome

    def get_urls(self) -> "list[URLPattern]":
        """The pages that Django does not have."""
        wrap = self.admin_site.admin_view
        return [
            path("<uuid:key>/restore/", wrap(self.restore_view), name=f"{APP}_orphan_restore"),
            path("<uuid:key>/purge/", wrap(self.purge_view), name=f"{APP}_orphan_purge"),
            path("<uuid:key>/export/", wrap(self.export_view), name=f"{APP}_orphan_export"),
            *super().get_urls(),
        ]

    def page(self, request: HttpRequest, orphan: Orphan) -> HttpResponse:
        """The orphan with its messages."""
        page = OrphanPage(request, orphan)
        buttons = [button for button in self.buttons(request, orphan) if "/act/archive/" in button.url]
        if page.may_restore:
            buttons.append(Button(_("Restore"), _url("restore", orphan)))
        if page.is_waiting and request.user.has_perm(PURGE_ORPHAN):
            buttons.append(Button(_("Purge"), _url("purge", orphan), is_grave=True))
        context = {
            "title": Truncator(orphan.queue).chars(_SHOWN_NAME), "orphan": orphan, "page": page, "buttons": buttons,
            "export_url": _url("export", orphan) if request.user.has_perm(VIEW_CONTENT) else "",
            "restore_url": _url("restore", orphan) if page.may_restore else "",
            "purge_url": _url("purge", orphan) if page.may_purge_chosen else "",
        }  # fmt: skip
        return self.render(request, "orphan/page.html", context)

    def restore_view(self, request: HttpRequest, key: Any) -> HttpResponse:
        """Choose where to and which, see what will happen, then do it."""
        return restore_view(self, request, self.orphan(request, key, RESTORE_ORPHAN))

    def purge_view(self, request: HttpRequest, key: Any) -> HttpResponse:
        """Type how many, then do it."""
        return purge_view(self, request, self.orphan(request, key, PURGE_ORPHAN))

    def export_view(self, request: HttpRequest, key: Any) -> HttpResponse:
        """Take its messages along as a file."""
        return export(self, request, self.orphan(request, key, VIEW_CONTENT))

    def orphan(self, request: HttpRequest, key: Any, permission: str) -> Orphan:
        """The orphan of that key, for whoever may see it and holds `permission`."""
        require(request, permission)
        orphan: Orphan = self.row(request, key)
        return orphan


def _url(what: str, orphan: Orphan) -> str:
    return reverse(f"admin:{APP}_orphan_{what}", args=[orphan.pk])


def _counts(rows: Sequence[Orphan]) -> list[int]:
    """How many messages each holds, as far as it can be known now."""
    try:
        return orphans.waiting(rows)
    except QueueUnavailable:
        return [row.messages for row in rows]


def _counts_of(request: HttpRequest) -> dict[str, int]:
    """How many messages the person was told that each holds."""
    counts = request.POST.get("counts", "").split(",")
    keys = request.POST.get("ids", "").split(",")
    return {
        key: int(count)
        for key, count in zip(keys, counts, strict=False)
        if count.isascii() and count.isdigit() and len(count) < 12
    }


def _in_background(count: int) -> SafeString:
    text = ngettext(
        "%d is so large that it is done in the background.", "%d are so large that they are done in the background.",
        count,
    )  # fmt: skip
    where = reverse(f"admin:{APP}_backgroundtask_changelist")
    return format_html('{} <a href="{}">{}</a>', text % count, where, _("See how far it is"))
