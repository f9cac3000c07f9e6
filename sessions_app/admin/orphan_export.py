"""An orphan's messages as a file. Asked for by POST, since it is written down who took them along."""

from typing import TYPE_CHECKING, cast

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect, StreamingHttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from sessions_app.admin.base import APP, actor_of
from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Orphan
from sessions_app.services import audit, orphans

if TYPE_CHECKING:
    from sessions_app.admin.orphans import OrphanAdmin

_KINDS = {"csv": "text/csv", "jsonl": "application/jsonl"}


def export(admin: "OrphanAdmin", request: HttpRequest, orphan: Orphan) -> HttpResponse:
    """Stream all of its messages, also those that cannot be read."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    kind = "jsonl" if request.POST.get("format") == "jsonl" else "csv"
    try:
        count, rows = orphans.begin_export(orphan, kind)  # type: ignore[arg-type]
    except QueueUnavailable:
        admin.message_user(request, _("Redis cannot be reached: its messages cannot be read now."), messages.ERROR)
        return HttpResponseRedirect(reverse(f"admin:{APP}_orphan_change", args=[orphan.pk]))
    audit.record(actor_of(request), "export orphan", orphan.queue, count=count, format=kind)
    response = StreamingHttpResponse(rows, content_type=f"{_KINDS[kind]}; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="orphan-{orphan.pk}.{kind}"'
    return cast("HttpResponse", response)
