"""The page of the audit: who did what to what, when, and to how many."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from sessions_app.admin import words
from sessions_app.admin.base import ListOnlyAdmin
from sessions_app.admin.lists import NewestFirstMixin, SinceFilter
from sessions_app.models import AuditEntry

# Acts are kept by their English names, so that one search finds them whoever looks.
_ACTIONS = (
    gettext_noop("create session"),
    gettext_noop("change session"),
    gettext_noop("delete session"),
    gettext_noop("pause session"),
    gettext_noop("resume session"),
    gettext_noop("stop session"),
    gettext_noop("start session"),
    gettext_noop("restart session"),
    gettext_noop("cancel message"),
    gettext_noop("retry message"),
    gettext_noop("resolve message as sent"),
    gettext_noop("resolve message as resend"),
    gettext_noop("resolve message as failed"),
    gettext_noop("cancel batch"),
    gettext_noop("archive orphan"),
    gettext_noop("restore orphan"),
    gettext_noop("purge orphan"),
    gettext_noop("export orphan"),
    gettext_noop("cancel task"),
    gettext_noop("run reconciliation"),
    gettext_noop("rotate secrets"),
    gettext_noop("create API key"),
    gettext_noop("revoke API key"),
    gettext_noop("add user"),
    gettext_noop("change user"),
    gettext_noop("delete user"),
    gettext_noop("add group"),
    gettext_noop("change group"),
    gettext_noop("delete group"),
)


class ActionFilter(admin.SimpleListFilter):
    """By what was done."""

    title = gettext_lazy("what")
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """The acts that there are."""
        return [(action, capfirst(gettext(action))) for action in _ACTIONS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Entries of that act."""
        return queryset.filter(action=self.value()) if self.value() in _ACTIONS else None


@admin.register(AuditEntry)
class AuditAdmin(NewestFirstMixin, ListOnlyAdmin):
    """Every act of a person, an API key or an operator's command."""

    position = 70
    list_display = ("at", "actor", "what", "target", "count", "details")
    list_filter = (SinceFilter, ActionFilter)
    search_fields = ("actor", "action", "target")
    search_help_text = gettext_lazy("A part of who, what or to what: a name, an act, a session or a message id.")
    empty_state = gettext_lazy(
        "Nobody has done anything yet. Every act of a person or an API key is written down here."
    )

    @admin.display(description=gettext_lazy("when"))
    def at(self, entry: AuditEntry) -> Any:
        """The time itself: an audit is read to the minute."""
        return words.exact(entry.created_at)

    @admin.display(description=gettext_lazy("what"))
    def what(self, entry: AuditEntry) -> str:
        """The act in words."""
        return capfirst(gettext(entry.action)) if entry.action else ""

    @admin.display(description=gettext_lazy("details"))
    def details(self, entry: AuditEntry) -> SafeString:
        """What else was written down."""
        data = entry.data if isinstance(entry.data, dict) else {}
        return format_html_join(" · ", "{}: {}", ((name, _plain(value)) for name, value in data.items()))


def _plain(value: Any) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
