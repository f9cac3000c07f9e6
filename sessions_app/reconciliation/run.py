"""One run: compare, repair, and a row, log lines and events of what was found and done."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone

from sessions_app.models import (
    Event,
    EventKind,
    FindingKind,
    Reconciliation,
    ReconciliationFinding,
    ReconciliationOutcome,
    Trigger,
)
from sessions_app.reconciliation.compare import compare
from sessions_app.reconciliation.repair import Policy, repair
from sessions_app.reconciliation.report import Finding, Report

log = logging.getLogger(__name__)

_LOCK = 7_710_571_003
# Runs that found nothing are kept for a day, the others for a quarter of a year.
_CLEAN_KEPT = timedelta(days=1)
_KEPT = timedelta(days=90)


class AlreadyRunning(Exception):
    """Another process is reconciling just now: it finds what this run would have found."""


def reconcile(
    trigger: Trigger,
    *,
    dry_run: bool = False,
    policy: Policy | None = None,
    session_name: str | None = None,
    unless_started_after: datetime | None = None,
) -> Reconciliation | None:
    """Compare, and unless it is a dry run repair; return the row of the run with its findings.

    Without `policy` the operator's own policies hold, except that a start-up never purges. With `unless_started_after`,
    returns None if a start-up run began after that time. Raises AlreadyRunning, QueueUnavailable, database errors.
    """
    with _alone():
        if unless_started_after is not None and _startup_ran_since(unless_started_after):
            return None
        run = Reconciliation.objects.create(trigger=trigger, dry_run=dry_run, started_at=timezone.now())
        try:
            report = compare(session_name=session_name)
            if not dry_run:
                repair(
                    report,
                    policy=policy or _allowed(settings.WAQUEUE_ORPHAN_POLICY, trigger),
                    legacy_policy=policy or _allowed(settings.WAQUEUE_LEGACY_POLICY, trigger),
                )
        except Exception as error:
            _fail(run, str(error).strip() or repr(error))
            raise
        return _finish(run, report)


def reconcile_in_time() -> Reconciliation | None:
    """The timed run, unless somebody ran within the last interval or runs just now."""
    since = timezone.now() - timedelta(seconds=settings.WAQUEUE_RECONCILE_SECONDS * 0.9)
    if Reconciliation.objects.filter(dry_run=False, started_at__gt=since, outcome__in=_FINISHED).exists():
        return None
    try:
        return reconcile(Trigger.TIMER)
    except AlreadyRunning:
        return None


@contextmanager
def _alone() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
        if not cursor.fetchone()[0]:
            raise AlreadyRunning(AlreadyRunning.__doc__)
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def _startup_ran_since(moment: datetime) -> bool:
    return Reconciliation.objects.filter(trigger=Trigger.STARTUP, started_at__gt=moment, outcome__in=_FINISHED).exists()


_FINISHED = (
    ReconciliationOutcome.CLEAN,
    ReconciliationOutcome.REPAIRED,
    ReconciliationOutcome.FINDINGS,
)  # fmt: skip


def _allowed(policy: str, trigger: Trigger) -> Policy:
    """A start-up repairs and archives; only the timed run and people purge."""
    if policy == Policy.PURGE and trigger == Trigger.STARTUP:
        return Policy.ARCHIVE
    return Policy(policy)


def _finish(run: Reconciliation, report: Report) -> Reconciliation:
    run.finished_at = timezone.now()
    run.counts = report.counts
    if not report.findings:
        run.outcome = ReconciliationOutcome.CLEAN
    elif report.is_settled:
        run.outcome = ReconciliationOutcome.REPAIRED
    else:
        run.outcome = ReconciliationOutcome.FINDINGS
    run.save()
    ReconciliationFinding.objects.bulk_create(
        [
            ReconciliationFinding(
                reconciliation=run,
                kind=finding.kind,
                queue=finding.queue,
                session=finding.session,
                messages=finding.messages,
                action=finding.action,
                detail=finding.detail[:500],
            )
            for finding in report.findings
        ],
        batch_size=1000,
    )
    _tell(run, report)
    _prune(run.finished_at)
    return run


def _fail(run: Reconciliation, why: str) -> None:
    try:
        run.finished_at, run.outcome, run.error = timezone.now(), ReconciliationOutcome.FAILED, why[:500]
        run.save()
    except DatabaseError:
        log.warning("reconciliation could not run, and not say so in the database: %s", why)


def _tell(run: Reconciliation, report: Report) -> None:
    known = _findings_of_the_run_before(run) if run.trigger == Trigger.TIMER else set()
    for finding in report.findings:
        # The timer does not repeat every minute what it has said and what waits for a person.
        is_news = bool(finding.action) or (finding.kind, finding.queue, finding.messages) not in known
        log.log(logging.WARNING if is_news else logging.DEBUG, "%s", sentence(finding))
    if report.findings:
        Event.objects.create(
            kind=EventKind.RECONCILIATION_FINISHED,
            data={"reconciliation": run.pk, "outcome": run.outcome, "counts": run.counts, "dry_run": run.dry_run},
        )


def sentence(finding: Finding) -> str:
    """A finding as one line that names the session and the number of messages."""
    what = _SENTENCES[finding.kind].format(queue=finding.queue, session=finding.session, messages=finding.messages)
    done = finding.action or "nothing done"
    return f"{what}: {done}{f' ({finding.detail})' if finding.detail else ''}"


_SENTENCES: dict[FindingKind, str] = {
    FindingKind.ORPHAN_QUEUE: "queue {queue}: session {session!r} does not exist, {messages} orphaned messages",
    FindingKind.LEGACY_QUEUE: "list {queue} of the old service, session {session!r}: {messages} messages",
    FindingKind.MISSING_JOB: "queue {queue} of session {session!r} lacks {messages} messages",
    FindingKind.WRONG_ORDER: "queue {queue} of session {session!r} is in the wrong order",
    FindingKind.GENERATION_LOST: "Redis is not the one whose queues were put in order last",
    FindingKind.OLDER_DATABASE: "the database is older than Redis",
    FindingKind.FINAL_JOB: "queue {queue} of session {session!r} holds {messages} messages that are final",
    FindingKind.UNKNOWN_JOB: "queue {queue} of session {session!r} holds {messages} messages without a row",
    FindingKind.DUPLICATE_JOB: "queue {queue} of session {session!r} holds {messages} messages twice",
    FindingKind.MISSING_HASH: "queue {queue} of session {session!r} has lost the content of {messages} messages",
    FindingKind.FOREIGN_KEY: "key {queue} is no queue",
    FindingKind.UNREADABLE_ENTRY: "queue {queue} of session {session!r} holds {messages} unreadable entries",
    FindingKind.STRANDED_SESSION: "session {session!r} had messages that nobody would have looked at",
    FindingKind.EMPTY_NAME: "queue {queue} of no session is empty",
    FindingKind.OTHER_DEPLOYMENT: "this Redis belongs to another database",
}


def _findings_of_the_run_before(run: Reconciliation) -> set[tuple[str, str, int]]:
    before = Reconciliation.objects.filter(pk__lt=run.pk, dry_run=False, outcome__in=_FINISHED).order_by("-pk").first()
    if before is None:
        return set()
    return set(before.findings.values_list("kind", "queue", "messages"))


def _prune(now: datetime) -> None:
    old = Reconciliation.objects.filter(started_at__lt=now - _KEPT)
    clean = Reconciliation.objects.filter(
        trigger=Trigger.TIMER, outcome=ReconciliationOutcome.CLEAN, started_at__lt=now - _CLEAN_KEPT
    )
    (old | clean).delete()
