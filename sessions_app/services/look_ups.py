"""Look-ups: an uncertain message is asked for at its engine, a few times, at times that stand in PostgreSQL.

A find is a receipt like any other. Anything else is evidence for the person who decides.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import DataError, connection, transaction
from django.db.models.functions import Now

from sessions_app.database import writable
from sessions_app.models import LookUp, LookUpOutcome, Status
from sessions_app.services import receipts
from sessions_app.transports import registry
from sessions_app.transports.base import Finding, ReceiptIn

log = logging.getLogger(__name__)

# A worker that dies while it asks leaves the question due again by itself.
_ANSWERED_WITHIN = timedelta(seconds=60)
# The condition is that of the index, word for word.
_PLAN = """
WITH unplanned AS MATERIALIZED (
    SELECT id, session_id, token FROM wa_message
    WHERE (status = 'uncertain' OR (resends > 0 AND status = 'queued'))
      AND (look_up_token IS NULL OR look_up_token < token)
    ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED
), planned AS (
    UPDATE wa_message m SET look_up_token = coalesce(u.token, 0) FROM unplanned u WHERE m.id = u.id
)
INSERT INTO wa_look_up (message_id, session_id, token, number, due_at, outcome, detail)
SELECT u.id, u.session_id, coalesce(u.token, 0), 1, now() + %s * interval '1 second', '', ''
FROM unplanned u JOIN wa_session s ON s.id = u.session_id
WHERE s.transport = ANY(%s) AND s.deleted_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one question: a finding, or why there was no answer."""

    look_up: LookUp
    finding: Finding | None
    problem: str = ""


def plan() -> int:
    """Plan the first question about each message of which nobody knows; return how many."""
    seconds: list[float] = settings.WAQUEUE_LOOK_UP_SECONDS
    if not seconds:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_PLAN, [seconds[0], registry.looking_up()])
        return int(cursor.rowcount)


def take(at_most: int) -> list[LookUp]:
    """The questions to be asked now, each with its message and session, for whoever calls first.

    One of a session, the oldest: an engine that hangs must not take them all.
    """
    with transaction.atomic():
        due = list(
            LookUp.objects.select_for_update(skip_locked=True, of=("self",))
            .filter(asked_at=None, due_at__lte=Now())
            .select_related("message", "session")
            .order_by("due_at")[: at_most * 5]
        )
        moot = [one.pk for one in due if not _is_open(one)]
        LookUp.objects.filter(pk__in=moot).update(asked_at=Now(), outcome=LookUpOutcome.MOOT)
        chosen: dict[int, LookUp] = {}
        for one in due:
            if one.pk not in moot and len(chosen) < at_most:
                chosen.setdefault(one.session_id, one)
        LookUp.objects.filter(pk__in=[one.pk for one in chosen.values()]).update(due_at=Now() + _ANSWERED_WITHIN)
    return list(chosen.values())


def _is_open(look_up: LookUp) -> bool:
    message = look_up.message
    return message.status in (Status.UNCERTAIN, Status.QUEUED) and (message.token or 0) == look_up.token


def write(answers: Sequence[Answer]) -> None:
    """Keep what was answered; resolve what was found, and plan the next question about what was not.

    One that cannot be kept keeps none of the others: its question comes due again. Raises the errors of django.db.
    """
    for answer in answers:
        try:
            with transaction.atomic():
                _write(answer)
        except (DataError, ValueError):
            log.exception("an answer about message %s could not be kept", answer.look_up.message_id)


def _write(answer: Answer) -> None:
    look_up, finding = answer.look_up, answer.finding
    if finding is None:
        outcome, detail = LookUpOutcome.NO_ANSWER, answer.problem
    elif finding.stage is None:
        outcome, detail = LookUpOutcome.NOT_FOUND, finding.detail
    else:
        outcome, detail = LookUpOutcome.FOUND, finding.detail
    still_open = LookUp.objects.filter(pk=look_up.pk, asked_at=None)
    if not still_open.update(asked_at=Now(), outcome=outcome, detail=writable(detail)[:500]):
        # It took so long that somebody else has asked.
        return
    if finding is not None and finding.stage is not None:
        receipt = ReceiptIn(writable(finding.provider_id), finding.stage, f"look-up {look_up.pk}")
        receipts.record(look_up.session, receipt, found=look_up.message_id)
        return
    seconds: list[float] = settings.WAQUEUE_LOOK_UP_SECONDS
    if look_up.number < len(seconds):
        wait = timedelta(seconds=seconds[look_up.number] - seconds[look_up.number - 1])
        LookUp.objects.create(
            session=look_up.session, message=look_up.message, token=look_up.token, number=look_up.number + 1,
            due_at=Now() + wait,
        )  # fmt: skip
