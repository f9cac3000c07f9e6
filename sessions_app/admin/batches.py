"""The pages of batches: how far each is, and the way to cancel its rest."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, ngettext_lazy

from sessions_app.admin import words
from sessions_app.admin.acts import Act, ActsMixin, Outcome
from sessions_app.admin.base import APP, OPERATE_BATCH, actor_of
from sessions_app.admin.lists import NewestFirstChangeList, NewestFirstMixin, SessionNameFilter, SinceByKeyFilter
from sessions_app.exceptions import NotFound
from sessions_app.models import UNSENT, Batch, BatchState, Message, Status
from sessions_app.services import batches

# Each may be ten thousand messages, and the person waits for all of them.
_AT_ONCE = 20
_WAITING = (Status.QUEUED, Status.SCHEDULED)
_TONES: dict[str, str] = {
    BatchState.QUEUED: words.BUSY,
    BatchState.SENDING: words.BUSY,
    BatchState.DONE: words.OK,
    BatchState.CANCELLED: words.OFF,
}

CANCEL = Act(
    name="cancel",
    label=gettext_lazy("Cancel the rest"),
    permission=OPERATE_BATCH,
    question=ngettext_lazy("Cancel the rest of %d batch?", "Cancel the rest of %d batches?"),
    report=ngettext_lazy("The rest of %d batch was cancelled.", "The rest of %d batches was cancelled."),
    effect=gettext_lazy(
        "What is queued or scheduled is never sent. It cannot be undone. What is on its way already is not touched. "
        "What waits to be sent again because nobody knows whether it arrived becomes uncertain instead."
    ),
    fits=Q(Exists(Message.objects.filter(batch_id=OuterRef("pk"), status__in=_WAITING))),
    is_grave=True,
)


class BatchChangeList(NewestFirstChangeList):
    """The list with how far each batch is, counted for the whole page at once."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page, then the counts of its batches."""
        super().get_results(request)
        _count(self.result_list)


