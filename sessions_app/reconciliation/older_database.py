"""PostgreSQL was restored from a backup, or has lost its last commits: some of its open rows were sent already.

It shows by the attempt tokens: Redis remembers the highest one settled, or what a worker tells it of, and what this
database has committed is below it. Nothing is sent until the rows that may have gone in the lost future are uncertain:
those that have no job in the mirror any more, and the first row of each session that somebody may have had in hand.
"""

import logging

import redis
from django.db import connection, transaction
from django.db.models.functions import Now

from sessions_app.models import (
    NEWEST_TOKEN,
    TOKEN_SEQUENCE,
    UNSENT,
    Attempt,
    Deployment,
    Event,
    EventKind,
    Message,
    Outcome,
    Session,
    Status,
)
from sessions_app.queues import inspect, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.queues.dispatch import AGAIN_MS

log = logging.getLogger(__name__)

_LOCK = 7_710_571_002
_WHY = "the database was restored from a backup, or lost its last commits: it may have been sent before"


def is_older(mark: int) -> bool:
    """Whether Redis knows of an attempt that this database has never made."""
    with connection.cursor() as cursor:
        cursor.execute(NEWEST_TOKEN)
        return mark > int(cursor.fetchone()[0])


def resolve(*, wait: bool = False, client: redis.Redis | None = None) -> int | None:
    """Make uncertain what may have been sent, then go on above the mark; return how many, None when it was done.

    One process at a time; begun again after a crash it goes on. With `wait`, it is done when this returns: whoever puts
    jobs before that would hide what was sent. Raises QueueUnavailable and database errors.
    """
    client = client or upkeep_client()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)" if wait else "SELECT pg_try_advisory_lock(%s)", [_LOCK])
        if not wait and not cursor.fetchone()[0]:
            return None
        try:
            mark = inspect.meta(client=client).mark
            if not is_older(mark):
                return None
            doubted = sum(_doubt(session, client) for session in Session.objects.alive().order_by("pk"))
            # The sequence may be above the mark all the same: never back to tokens that were given out.
            cursor.execute(
                f"SELECT setval(%s, greatest(last_value, %s)) FROM {TOKEN_SEQUENCE}",  # noqa: S608 (a constant)
                [TOKEN_SEQUENCE, mark],
            )
            Deployment.objects.filter(known_token__lt=mark).update(known_token=mark)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
    log.warning("the database is older than Redis: %d messages that may have been sent are uncertain now", doubted)
    return doubted


def _doubt(session: Session, client: redis.Redis) -> int:
    line = list(Message.objects.open().filter(session=session).order_by("priority", "seq").values_list("pk", flat=True))
    # Those whose time has come were promoted in that future, and then stood in the mirror or were sent.
    promoted = Message.objects.filter(session=session, status=Status.SCHEDULED, scheduled_at__lte=Now())
    mirrored = set(mirror.job_ids(session.name, client=client) or ())
    doubted = [pk for pk in (*line, *promoted.values_list("pk", flat=True)) if str(pk) not in mirrored]
    (due_in_ms,) = inspect.due_in_ms([session.name], client=client)
    # Those before it went and had landed: the first that has a job still may have been next.
    in_hand = next((pk for pk in line if str(pk) in mirrored), None)
    if in_hand is not None and due_in_ms is not None and due_in_ms <= AGAIN_MS:
        doubted.append(in_hand)
    if not doubted:
        return 0
    with transaction.atomic():
        # Messages before their attempts, as a settle writes them. What lands meanwhile is certain.
        still = Message.objects.filter(pk__in=doubted, status__in=UNSENT).select_for_update().order_by("pk")
        rows = list(still.values_list("pk", "status", "token"))
        uncertain = [pk for pk, _, _ in rows]
        flying = [token for _, status, token in rows if status == Status.SENDING and token is not None]
        count = Message.objects.filter(pk__in=uncertain).update(
            status=Status.UNCERTAIN, error_class="uncertain", error_detail=_WHY
        )
        # What a worker has at an engine just now: its answer, when it comes, is one to an attempt that was given up.
        Attempt.objects.filter(token__in=flying, outcome="").update(outcome=Outcome.UNCERTAIN, finished_at=Now())
        Event.objects.bulk_create(
            Event(kind=EventKind.MESSAGE_UNCERTAIN, session=session, message_id=pk, data={"error": _WHY})
            for pk in uncertain
        )
    log.warning("session %s: %d messages may have been sent before the backup was restored", session.name, count)
    mirror.take_out(session.name, doubted, client=client)
    return count
