"""One run: compare, repair, and a row, log lines and events of what was found and done."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone

from sessions_app.exceptions import primary_message
from sessions_app.models import (
    Event,
    EventKind,
    FindingKind,
    Orphan,
    Reconciliation,
    ReconciliationFinding,
    ReconciliationOutcome,
    Session,
    Trigger,
)
from sessions_app.queues import keys, lists
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


class UnknownName(Exception):
    """No session, no queue and no orphan bears this name."""


def reconcile(
    trigger: Trigger,
    *,
    dry_run: bool = False,
    policy: Policy | None = None,
    session_name: str | None = None,
    unless_started_after: datetime | None = None,
) -> Reconciliation | None:
    """Compare, and unless it is a dry run repair; return the row of the run with its findings.

    Without `policy` the operator's own policies hold, except that a start-up never purges. With `session_name`, only
    what bears that name. With `unless_started_after`, returns None if a start-up run began after that time. Raises
    AlreadyRunning, UnknownName, QueueUnavailable, database errors.
    """
    with _alone():
        if unless_started_after is not None and _startup_ran_since(unless_started_after):
            return None
        if session_name is not None and not _is_known(session_name):
            raise UnknownName(f"no session, no queue and no orphan is called {session_name!r}")
        _fail_those_without_a_process()
        run = Reconciliation.objects.create(
            trigger=trigger, dry_run=dry_run, session_name=session_name or "", started_at=timezone.now()
        )
        report = Report()
        try:
            compare(report, session_name=session_name)
            if not dry_run:
                repair(
                    report,
                    policy=policy or _allowed(settings.WAQUEUE_ORPHAN_POLICY, trigger),
                    legacy_policy=policy or _allowed(settings.WAQUEUE_LEGACY_POLICY, trigger),
                )
        except Exception as error:
            _fail(run, report, primary_message(error))
            raise
        _finish(run, report)
        return run


def is_time() -> bool:
    """Whether nobody ran within the last interval, or runs just now."""
    since = timezone.now() - timedelta(seconds=settings.WAQUEUE_RECONCILE_SECONDS * 0.9)
    if Reconciliation.objects.whole().finished().filter(started_at__gt=since).exists():
        return False
    try:
        with _alone():
            return True
    except AlreadyRunning:
        return False


def fail_abandoned(why: str) -> None:
    """Write down that a run failed whose process has died, also if it had not begun; unless another one runs by now."""
    try:
        with _alone():
            if not _fail_those_without_a_process():
                run = Reconciliation.objects.create(trigger=Trigger.TIMER, started_at=timezone.now())
                _fail(run, Report(), why)
    except AlreadyRunning:
        # It says what it finds, and of the dead one that it failed.
        return


def _fail_those_without_a_process() -> int:
    """Whoever is alone knows that no other run is under way, whatever their rows say; return how many there were."""
    dead = list(Reconciliation.objects.filter(outcome=ReconciliationOutcome.RUNNING).order_by("pk"))
    for run in dead:
        _fail(run, Report(), "its process has died")
    return len(dead)


def reconcile_in_time() -> Reconciliation | None:
    """The timed run, unless somebody ran within the last interval or runs just now."""
    if not is_time():
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
    return Reconciliation.objects.whole().finished().filter(trigger=Trigger.STARTUP, started_at__gt=moment).exists()


def _is_known(name: str) -> bool:
    found = Session.objects.alive().filter(name=name).exists() or Orphan.objects.filter(session_name=name).exists()
    return found or lists.is_there(keys.queue_key(name), f"{settings.WAQUEUE_LEGACY_PREFIX}{name}")


def _allowed(policy: str, trigger: Trigger) -> Policy:
    """A start-up repairs and archives; only the timed run and people purge."""
    if policy == Policy.PURGE and trigger == Trigger.STARTUP:
        return Policy.ARCHIVE
    return Policy(policy)


def _finish(run: Reconciliation, report: Report) -> None:
    if not report.findings:
        run.outcome = ReconciliationOutcome.CLEAN
    elif report.is_settled:
        run.outcome = ReconciliationOutcome.REPAIRED
    else:
        run.outcome = ReconciliationOutcome.FINDINGS
    _keep(run, report)


def _fail(run: Reconciliation, report: Report, why: str) -> None:
    """What was done before it failed is kept and told all the same."""
    run.outcome, run.error = ReconciliationOutcome.FAILED, why[:500]
    try:
        _keep(run, report)
    except DatabaseError:
        log.warning("reconciliation failed, and could not say so in the database: %s", why)


def _keep(run: Reconciliation, report: Report) -> None:
    """Write down how it ended and what it found and did, and tell it."""
    run.finished_at = timezone.now()
    run.counts = report.counts
    before = Reconciliation.objects.whole().filter(pk__lt=run.pk).exclude(outcome=ReconciliationOutcome.RUNNING).first()
    known = set(before.findings.values_list(*_WHAT)) if before is not None else set()
    run.is_repeat = (
        before is not None
        and not (run.dry_run or run.session_name)
        and (run.outcome == ReconciliationOutcome.FAILED or (run.trigger == Trigger.TIMER and bool(report.findings)))
        and (run.outcome, run.error) == (before.outcome, before.error)
        and not any(finding.was_put_right for finding in report.findings)
        and known == {_what(finding) for finding in report.findings}
    )
    run.save()
    if before is not None and run.is_repeat and before.is_repeat:
        # The timer finds each minute what waits for a person: the first time is kept, and the last.
        before.findings.update(reconciliation=run)
        before.delete()
    else:
        ReconciliationFinding.objects.bulk_create([_row(run, finding) for finding in report.findings], batch_size=1000)
    if run.error and not run.is_repeat:
        log.warning("reconciliation failed: %s", run.error)
    for finding in report.findings:
        is_news = run.trigger != Trigger.TIMER or finding.was_put_right or _what(finding) not in known
        log.log(logging.WARNING if is_news else logging.DEBUG, "%s", sentence(finding))
    if not run.is_repeat and run.outcome != ReconciliationOutcome.CLEAN:
        Event.objects.create(
            kind=EventKind.RECONCILIATION_FINISHED,
            data={"reconciliation": run.pk, "outcome": run.outcome, "counts": run.counts, "dry_run": run.dry_run},
        )
    _prune(run.finished_at)


_WHAT = ("kind", "queue", "messages")


def _what(finding: Finding) -> tuple[str, str, int]:
    return finding.kind, finding.queue, finding.messages


def _row(run: Reconciliation, finding: Finding) -> ReconciliationFinding:
    return ReconciliationFinding(
        reconciliation=run,
        kind=finding.kind,
        queue=finding.queue,
        session=finding.session,
        messages=finding.messages,
        action=finding.action,
        detail=finding.detail[:500],
    )


def sentence(finding: Finding) -> str:
    """A finding as one line that names the session and the number of messages."""
    what = _SENTENCES[finding.kind].format(queue=finding.queue, session=finding.session, messages=finding.messages)
    done = finding.action or "nothing done"
    return f"{what}: {done}{f' ({finding.detail})' if finding.detail else ''}"


_SENTENCES: dict[FindingKind, str] = {
    FindingKind.ORPHAN_QUEUE: "queue {queue}: session {session!r} does not exist, {messages} orphaned messages",
    FindingKind.LEGACY_QUEUE: "list {queue} of the old service, session {session!r}: {messages} messages",
    FindingKind.LEFTOVER_LIST: "queue {queue}: a list of it was left behind, with {messages} messages",
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
    FindingKind.VANISHED_ORPHAN: "queue {queue}, session {session!r}: {messages} orphaned messages left Redis by other "
    "hands",
    FindingKind.OTHER_DEPLOYMENT: "this Redis belongs to another database",
}


def _prune(now: datetime) -> None:
    old = Reconciliation.objects.filter(started_at__lt=now - _KEPT)
    clean = Reconciliation.objects.filter(
        trigger=Trigger.TIMER, outcome=ReconciliationOutcome.CLEAN, started_at__lt=now - _CLEAN_KEPT
    )
    (old | clean).delete()
