"""The pages of messages: the list, and a message with its time line."""

import re
import uuid
from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from sessions_app.admin import message_acts, words
from sessions_app.admin.acts import Act, ActsMixin, Outcome
from sessions_app.admin.base import APP, actor_of
from sessions_app.admin.lists import ChoiceFilter, NewestFirstMixin, SessionNameFilter, SinceByKeyFilter
from sessions_app.admin.message_page import MessagePage
from sessions_app.exceptions import InvalidInput
from sessions_app.models import Message, Status
from sessions_app.services import phones

_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


class StatusFilter(ChoiceFilter):
    """By status, what needs a person first."""

    title = gettext_lazy("status")
    parameter_name = "status"
    values = (
        Status.UNCERTAIN, Status.FAILED, Status.QUEUED, Status.SENDING, Status.SCHEDULED,
        Status.SENT, Status.DELIVERED, Status.READ, Status.EXPIRED, Status.CANCELLED, Status.ORPHANED,
    )  # fmt: skip


class BatchFilter(admin.SimpleListFilter):
    """By batch. Nobody types an id: the page of a batch leads here, and the filter shows only how to leave it."""

    title = gettext_lazy("batch")
    parameter_name = "batch"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """The batch that was asked for."""
        asked = request.GET.get("batch", "")
        return [(asked, f"…{asked[-8:]}")] if asked else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Messages of that batch; none of what is no batch at all."""
        asked = self.value()
        if asked is None:
            return None
        return queryset.filter(batch_id=uuid.UUID(asked)) if _UUID.fullmatch(asked) else queryset.none()


@admin.register(Message)
class MessageAdmin(ActsMixin, NewestFirstMixin):
    """Messages: millions of them, so nothing here counts them or looks inside them."""

    position = 20
    acts = message_acts.ACTS
    list_filter = (StatusFilter, SessionNameFilter, SinceByKeyFilter, BatchFilter)
    list_select_related = ("session",)
    search_fields = ("id",)
    search_help_text = gettext_lazy(
        "A whole phone in any spelling, a whole message id, or a whole client reference. "
        "Parts are not searched: among millions of messages that would take minutes."
    )
    empty_state = gettext_lazy(
        "No message was handed in yet. Messages come in by the API: make an API key, then send the first one as the "
        "README shows."
    )
    confirm_columns = (
        gettext_lazy("Status"), gettext_lazy("Session"), gettext_lazy("To"), gettext_lazy("Accepted"),
    )  # fmt: skip

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """Recipients and texts in full or masked, by permission."""
        if words.may_read(request):
            return ["to", "state", "content", "in_session", "accepted", "attempts"]
        return ["masked_to", "masked_state", "masked_content", "in_session", "accepted", "attempts"]

    @admin.display(description=gettext_lazy("to"))
    def to(self, message: Message) -> str:
        """The recipient."""
        return message.recipient

    @admin.display(description=gettext_lazy("to"))
    def masked_to(self, message: Message) -> str:
        """The recipient, masked."""
        return words.phone(message.recipient, readable=False)

    @admin.display(description=gettext_lazy("text"))
    def content(self, message: Message) -> SafeString:
        """What it says, shortened."""
        return words.content(message.content(), readable=True)

    @admin.display(description=gettext_lazy("text"))
    def masked_content(self, message: Message) -> SafeString:
        """That it says something."""
        return words.content({}, readable=False)

    @admin.display(description=gettext_lazy("status"))
    def state(self, message: Message) -> SafeString:
        """Its status, and what went wrong."""
        return _state(message, readable=True)

    @admin.display(description=gettext_lazy("status"))
    def masked_state(self, message: Message) -> SafeString:
        """The same without the phones that engines put into their errors."""
        return _state(message, readable=False)

    @admin.display(description=gettext_lazy("session"))
    def in_session(self, message: Message) -> str:
        """The name of its session."""
        return message.session.name

    @admin.display(description=gettext_lazy("accepted"))
    def accepted(self, message: Message) -> SafeString:
        """How long ago it was accepted."""
        return words.moment(message.created_at)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Whole values only: each is one look into an index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if _UUID.fullmatch(term):
            return queryset.filter(Q(pk=uuid.UUID(term)) | Q(client_ref=term)), False
        asked = Q(client_ref=term)
        if spellings := _spellings(term):
            asked |= Q(recipient__in=spellings)
        return queryset.filter(asked), False

    def confirm_rows(self, request: HttpRequest, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """Enough to recognise a message by."""
        readable = words.may_read(request)
        return [
            (
                words.status_badge(message),
                message.session.name,
                words.phone(message.recipient, readable=readable),
                words.moment(message.created_at),
            )
            for message in rows
        ]

    def warning(self, act: Act, rows: Sequence[Any]) -> str:
        """How many sessions it concerns, when it is more than one; and what may kill a worker once more."""
        said = []
        sessions = len({message.session_id for message in rows})
        if sessions > 1:
            said.append(ngettext("They are in %d session.", "They are in %d sessions.", sessions) % sessions)
        suspects = sum(1 for message in rows if message.deaths)
        if suspects and act is message_acts.RESEND:
            text = ngettext(
                "The worker died while %d of them was being sent: it is tried alone.",
                "The worker died while %d of them were being sent: each is tried alone.",
                suspects,
            )
            said.append(text % suspects)
        return " ".join(said)

    def perform(self, request: HttpRequest, act: Act, keys: list[Any]) -> Outcome:
        """One service call a message; each checks the state again."""
        return message_acts.perform(act, keys, actor_of(request))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With their sessions: every page says them."""
        return super().get_queryset(request).select_related("session")

    def page(self, request: HttpRequest, message: Message) -> HttpResponse:
        """The message with its time line."""
        context = {
            "title": _("Message"),
            "page": MessagePage(request, message),
            "message_row": message,
            "buttons": self.buttons(request, message),
            "may_see_session": request.user.has_perm(f"{APP}.view_session"),
        }
        return self.render(request, "message/page.html", context)


def _state(message: Message, *, readable: bool) -> SafeString:
    badge = words.status_badge(message)
    if not message.error_detail or message.status not in (Status.FAILED, Status.UNCERTAIN, Status.QUEUED):
        return badge
    error = Truncator(words.unphoned(message.error_detail, readable=readable)).chars(80)
    return format_html('{}<br><span class="wa-quiet">{}</span>', badge, error)


def _spellings(term: str) -> set[str]:
    """Every way in which a phone that somebody typed can stand in the database; none if it is no phone."""
    try:
        normal = phones.normalise(term)
    except InvalidInput:
        return set()
    digits = normal.removeprefix("+")
    typed = "".join(character for character in term if character.isdigit())
    return {normal, digits, f"+{digits}", typed, f"+{typed}"}
