"""The front page in words: healthy or not, and what needs a person, each with the page that helps."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, ngettext_lazy

from sessions_app.admin import words
from sessions_app.admin.base import APP, VIEW_ORPHAN
from sessions_app.admin.phrases import said
from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Orphan, Session, Worker
from sessions_app.queues import durability, inspect
from sessions_app.queues.durability import Weakness
from sessions_app.services import worklist
from sessions_app.services.worklist import WorklistItem

_SHOWN = 50
# Which permission shows a line of this kind.
_PERMISSIONS = {
    "no_worker": f"{APP}.view_worker",
    "worker_gone": f"{APP}.view_worker",
    "session_held": f"{APP}.view_session",
    "overdue": f"{APP}.view_session",
    "orphan": VIEW_ORPHAN,
    "task_failed": f"{APP}.view_backgroundtask",
    "reconciliation_failed": f"{APP}.view_reconciliation",
}
# What is said of some messages of one session, and in which state the list shows them.
_MESSAGES = {
    "uncertain": (
        ngettext_lazy(
            "%(count)d message of %(session)s is uncertain: did it arrive?",
            "%(count)d messages of %(session)s are uncertain: did they arrive?",
            "count",
        ),
        "uncertain",
    ),
    "poison": (
        ngettext_lazy(
            "%(count)d message of %(session)s is set aside: each process that sends it dies.",
            "%(count)d messages of %(session)s are set aside: each process that sends one dies.",
            "count",
        ),
        "uncertain",
    ),
    "failed": (
        ngettext_lazy(
            "%(count)d message of %(session)s failed in the last 24 hours.",
            "%(count)d messages of %(session)s failed in the last 24 hours.",
            "count",
        ),
        "failed",
    ),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that needs a person."""

    text: str
    url: str
    since: datetime | None
    detail: str = ""

    @property
    def when(self) -> Any:
        """Since how long."""
        return words.moment(self.since)


def context(request: HttpRequest) -> dict[str, Any]:
    """What the template of the front page needs."""
    found = worklist.items()
    seen = [item for item in found if request.user.has_perm(_PERMISSIONS.get(item.kind, f"{APP}.view_message"))]
    keys = _session_keys(seen[:_SHOWN])
    has_redis = inspect.is_reachable()
    redis_faults = _redis_faults() if has_redis else []
    alive = Worker.objects.alive().count()
    orphans = Orphan.objects.unresolved().count()
    return {
        "is_healthy": not found and has_redis and not redis_faults,
        "has_redis": has_redis,
        "redis_faults": redis_faults,
        "lines": [_line(item, keys, readable=words.may_read(request)) for item in seen[:_SHOWN]],
        "unshown": max(0, len(seen) - _SHOWN),
        "is_hidden": len(seen) < len(found),
        "workers": ngettext("%d worker is running.", "%d workers are running.", alive) % alive
        if alive
        else _("No worker is running: nothing is sent."),
        "has_workers": bool(alive),
        "orphans": ngettext("%d orphan waits for a decision.", "%d orphans wait for a decision.", orphans) % orphans
        if orphans
        else "",
        "has_sessions": Session.objects.alive().exists(),
        "may_add_session": request.user.has_perm(f"{APP}.add_session"),
    }


def _redis_faults() -> list[str]:
    """What is wrong with how Redis is set up, in words."""
    said_of = {
        Weakness.FULL: _("Redis is full: messages are accepted and sent, but its queues fall behind. Give it room."),
        Weakness.EVICTS: _("Redis drops keys when it is full: set maxmemory-policy to noeviction."),
        Weakness.FORGETS: _("Redis keeps nothing on disk: set appendonly to yes."),
    }
    try:
        return [said_of[weakness] for weakness in durability.weaknesses()]
    except QueueUnavailable:
        return []


def _session_keys(items: Sequence[WorklistItem]) -> dict[str, int]:
    names = [item.session for item in items if item.kind in ("session_held", "overdue")]
    return dict(Session.objects.alive().filter(name__in=names).values_list("name", "pk")) if names else {}


def _line(item: WorklistItem, keys: dict[str, int], *, readable: bool) -> Line:
    """One line of the worklist in words, with its page."""
    values = {"session": item.session, "count": item.count, "detail": item.detail}
    match item.kind:
        case "no_worker":
            text, url = _("No worker is running, and messages wait to be sent."), _list("worker")
        case "session_held":
            text = _("The session %(session)s is held.") % values
            key = keys.get(item.session)
            url = _page(key) if key else _list("session", state="held")
        case "overdue":
            text = _("Messages of %(session)s should have been sent by now, and were not.") % values
            key = keys.get(item.session)
            url = _page(key) if key else _list("session")
        case "uncertain" | "poison" | "failed":
            said_of, status = _MESSAGES[item.kind]
            text, url = said_of % values, _list("message", status=status, session=item.session)
        case "orphan":
            text = ngettext(
                "%(count)d message for %(session)s waits in an orphan and is not sent.",
                "%(count)d messages for %(session)s wait in an orphan and are not sent.",
                item.count,
            )
            if len(shown := item.session) > 80:
                values["session"] = f"{shown[:79]}…"
            return Line(text % values, _list("orphan", session=item.session), item.since)
        case "task_failed":
            text = _("A background task failed: %s") % said(item.detail)
            return Line(text, _list("backgroundtask", state="failed"), item.since)
        case "reconciliation_failed":
            text = _("Redis is not put right by PostgreSQL: the reconciliation fails.")
            return Line(text, _list("reconciliation"), item.since, said(item.detail))
        case "worker_gone":
            text = _("The worker %(detail)s fell silent without saying goodbye.") % values
            return Line(text, _list("worker", state="gone"), item.since)
        case kind:
            # A kind that came with a later version of the services than of this page.
            text, url = f"{kind} {item.session} {item.count}", _list("session")
    return Line(text, url, item.since, words.unphoned(item.detail, readable=readable))


def _list(model: str, **filters: str) -> str:
    address = reverse(f"admin:{APP}_{model}_changelist")
    return f"{address}?{urlencode(filters)}" if filters else address


def _page(key: int) -> str:
    return reverse(f"admin:{APP}_session_change", args=[key])
