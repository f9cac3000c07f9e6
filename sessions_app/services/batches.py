"""Batches: many messages handed in at once, how far they are, and their rest cancelled."""

import logging
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction
from django.db.models import Max
from django.utils import timezone

from sessions_app import crash_points
from sessions_app.exceptions import BatchNotFound, QueueUnavailable
from sessions_app.models import Batch, Message, Session, SessionCounter, Status
from sessions_app.queues import mirror
from sessions_app.services import audit, endings, lost_commits, messages
from sessions_app.services.audit import Actor
from sessions_app.services.estimates import send_time
from sessions_app.services.messages import Draft

log = logging.getLogger(__name__)

# Messages of one batch, and of one transaction of a cancel: its session takes nothing new meanwhile.
MOST = 10_000
CHUNK = 500


def submit(session: Session, drafts: Sequence[Draft], *, rejected: int, actor: Actor) -> Batch:
    """Keep `drafts` as a batch of `session`, in their order, all or none; `rejected` is how many others did not fit.

    Raises SessionNotFound when the session is deleted. As for a single message, Redis plays no part in the promise.
    """
    batch = Batch(
        session=session, created_at=timezone.now(), created_by=actor.label[:200], accepted=len(drafts),
        rejected=rejected,
    )  # fmt: skip
    with lost_commits.looked_up() as written:
        messages.submit(session, drafts, batch_id=batch.pk)
        batch.save(force_insert=True)
        written.append(batch)
    log.info("batch %s of %s: %d messages accepted, %d rejected", batch.pk, session.name, batch.accepted, rejected)
    return batch


def get(batch_id: uuid.UUID) -> Batch:
    """The batch with its session and that one's dispatch row. Raises BatchNotFound."""
    try:
        return Batch.objects.select_related("session__dispatch").get(pk=batch_id)
    except Batch.DoesNotExist:
        raise BatchNotFound(f"there is no batch {batch_id}") from None


def estimated_done_at(batch: Batch, now: datetime) -> datetime | None:
    """When the last of its messages goes at its session's present pace.

    None when none is left to go, while its session does not send, and past a year.
    """
    ours = Message.objects.filter(batch_id=batch.pk)
    last = ours.open().select_related("session__dispatch").order_by("-priority", "-seq").first()
    scheduled = ours.filter(status=Status.SCHEDULED).aggregate(at=Max("scheduled_at"))["at"]
    if last is None and scheduled is None:
        return None
    # As for the first in the line when all of it is only scheduled: it says whether the session sends at all.
    at = messages.outlook(last, now)[1] if last else send_time(batch.session, 1, now)
    if at is None:
        return None
    return max(each for each in (at if last else None, scheduled) if each)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancel did. `left_alone` are those of the batch that were sent, are on their way or ended otherwise.

    Among the latter are those that waited to be sent again by policy, and are uncertain now.
    """

    cancelled: int
    left_alone: int


def cancel(batch_id: uuid.UUID, *, actor: Actor, session_ids: Collection[int] | None = None) -> Cancelled:
    """Cancel what is queued or scheduled of a batch. Asked again, it cancels what there is by then.

    It goes from the last message to the first, in parts with a commit each: meanwhile its session goes on sending in
    order, so that what was sent is the beginning. With `session_ids`, messages that were moved into other sessions
    are left alone. Raises BatchNotFound.
    """
    get(batch_id)
    unsent = Message.objects.filter(batch_id=batch_id, status__in=(Status.QUEUED, Status.SCHEDULED))
    if session_ids is not None:
        unsent = unsent.filter(session__in=session_ids)
    sessions = Session.objects.filter(pk__in=unsent.order_by().values_list("session_id").distinct())
    done = sum(_cancel_in(session, batch_id, actor) for session in sessions)
    others = Message.objects.filter(batch_id=batch_id).exclude(status=Status.CANCELLED)
    return Cancelled(done, others.count())


def _cancel_in(session: Session, batch_id: uuid.UUID, actor: Actor) -> int:
    """Cancel what is unsent of a batch in one session; return how many that were."""
    # By their places in the line, in which their jobs stand.
    jobs: dict[tuple[int, int], uuid.UUID] = {}
    done = 0
    try:
        while part := _cancel_part(session, batch_id, actor):
            rows, doubted = part
            done += len(rows) - len(doubted)
            # What was only scheduled has no job.
            jobs |= {(priority, seq): pk for pk, status, priority, seq in rows if status == Status.QUEUED}
    finally:
        # Also of what was done before something failed.
        if done or jobs:
            audit.record(actor, "cancel batch", str(batch_id), count=done, session=session.name)
            log.info("batch %s: %d messages of %s cancelled by %s", batch_id, done, session.name, actor.label)
            transaction.on_commit(lambda: _take_out(session.name, [jobs[place] for place in sorted(jobs)]))
    return done


_UNSENT = """
SELECT id, status, priority, seq FROM wa_message
WHERE batch_id = %s AND session_id = %s AND status IN ('queued', 'scheduled')
ORDER BY id DESC LIMIT %s FOR UPDATE
"""
_Row = tuple[uuid.UUID, str, int, int]


def _cancel_part(session: Session, batch_id: uuid.UUID, actor: Actor) -> tuple[list[_Row], set[uuid.UUID]] | None:
    """Cancel up to CHUNK messages and commit it; None when there are none.

    Otherwise their ids, what they were, and their places; and which of them are uncertain instead.
    """
    with transaction.atomic():
        # Before the rows, as submitting and deleting take it: two that lock many rows never wait for one another.
        SessionCounter.draw(session.pk, 0)
        with connection.cursor() as cursor:
            cursor.execute(_UNSENT, [batch_id, session.pk, CHUNK])
            rows: list[_Row] = cursor.fetchall()
        doubted = endings.end([row[0] for row in rows], Status.CANCELLED, by=actor.label)
        if rows:
            Batch.objects.filter(pk=batch_id, cancelled_at=None).update(cancelled_at=timezone.now())
    crash_points.reach("cancel batch: part committed")
    return (rows, doubted) if rows else None


def _take_out(session_name: str, jobs: list[uuid.UUID]) -> None:
    try:
        mirror.take_out(session_name, jobs)
        # What stood behind them may go now.
        mirror.signal([session_name])
    except QueueUnavailable as error:
        log.warning("%d jobs of cancelled messages stay until reconciliation: %s", len(jobs), error)
