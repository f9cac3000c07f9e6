"""The page that deletes an orphan's messages for good, once somebody typed how many."""

from typing import TYPE_CHECKING

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from sessions_app.admin.base import APP, actor_of
from sessions_app.admin.orphan_page import state_badge
from sessions_app.admin.orphan_wish import indexes_of
from sessions_app.exceptions import Conflict, QueueUnavailable
from sessions_app.models import UNRESOLVED, Orphan, OrphanState
from sessions_app.services import orphans, tasks
from sessions_app.services.orphans import OrphanChanged, Selection

if TYPE_CHECKING:
    from sessions_app.admin.orphans import OrphanAdmin


def purge_view(admin: "OrphanAdmin", request: HttpRequest, orphan: Orphan) -> HttpResponse:
    """Say how many; delete them when that number is typed, and still right."""
    source = request.POST if request.method == "POST" else request.GET
    indexes = indexes_of(source)
    # A live list has no places that stay.
    selection = Selection(indexes=indexes) if indexes and orphan.state != OrphanState.DETECTED else Selection()
    back = reverse(f"admin:{APP}_orphan_change", args=[orphan.pk])
    problem = ""
    if request.method == "POST":
        shown, typed = request.POST.get("shown", ""), request.POST.get("typed", "").strip()
        if not (shown.isascii() and shown.isdigit() and len(shown) < 12 and typed == shown):
            problem = _("The number that you typed is not the number of messages. Nothing was deleted.")
        else:
            try:
                return HttpResponseRedirect(_purge(admin, request, orphan, int(shown), selection) or back)
            except OrphanChanged as error:
                problem = _(
                    "There were %(before)s messages when you looked, and there are %(now)s now. Nothing was deleted. "
                    "Look again, and type the new number if you still want to."
                ) % {"before": shown, "now": error.extra["messages"]}
                orphan.refresh_from_db()
            except QueueUnavailable:
                problem = _("Redis cannot be reached, or is not this waqueue's. Nothing was deleted.")
            except Conflict:
                orphan.refresh_from_db()
                problem = _("It was not in a state to be purged any more. Nothing was deleted.")
    count, is_known = _count(orphan, selection)
    context = {
        "title": _("Purge %s?") % Truncator(orphan.queue).chars(60),
        "orphan": orphan, "badge": state_badge(orphan), "problem": problem, "back": back, "count": count,
        "is_known": is_known, "is_waiting": orphan.state in UNRESOLVED, "indexes": selection.indexes or (),
        "is_large": count > tasks.LARGE,
    }  # fmt: skip
    return admin.render(request, "orphan/purge.html", context)


def _purge(admin: "OrphanAdmin", request: HttpRequest, orphan: Orphan, count: int, selection: Selection) -> str:
    """Delete them, or have a worker do it; return where to go then."""
    if count > tasks.LARGE:
        task = orphans.purge_later(orphan, expected=count, selection=selection, actor=actor_of(request))
        admin.message_user(request, _("It is done in the background."), messages.INFO)
        return reverse(f"admin:{APP}_backgroundtask_change", args=[task.pk])
    purged = orphans.purge(orphan, expected=count, selection=selection, actor=actor_of(request))
    text = ngettext("%d message was deleted for good.", "%d messages were deleted for good.", purged)
    admin.message_user(request, text % purged, messages.SUCCESS)
    return ""


def _count(orphan: Orphan, selection: Selection) -> tuple[int, bool]:
    """How many would be deleted now, and whether that could be found out."""
    if not selection.is_everything:
        return selection.of(orphan).filter(restored_at=None).count(), True
    try:
        return orphans.waiting([orphan])[0], True
    except QueueUnavailable:
        return orphan.messages, False
