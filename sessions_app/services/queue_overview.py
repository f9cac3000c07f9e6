"""The queues, each with its session: what PostgreSQL says beside what Redis holds."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from django.db.models import Count, Max, Min, Q, QuerySet
from django.utils import timezone

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import OPEN, DesiredState, Hold, InFlight, Message, Orphan, OrphanSource, OrphanState, Session
from sessions_app.queues import inspect, keys
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
    # Of an orphan: the list in Redis, and its row once reconciliation has seen it.
    key: bytes = b""
    orphan_id: uuid.UUID | None = None

    @property
    def place(self) -> str:
        """What orphans are sorted by: several may bear the name of one session."""
        return f"{self.session}\n{self.queue}\n{self.key!r}"


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
        .annotate(depth=Count("pk"), oldest=Min("queued_at"), until=Max("next_attempt_at"))
    )
    lines: dict[int, tuple[int, datetime | None, datetime | None]] = {
        row["session_id"]: (row["depth"], row["oldest"], row["until"]) for row in rows
    }
    flights = dict(
        InFlight.objects.filter(session__in=ids).values_list("session_id").annotate(Count("token")).order_by()
    )
    try:
        due = inspect.due_times([session.name for session in sessions])
    except QueueUnavailable:
        due = [None] * len(sessions)
    found = []
    for session, score in zip(sessions, due, strict=True):
        depth, oldest, until = lines.get(session.pk, (0, None, None))
        found.append(
            QueueView(
                queue=session.queue_name,
                session=session.name,
                state=state_of(session),
                depth=depth,
                in_flight=flights.get(session.pk, 0),
                oldest_queued_at=oldest,
                next_due_at=None if score is None else datetime.fromtimestamp(score, UTC),
                # Only the first in a line is ever tried, so that what waits for its retry stood there, and may again.
                estimated_done_at=send_time(session, depth, now, line_until=until) if depth else None,
            )
        )
    return found


def orphans() -> list[QueueView]:
    """Queues in Redis that belong to no session, in the order of their places, in a constant number of round trips.

    RQ's are those that RQ itself lists; those of the old service, those being archived and those with names that are
    no text are the ones that reconciliation has found. Raises QueueUnavailable.
    """
    names = inspect.session_queue_names()
    rows = list(_live_rows())
    # PostgreSQL refuses to be asked for a NUL, which a foreign name may hold.
    askable = {name for name in names if "\0" not in name} | {row.session_name for row in rows}
    owned = set(Session.objects.alive().filter(name__in=askable).values_list("name", flat=True))
    found = {keys.queue_key(name).encode(): _view_of_name(name) for name in names - owned}
    for row in rows:
        if row.source != OrphanSource.RQ or row.staging_key or row.session_name not in owned:
            found[bytes(row.staging_key or row.key)] = _view_of_row(row)
            if row.staging_key and row.state == OrphanState.DETECTED:
                # Not renamed yet, or begun anew by a producer that came late.
                found.setdefault(bytes(row.key), _view_of_row(row, key=bytes(row.key)))
    depths = inspect.lengths(list(found))
    views = [replace(view, depth=depth) for view, depth in zip(found.values(), depths, strict=True) if depth]
    return sorted(views, key=lambda view: view.place)


def known_orphans() -> list[QueueView]:
    """The same as PostgreSQL knows them, with the depths that were seen last: for when Redis cannot be asked."""
    return sorted((_view_of_row(row) for row in _live_rows()), key=lambda view: view.place)


def _live_rows() -> QuerySet[Orphan]:
    return Orphan.objects.filter(Q(state=OrphanState.DETECTED) | ~Q(staging_key=b"") & Q(is_cleaned=False)).order_by()


def _view_of_name(name: str) -> QueueView:
    return QueueView(keys.queue_name(name), name, "orphan", 0, 0, key=keys.queue_key(name).encode())


def _view_of_row(row: Orphan, *, key: bytes = b"") -> QueueView:
    return QueueView(
        queue=row.queue,
        session=row.session_name,
        state="orphan",
        depth=row.messages,
        in_flight=0,
        source="legacy" if row.source == OrphanSource.LEGACY else "rq",
        key=key or bytes(row.staging_key or row.key),
        orphan_id=row.pk,
    )