@admin.register(Batch)
class BatchAdmin(ActsMixin, NewestFirstMixin):
    """Batches."""

    position = 21
    acts = (CANCEL,)
    list_display = ("handed_in", "state", "in_session", "progress", "failed", "rejected", "created_by")
    list_filter = (SessionNameFilter, SinceByKeyFilter)
    list_per_page = 50
    search_fields = ("id",)
    search_help_text = gettext_lazy("A whole batch id.")
    empty_state = gettext_lazy(
        "No batch was handed in yet. Batches come in by the API: up to 10,000 messages in one request."
    )
    confirm_columns = (
        gettext_lazy("Handed in"), gettext_lazy("Session"), gettext_lazy("Progress"), gettext_lazy("Will be cancelled"),
    )  # fmt: skip

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """The list with counts."""
        return BatchChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With their sessions: every page says them."""
        return super().get_queryset(request).select_related("session")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """A whole id, or nothing."""
        if not search_term.strip():
            return queryset, False
        try:
            return queryset.filter(pk=uuid.UUID(search_term.strip())), False
        except ValueError:
            return queryset.none(), False

    @admin.display(description=gettext_lazy("handed in"))
    def handed_in(self, batch: Batch) -> SafeString:
        """How long ago."""
        return words.moment(batch.created_at)

    @admin.display(description=gettext_lazy("state"))
    def state(self, batch: Any) -> SafeString:
        """How it stands."""
        return _badge(batch, batch.counts)

    @admin.display(description=gettext_lazy("session"))
    def in_session(self, batch: Batch) -> str:
        """The name of its session."""
        return batch.session.name

    @admin.display(description=gettext_lazy("progress"))
    def progress(self, batch: Any) -> str:
        """How much of it does not wait any more."""
        return _progress(batch, batch.counts)

    @admin.display(description=gettext_lazy("failed"))
    def failed(self, batch: Any) -> SafeString:
        """How many need a look."""
        found = [
            words.badge(tone, f"{batch.counts[status]} {status.label}")
            for status, tone in ((Status.FAILED, words.BAD), (Status.UNCERTAIN, words.WARN))
            if batch.counts.get(status)
        ]
        return format_html("{}" * len(found), *found) if found else format_html("{}", "-")

    def ask_about(
        self, request: HttpRequest, act: Act, chosen: QuerySet[Any], back: str, *, url: str = "", most: int = _AT_ONCE
    ) -> HttpResponse:
        """Fewer in one go than of other rows."""
        return super().ask_about(request, act, chosen, back, url=url, most=most)

    def confirm_rows(self, request: HttpRequest, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """How far each is, and how much of it will never be sent."""
        _count(rows)
        return [
            (
                words.moment(batch.created_at),
                batch.session.name,
                _progress(batch, batch.counts),
                sum(batch.counts.get(status, 0) for status in _WAITING),
            )
            for batch in rows
        ]

    def perform(self, request: HttpRequest, act: Act, keys: list[Any]) -> Outcome:
        """Cancel what each still has to send by now."""
        if len(keys) > _AT_ONCE:
            raise PermissionDenied(_("At most %d in one go.") % _AT_ONCE)
        done = cancelled = 0
        for key in keys:
            try:
                count = batches.cancel(key, actor=actor_of(request)).cancelled
            except NotFound:
                continue
            done += bool(count)
            cancelled += count
        if cancelled:
            text = ngettext("%d message was cancelled.", "%d messages were cancelled.", cancelled)
            self.message_user(request, text % cancelled, messages.SUCCESS)
        return Outcome(done, len(keys) - done)

    def page(self, request: HttpRequest, row: Batch) -> HttpResponse:
        """How far it is. It renews itself while there is something to see."""
        batch = batches.get(row.pk)
        counts = Message.objects.counted_by_batch([batch.pk])[batch.pk]
        is_open = batch.state(counts) in (BatchState.QUEUED, BatchState.SENDING)
        at = batches.estimated_done_at(batch, timezone.now())
        context = {
            "title": _("Batch"), "batch": batch, "badge": _badge(batch, counts), "progress": _progress(batch, counts),
            "percent": 100 * _gone(batch, counts) // batch.accepted if batch.accepted else 100,
            "is_open": is_open, "done_at": words.exact(at) if at else "",
            "counts": list(_counts(request, batch, counts)), "facts": list(_facts(request, batch)),
            "buttons": self.buttons(request, batch),
        }  # fmt: skip
        return self.render(request, "batch/page.html", context)


def _count(rows: Sequence[Any]) -> None:
    counts = Message.objects.counted_by_batch(row.pk for row in rows)
    for row in rows:
        row.counts = counts[row.pk]


def _gone(batch: Batch, counts: Mapping[str, int]) -> int:
    return batch.accepted - sum(counts.get(status, 0) for status in UNSENT)


def _progress(batch: Batch, counts: Mapping[str, int]) -> str:
    return _("%(done)d of %(total)d") % {"done": _gone(batch, counts), "total": batch.accepted}


def _badge(batch: Batch, counts: Mapping[str, int]) -> SafeString:
    state = batch.state(counts)
    return words.badge(_TONES[state], state.label)


def _counts(request: HttpRequest, batch: Batch, counts: Mapping[str, int]) -> Iterator[tuple[str, SafeString]]:
    """How many are in which status, each with the way to them."""
    where = reverse(f"admin:{APP}_message_changelist")
    for status in Status:
        if not counts.get(status):
            continue
        if request.user.has_perm(f"{APP}.view_message"):
            query = urlencode({"batch": str(batch.pk), "status": status.value})
            yield str(status.label), format_html('<a href="{}?{}">{}</a>', where, query, counts[status])
        else:
            yield str(status.label), format_html("{}", counts[status])


def _facts(request: HttpRequest, batch: Batch) -> Iterator[tuple[str, Any]]:
    session = batch.session
    name = f"{session.name} ({_('deleted')})" if session.deleted_at else session.name
    if request.user.has_perm(f"{APP}.view_session"):
        where = reverse(f"admin:{APP}_session_change", args=[session.pk])
        yield _("Session"), format_html('<a href="{}">{}</a>', where, name)
    else:
        yield _("Session"), name
    yield _("Handed in"), words.exact(batch.created_at, seconds=True)
    yield _("Who"), batch.created_by
    yield _("Accepted"), batch.accepted
    yield _("Rejected"), batch.rejected
    if batch.cancelled_at:
        yield _("Cancelled"), words.exact(batch.cancelled_at, seconds=True)
    if request.user.has_perm(f"{APP}.view_message"):
        where = reverse(f"admin:{APP}_message_changelist")
        yield _("Messages"), format_html('<a href="{}?batch={}">{}</a>', where, batch.pk, _("see all of them"))
    yield _("Batch id"), batch.pk
