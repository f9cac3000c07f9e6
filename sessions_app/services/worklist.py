"""What needs a person now, most urgent first. Derived from the rows, so a line goes when its cause does."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import (
    Case,
    Count,
    Exists,
    Expression,
    F,
    Min,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
    Window,
)  # fmt: skip
from django.db.models.functions import RowNumber
from django.utils import timezone

from sessions_app.exceptions import Poison
from sessions_app.models import (
    FAILED_ACTION,
    BackgroundTask,
    InFlight,
    Message,
    Orphan,
    RecipientPace,
    Reconciliation,
    ReconciliationOutcome,
    Session,
    Status,
    TaskState,
    Worker,
)

_RECENT = timedelta(hours=24)
_POISON_OR_UNCERTAIN = Case(When(error_class=Poison.code, then=Value("poison")), default=Value("uncertain"))
# A message that may go and has waited so long says that nobody is sending.
_OVERDUE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class WorklistItem:
    """One line: what it is, in which session, how many, since when. `kind` names the page that helps."""

    kind: str
    session: str
    count: int
    since: datetime | None
    detail: str = ""


def items() -> list[WorklistItem]:
    """All lines, most urgent first. A constant number of queries."""
    now = timezone.now()
    found: list[WorklistItem] = []
    backlog = Message.objects.open().filter(queued_at__lt=now - _OVERDUE, session__in=Session.objects.serving())
    alive = Worker.objects.alive().exists()
    if not alive and (first := backlog.order_by("queued_at").first()):
        found.append(WorklistItem("no_worker", "", 0, first.queued_at))
    found += [
        WorklistItem("overdue", session.name, 1, session.waits_since)  # type: ignore[attr-defined]
        for session in _overdue(now - _OVERDUE, now)[:100]
    ]
    found += [
        WorklistItem("session_held", session.name, 1, session.dispatch.held_at, session.dispatch.hold_reason)
        for session in Session.objects.held().select_related("dispatch").order_by("dispatch__held_at")[:100]
    ]
    uncertain = Message.objects.filter(status=Status.UNCERTAIN)
    found += _by_session(uncertain, kind=_POISON_OR_UNCERTAIN, since="created_at", order_by=("since",))
    orphaned = (
        Orphan.objects.unresolved()
        .order_by()
        .values("session_name")
        .annotate(count=Sum("messages"), since=Min("first_seen_at"))
        .order_by("since")[:100]
    )
    found += [WorklistItem("orphan", row["session_name"], row["count"], row["since"]) for row in orphaned]
    failed = Message.objects.filter(status=Status.FAILED, failed_at__gt=now - _RECENT)
    found += _by_session(failed, kind=Value("failed"), since="failed_at", order_by=("-count",))
    broken = BackgroundTask.objects.filter(state=TaskState.FAILED, finished_at__gt=now - _RECENT).order_by("-pk")
    found += [WorklistItem("task_failed", "", 1, task.finished_at, task.title) for task in broken[:20]]
    if broken_run := _broken_reconciliation():
        found.append(broken_run)
    gone = Worker.objects.gone().filter(heartbeat_at__gt=now - _RECENT)
    found += [WorklistItem("worker_gone", "", 1, worker.heartbeat_at, worker.name) for worker in gone[:20]]
    return found


def _by_session(
    messages: QuerySet[Message], *, kind: Expression, since: str, order_by: Sequence[str]
) -> list[WorklistItem]:
    """A line for each session and kind that has such messages, a hundred of a kind at most; kinds by their names."""
    groups = messages.values("session__name", kind=kind).annotate(count=Count("pk"), since=Min(since))
    ranked = groups.annotate(rank=Window(RowNumber(), partition_by=[F("kind")], order_by=order_by))
    return [
        WorklistItem(row["kind"], row["session__name"], row["count"], row["since"])
        for row in ranked.filter(rank__lte=100).order_by("kind", "rank")
    ]


def _overdue(limit: datetime, now: datetime) -> QuerySet[Session]:
    """Sessions that should have sent before `limit` and did not, though somebody was there to send for them.

    None that waits for its pace, its quiet hours, a retry or the answer of its engine.
    """
    line = Message.objects.open().filter(session=OuterRef("pk")).order_by("priority", "seq")
    served = Worker.objects.alive().filter(started_at__lt=limit)
    on_the_way = InFlight.objects.filter(session=OuterRef("pk"), deadline_at__gt=limit)
    paced = RecipientPace.objects.filter(
        session=OuterRef("pk"), recipient=OuterRef("next_recipient"), next_send_at__gt=limit
    )
    return (
        Session.objects.serving()
        .filter(Exists(served), updated_at__lt=limit)
        .filter(Q(dispatch__last_sent_at=None) | Q(dispatch__last_sent_at__lt=limit))
        .filter(Q(dispatch__next_send_at=None) | Q(dispatch__next_send_at__lt=limit))
        .exclude(dispatch__quiet_from__lte=now, dispatch__quiet_until__gt=limit)
        .annotate(
            waits_since=Subquery(line.values("queued_at")[:1]),
            next_attempt_at=Subquery(line.values("next_attempt_at")[:1]),
            next_recipient=Subquery(line.values("recipient")[:1]),
        )
        .filter(Q(next_attempt_at=None) | Q(next_attempt_at__lt=limit), waits_since__lt=limit)
        .exclude(Exists(on_the_way) | Exists(paced))
        .order_by("waits_since")
    )


def _broken_reconciliation() -> WorklistItem | None:
    """That Redis is not put right: the last run failed, or there is something that it could not put right."""
    runs = Reconciliation.objects.whole()
    last = runs.finished().first()
    if broken := runs.filter(outcome=ReconciliationOutcome.FAILED, pk__gt=last.pk if last else 0).last():
        return WorklistItem("reconciliation_failed", "", 1, broken.started_at, broken.error)
    left = last.findings.filter(action=FAILED_ACTION).first() if last else None
    if last and left:
        return WorklistItem("reconciliation_failed", left.session, 1, last.started_at, left.detail)
    return None
