"""The pages of background tasks: how far each is, and the way to end one."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext_lazy

from sessions_app.admin import words
from sessions_app.admin.acts import Act, ActsMixin, Outcome
from sessions_app.admin.base import APP, PURGE_ORPHAN, RESTORE_ORPHAN, VIEW_ORPHAN, actor_of
from sessions_app.admin.lists import ChoiceFilter, NewestFirstMixin
from sessions_app.admin.phrases import said, said_in_turn
from sessions_app.exceptions import Conflict, NotFound
from sessions_app.models import BackgroundTask, TaskState
from sessions_app.services import tasks

_UNFINISHED = Q(state__in=(TaskState.WAITING, TaskState.RUNNING), is_cancel_requested=False)
_TONES: dict[str, str] = {
    TaskState.WAITING: words.BUSY,
    TaskState.RUNNING: words.BUSY,
    TaskState.DONE: words.OK,
    TaskState.CANCELLED: words.OFF,
    TaskState.FAILED: words.BAD,
}
_EFFECT = gettext_lazy(
    "It ends after the part that it is doing. What it has done stays done; the rest is left as it was."
)
_QUESTION = ngettext_lazy("Cancel %d background task?", "Cancel %d background tasks?")
_REPORT = ngettext_lazy("%d background task was asked to end.", "%d background tasks were asked to end.")

CANCEL_RESTORE = Act(
    name="cancel-restore",
    label=gettext_lazy("Cancel the restore"),
    permission=RESTORE_ORPHAN,
    question=_QUESTION,
    report=_REPORT,
    effect=_EFFECT,
    fits=_UNFINISHED & Q(kind="restore orphan"),
    is_grave=True,
)
CANCEL_PURGE = Act(
    name="cancel-purge",
    label=gettext_lazy("Cancel the purge"),
    permission=PURGE_ORPHAN,
    question=_QUESTION,
    report=_REPORT,
    effect=_EFFECT,
    fits=_UNFINISHED & Q(kind="purge orphan"),
    is_grave=True,
)


class TaskStateFilter(ChoiceFilter):
    """By state."""

    title = gettext_lazy("state")
    parameter_name = "state"
    values = TaskState


@admin.register(BackgroundTask)
class TaskAdmin(ActsMixin, NewestFirstMixin):
    """Background tasks."""

    position = 25
    acts = (CANCEL_RESTORE, CANCEL_PURGE)
    list_display = ("what", "state_now", "progress", "actor", "asked", "ended", "outcome")
    list_filter = (TaskStateFilter,)
    empty_state = gettext_lazy(
        "Nothing was ever so large that it had to be done in the background: only restores and purges of more "
        "than 1000 messages are."
    )
    confirm_columns = (gettext_lazy("What"), gettext_lazy("State"), gettext_lazy("Progress"), gettext_lazy("Who"))

    @admin.display(description=gettext_lazy("what"))
    def what(self, task: BackgroundTask) -> SafeString:
        """What it does."""
        return format_html('<span class="wa-name">{}</span>', said(task.title))

    @admin.display(description=gettext_lazy("state"))
    def state_now(self, task: BackgroundTask) -> SafeString:
        """How it stands."""
        return _badge(task)

    @admin.display(description=gettext_lazy("progress"))
    def progress(self, task: BackgroundTask) -> str:
        """How much of it is done."""
        return _("%(done)d of %(total)d") % {"done": task.done, "total": task.total}

    @admin.display(description=gettext_lazy("asked for"))
    def asked(self, task: BackgroundTask) -> SafeString:
        """When it was asked for."""
        return words.moment(task.created_at)

    @admin.display(description=gettext_lazy("ended"))
    def ended(self, task: BackgroundTask) -> SafeString:
        """When it ended."""
        return words.moment(task.finished_at)

    @admin.display(description=gettext_lazy("result"))
    def outcome(self, task: BackgroundTask) -> str:
        """What came of it."""
        return said_in_turn(task.result) or "-"

    def confirm_rows(self, request: HttpRequest, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """What it is and how far it is."""
        return [(said(task.title), _badge(task), self.progress(task), task.actor) for task in rows]

    def perform(self, request: HttpRequest, act: Act, keys: list[Any]) -> Outcome:
        """Ask each to end, unless it has ended meanwhile."""
        fitting = list(BackgroundTask.objects.filter(act.fits, pk__in=keys).values_list("pk", flat=True))
        done = 0
        for key in fitting:
            try:
                tasks.cancel(key, actor=actor_of(request))
            except (Conflict, NotFound):
                continue
            done += 1
        return Outcome(done, len(keys) - done)

    def page(self, request: HttpRequest, task: BackgroundTask) -> HttpResponse:
        """How far it is. It renews itself while there is something to see."""
        is_open = task.state in (TaskState.WAITING, TaskState.RUNNING)
        context = {
            "title": said(task.title), "task": task, "badge": _badge(task), "progress": self.progress(task),
            "percent": min(100, task.done * 100 // task.total) if task.total else 100 * (not is_open),
            "is_open": is_open, "result": said_in_turn(task.result), "facts": list(_facts(request, task)),
            "buttons": self.buttons(request, task),
        }  # fmt: skip
        return self.render(request, "backgroundtask/page.html", context)


def _badge(task: BackgroundTask) -> SafeString:
    if task.is_cancel_requested and task.state in (TaskState.WAITING, TaskState.RUNNING):
        return words.badge(words.WARN, _("is being cancelled"))
    return words.badge(_TONES[task.state], task.get_state_display())


def _facts(request: HttpRequest, task: BackgroundTask) -> Iterator[tuple[str, Any]]:
    yield _("Who"), task.actor
    for name, at in (
        (_("Asked for"), task.created_at), (_("Began"), task.started_at), (_("Ended"), task.finished_at)
    ):  # fmt: skip
        if at is not None:
            yield name, words.exact(at, seconds=True)
    if (orphan := task.parameters.get("orphan")) and request.user.has_perm(VIEW_ORPHAN):
        where = reverse(f"admin:{APP}_orphan_change", args=[orphan])
        yield _("Orphan"), format_html('<a href="{}">{}</a>', where, _("see the orphan"))
