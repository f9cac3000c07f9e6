"""The address of the queues."""

from ninja import Query, Router

from sessions_app.api.auth import ApiRequest, Caller, needs
from sessions_app.api.pagination import PageParameters, cut, read_cursor, read_name, write_cursor
from sessions_app.api.schemas.queues import QueueOut, QueuePage, QueueTotals
from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import InFlight, Message, Scope
from sessions_app.queues import inspect
from sessions_app.services import queue_overview
from sessions_app.services.queue_overview import QueueView

router = Router(tags=["Queues"])


@router.get(
    "",
    auth=needs(Scope.READ),
    response=QueuePage,
    summary="List queues",
    description="The sessions' queues by name, then the queues in Redis whose session is not in PostgreSQL (`orphan`). "
    "While Redis is away it is still answered from PostgreSQL, with `degraded: true`.",
    operation_id="list_queues",
)
def list_(request: ApiRequest, page: Query[PageParameters]) -> QueuePage:
    """List the queues that the key sees."""
    caller = request.auth
    kind, after = read_cursor(page.cursor, "queue", "orphan") or ("queue", "")
    if kind == "queue":
        after = read_name(page.cursor, "queue")
    orphans = _orphans(caller)
    views: list[QueueView] = []
    following = None
    if kind == "queue":
        rows = caller.sessions().filter(name__gt=after).order_by("name")
        found, following = cut(rows, page.limit, "queue", lambda row: row.name)
        views = queue_overview.views(found)
        after = ""
    if following is None:
        # Behind the last session come the orphans: on what is left of this page, then on pages of their own.
        rest = [view for view in orphans or () if view.place > after]
        room = page.limit - len(views)
        if len(rest) > room:
            following = write_cursor("orphan", rest[room - 1].place if room else after)
        views += rest[:room]
    return QueuePage(
        items=[QueueOut.of(view) for view in views],
        next=following,
        totals=_totals(caller, orphans),
        degraded=orphans is None,
    )


def _orphans(caller: Caller) -> list[QueueView] | None:
    """Return the orphans, of which a limited key sees none; None when Redis cannot be asked."""
    if caller.session_ids is not None:
        return [] if inspect.is_reachable() else None
    try:
        return queue_overview.orphans()
    except QueueUnavailable:
        return None


def _totals(caller: Caller, orphans: list[QueueView] | None) -> QueueTotals:
    ids = caller.sessions().values("pk")
    return QueueTotals(
        queued=Message.objects.open().filter(session__in=ids).count(),
        in_flight=InFlight.objects.filter(session__in=ids).count(),
        orphan_queues=None if orphans is None else len(orphans),
        orphan_messages=None if orphans is None else sum(view.depth for view in orphans),
    )
