"""The queues, each with its session: what PostgreSQL says beside what Redis holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db.models import Count, Min
from django.utils import timezone

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import OPEN, DesiredState, Hold, InFlight, Message, Session
from sessions_app.queues import inspect
from sessions_app.queues.keys import queue_name
from sessions_app.services.estimates import send_time


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue. `state` is serving, paused, held or orphan. `depth` counts what is not sent yet."""

    queue: str
    session: str
    state: str
    depth: int
    in_flight: int
    source: str = "rq"
    oldest_queued_at: datetime | None = None
    next_due_at: datetime | None = None
    estimated_done_at: datetime | None = None


def state_of(session: Session) -> str:
    """What keeps a session's queue from moving, in one word; `serving` when nothing does."""
    if session.desired_state != DesiredState.ACTIVE:
        return "paused"
    return "held" if session.dispatch.hold != Hold.NONE else "serving"


def views(sessions: Sequence[Session]) -> list[QueueView]:
    """The queues of `sessions`, in their order, in a constant number of queries and round trips."""
    now = timezone.now()
    ids = [session.pk for session in sessions]
    rows = (
        Message.objects.filter(status__in=OPEN, session__in=ids)
        .values("session_id")
        .annotate(depth=Count("pk"), oldest=Min("queued_at"))
    )
    lines: dict[int, tuple[int, datetime | None]] = {row["session_id"]: (row["depth"], row["oldest"]) for row in rows}
    flights = dict(
        InFlight.objects.filter(session__in=ids).values_list("session_id").annotate(Count("token")).order_by()
    )
    try:
        due = inspect.due_times([session.name for session in sessions])
    except QueueUnavailable:
        due = [None] * len(sessions)
    found = []
    for session, score in zip(sessions, due, strict=True):
        depth, oldest = lines.get(session.pk, (0, None))
        found.append(
            QueueView(
                queue=session.queue_name,
                session=session.name,
                state=state_of(session),
                depth=depth,
                in_flight=flights.get(session.pk, 0),
                oldest_queued_at=oldest,
                next_due_at=None if score is None else datetime.fromtimestamp(score, UTC),
                estimated_done_at=send_time(session, depth, now) if depth else None,
            )
        )
    return found


def orphans() -> list[QueueView]:
    """Queues in Redis that belong to no session. Raises QueueUnavailable."""
    names = inspect.session_queue_names()
    # PostgreSQL refuses to be asked for a NUL, which a foreign name may hold.
    askable = [name for name in names if "\0" not in name]
    ownerless = sorted(names - set(Session.objects.alive().filter(name__in=askable).values_list("name", flat=True)))
    depths = inspect.depths(ownerless)
    return [
        QueueView(queue=queue_name(name), session=name, state="orphan", depth=depth, in_flight=0)
        for name, depth in zip(ownerless, depths, strict=True)
    ]
