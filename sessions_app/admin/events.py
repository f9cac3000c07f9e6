"""The page of events: the facts, as they were written."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy

from sessions_app.admin import words
from sessions_app.admin.base import APP, ListOnlyAdmin
from sessions_app.admin.lists import ChoiceFilter, NewestFirstMixin, SessionNameFilter
from sessions_app.admin.timeline import of_event
from sessions_app.models import Event, EventKind


class KindFilter(ChoiceFilter):
    """By kind."""

    title = gettext_lazy("kind")
    parameter_name = "kind"
    values = EventKind

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """All kinds, as the list writes them."""
        return [(value, capfirst(label)) for value, label in super().lookups(request, model_admin)]


@admin.register(Event)
class EventAdmin(NewestFirstMixin, ListOnlyAdmin):
    """Events."""

    position = 50
    list_filter = (SessionNameFilter, KindFilter)
    list_select_related = ("session",)
    empty_state = gettext_lazy("Nothing has happened yet. Events appear as soon as there is a session.")

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """Details with or without phones, by permission."""
        details = "details" if words.may_read(request) else "masked_details"
        message = "message_link" if request.user.has_perm(f"{APP}.view_message") else "message_tail"
        return ["at", "what", "of_session", message, "by", details]

    @admin.display(description=gettext_lazy("when"))
    def at(self, event: Event) -> SafeString:
        """When it happened."""
        return words.moment(event.created_at)

    @admin.display(description=gettext_lazy("what"))
    def what(self, event: Event) -> str:
        """Its kind in words."""
        return capfirst(event.get_kind_display())

    @admin.display(description=gettext_lazy("session"), empty_value="-")
    def of_session(self, event: Event) -> str | None:
        """The name of its session."""
        return event.session.name if event.session else None

    @admin.display(description=gettext_lazy("message"))
    def message_link(self, event: Event) -> SafeString:
        """Its message, with the way to it."""
        return words.message_tail(event.message_id, linked=True)

    @admin.display(description=gettext_lazy("message"))
    def message_tail(self, event: Event) -> SafeString:
        """Its message, for whoever may not see messages."""
        return words.message_tail(event.message_id, linked=False)

    @admin.display(description=gettext_lazy("by"), empty_value="-")
    def by(self, event: Event) -> str | None:
        """Who acted, if somebody did."""
        return of_event(event, readable=False).by or None

    @admin.display(description=gettext_lazy("details"))
    def details(self, event: Event) -> SafeString:
        """What else there is to say."""
        return _details(event, readable=True)

    @admin.display(description=gettext_lazy("details"))
    def masked_details(self, event: Event) -> SafeString:
        """The same without phones."""
        return _details(event, readable=False)


def _details(event: Event, *, readable: bool) -> SafeString:
    return format_html_join(" · ", "{}: {}", of_event(event, readable=readable).facts)
