"""The page of what the loopback transport was asked to send."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from sessions_app.admin import words
from sessions_app.admin.base import APP, ListOnlyAdmin
from sessions_app.admin.lists import NewestFirstMixin, SessionNameFilter
from sessions_app.models import LoopbackEntry


class LoopbackSessionFilter(SessionNameFilter):
    """By the name itself: loopback keeps what it was told, as an engine would."""

    def narrow(self, queryset: QuerySet[Any], name: str) -> QuerySet[Any]:
        """Entries of sessions of that name."""
        return queryset.filter(session_name=name)


@admin.register(LoopbackEntry)
class LoopbackAdmin(NewestFirstMixin, ListOnlyAdmin):
    """What loopback keeps."""

    position = 40
    list_filter = (LoopbackSessionFilter,)
    empty_state = gettext_lazy(
        "Loopback was not asked to send anything yet. Add a session with the loopback transport and send it a message: "
        "it is shown here, in order, and goes nowhere."
    )

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """Recipients and texts in full or masked, by permission."""
        shown = ["to", "text"] if words.may_read(request) else ["masked_to", "masked_text"]
        message = "message_link" if request.user.has_perm(f"{APP}.view_message") else "message_tail"
        return ["id", "at", *shown, "answered", "session_name", message]

    @admin.display(description=gettext_lazy("when"))
    def at(self, entry: LoopbackEntry) -> SafeString:
        """When it was handed over."""
        return words.moment(entry.created_at)

    @admin.display(description=gettext_lazy("to"))
    def to(self, entry: LoopbackEntry) -> str:
        """The recipient."""
        return str(_content(entry).get("to", ""))

    @admin.display(description=gettext_lazy("to"))
    def masked_to(self, entry: LoopbackEntry) -> str:
        """The recipient, masked."""
        return words.phone(self.to(entry), readable=False)

    @admin.display(description=gettext_lazy("text"))
    def text(self, entry: LoopbackEntry) -> SafeString:
        """What it says, shortened."""
        return words.content(_content(entry), readable=True)

    @admin.display(description=gettext_lazy("text"))
    def masked_text(self, entry: LoopbackEntry) -> SafeString:
        """That it says something."""
        return words.content({}, readable=False)

    @admin.display(description=gettext_lazy("message"))
    def message_link(self, entry: LoopbackEntry) -> SafeString:
        """Its message, with the way to it."""
        return words.message_tail(entry.message_id, linked=True)

    @admin.display(description=gettext_lazy("message"))
    def message_tail(self, entry: LoopbackEntry) -> SafeString:
        """Its message, for whoever may not see messages."""
        return words.message_tail(entry.message_id, linked=False)

    @admin.display(description=gettext_lazy("answered"))
    def answered(self, entry: LoopbackEntry) -> SafeString:
        """What loopback answered."""
        texts = {
            "accepted": (words.OK, _("accepted")),
            "rejected": (words.BAD, _("refused for good")),
            "retry": (words.WARN, _("refused for now")),
            "not_connected": (words.WARN, _("not connected")),
            "refused": (words.BAD, _("session refused")),
            "uncertain": (words.WARN, _("nobody knows")),
        }
        return words.badge(*texts.get(entry.outcome, (words.OFF, entry.outcome)))


def _content(entry: LoopbackEntry) -> dict[str, Any]:
    return entry.content if isinstance(entry.content, dict) else {}
