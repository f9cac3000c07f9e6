"""What was found is put right, as far as a machine may: nothing is deleted unless an operator set that policy."""

import logging
import traceback
from enum import StrEnum

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from sessions_app.exceptions import Conflict, OtherDeployment, WaqueueError, primary_message
from sessions_app.models import (
    FAILED_ACTION,
    Deployment,
    FindingKind,
    Orphan,
    OrphanSource,
    OrphanState,
    Session,
)
from sessions_app.queues import inspect, keys, lists, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation import older_database, rebuild
from sessions_app.reconciliation.replaced import settle_replaced
from sessions_app.reconciliation.report import Finding, Report
from sessions_app.services import orphans
from sessions_app.services.audit import Actor
from sessions_app.services.orphans.adopting import restore_young
from sessions_app.services.orphans.archiving import queue_label

log = logging.getLogger(__name__)


class Policy(StrEnum):
    """What becomes of a queue without an owner."""

    REPORT = "report"
    ARCHIVE = "archive"
    PURGE = "purge"


ACTOR = Actor("reconciliation")


def repair(report: Report, *, policy: Policy, legacy_policy: Policy) -> None:
    """Act on every finding and write into it what was done. Raises QueueUnavailable and database errors.

    One that cannot be put right says so, and keeps none of the others from it, but for an older database: that ends it.
    """
    if report.stopped:
        return
    rewritten: set[int] = set()
    # What decides about the others comes first.
    first = (FindingKind.OLDER_DATABASE, FindingKind.GENERATION_LOST)
    for finding in sorted(report.findings, key=lambda finding: finding.kind not in first):
        try:
            _put_right(report, finding, rewritten, policy=policy, legacy_policy=legacy_policy)
        except Exception as error:
            # While a database is older than Redis, jobs that are put hide what was sent.
            must_end = isinstance(error, OtherDeployment) or finding.kind == FindingKind.OLDER_DATABASE
            if must_end or not _may_go_on():
                raise
            finding.action, finding.detail = FAILED_ACTION, primary_message(error)
            # Where it went wrong, without the error's own text: that may quote what stands in the queue.
            where = "" if isinstance(error, WaqueueError) else "".join(traceback.format_tb(error.__traceback__))
            log.info("queue %s could not be put right: %s\n%s", finding.queue, finding.detail, where)
    if report.leftovers:
        rebuild.clear_unfinished(report.leftovers, upkeep_client())


def _may_go_on() -> bool:
    """Whether both stores still answer, and PostgreSQL on the connection that holds the lock of this run."""
    return connection.connection is not None and connection.is_usable() and inspect.is_reachable(client=upkeep_client())


def _put_right(report: Report, finding: Finding, rewritten: set[int], *, policy: Policy, legacy_policy: Policy) -> None:
    match finding.kind:
        case FindingKind.OLDER_DATABASE:
            older_database.resolve(wait=True)
            finding.action = "made uncertain"
        case FindingKind.GENERATION_LOST:
            _rebuild(finding)
        case FindingKind.ORPHAN_QUEUE | FindingKind.LEFTOVER_LIST:
            _say_unreadable(report, finding, _orphan(finding, policy))
        case FindingKind.LEGACY_QUEUE:
            _say_unreadable(report, finding, _legacy(finding, legacy_policy))
        case FindingKind.VANISHED_ORPHAN if finding.orphan is not None:
            finding.action = "closed" if _close(finding.orphan) else "no orphan any more"
        case FindingKind.STRANDED_SESSION:
            mirror.signal([finding.session], client=upkeep_client())
            finding.action = "signalled"
        case FindingKind.EMPTY_NAME:
            inspect.forget_empty_name(finding.key)
            finding.action = "forgotten"
        case _ if finding.row is not None:
            # One rewriting is all that a queue needs. Jobs that nobody knows are saved out of the list it replaces.
            if finding.row.pk not in rewritten:
                rebuild.rebuild_session(finding.row, upkeep_client())
                rewritten.add(finding.row.pk)
            finding.action = "archived" if finding.kind == FindingKind.UNKNOWN_JOB else "put right"


def _rebuild(finding: Finding) -> None:
    generation = inspect.establish_generation()
    if rebuild.rebuild(generation) is not None:
        finding.action = "rebuilt"
    elif Deployment.current().redis_generation == generation:
        finding.action, finding.detail = "put right", "another process rebuilt the queues"
    else:
        finding.detail = "another process is rebuilding the queues"


def _close(orphan: Orphan) -> bool:
    """Close an orphan that was left in Redis and is gone from there; False when it is back or was decided about."""
    if lists.length(bytes(orphan.key)):
        return False
    return bool(
        Orphan.objects.filter(pk=orphan.pk, state=OrphanState.DETECTED, staging_key=b"").update(
            state=OrphanState.VANISHED, resolved_at=timezone.now(), resolution="it left Redis by other hands"
        )
    )


def _say_unreadable(report: Report, finding: Finding, archived: Orphan | None) -> None:
    if archived is not None and archived.unreadable:
        report.add(
            FindingKind.UNREADABLE_ENTRY, queue=finding.queue, session=finding.session, messages=archived.unreadable,
            action="purged" if archived.state == OrphanState.PURGED else "set aside", detail=f"orphan {archived.pk}",
        )  # fmt: skip


def _orphan(finding: Finding, policy: Policy) -> Orphan | None:
    if lists.is_staged(finding.key):
        return _finish(finding)
    if lists.is_replaced(finding.key):
        finding.messages = settle_replaced(finding.key)
        finding.action = "put right"
        return None
    orphan, _ = orphans.detect(
        finding.key,
        session_name=finding.session,
        source=OrphanSource.RQ,
        reason=f"there is no session named {finding.session}"[:500],
        messages=finding.messages,
        now=timezone.now(),
    )
    if policy == Policy.REPORT:
        finding.detail = "left in Redis for a person to decide"
        return None
    return _archive(orphan, finding, policy)


def _archive(orphan: Orphan, finding: Finding, policy: Policy) -> Orphan | None:
    try:
        archived = orphans.archive(orphan)
    except Conflict as error:
        # Its session was made meanwhile: its queue is none of ours any more.
        finding.detail = error.detail
        finding.action = "no orphan any more"
        _forget(orphan)
        return None
    finding.action, finding.messages = "archived", archived.messages
    finding.detail = f"orphan {archived.pk}"
    if archived.state != OrphanState.ARCHIVED:
        finding.detail = archived.resolution
    elif policy == Policy.PURGE:
        log.warning("queue %s: %d messages are purged by policy", finding.queue, archived.messages)
        orphans.purge(archived, expected=archived.messages, actor=ACTOR)
        finding.action = "purged"
    return archived


def _forget(orphan: Orphan) -> None:
    """Delete the row of a queue that is its session's, unless the session archives it: it leads to messages then."""
    with transaction.atomic():
        # Locked before it is looked at: a deletion by Django looks first, and deletes what it saw whatever that is now.
        locked = Orphan.objects.select_for_update().filter(pk=orphan.pk, state=OrphanState.DETECTED, staging_key=b"")
        if (row := locked.first()) is not None:
            row.delete()


def _legacy(finding: Finding, policy: Policy) -> Orphan | None:
    if lists.is_staged(finding.key):
        return _finish(finding)
    session = Session.objects.alive().filter(name=finding.session).select_related("dispatch").first()
    orphan, _ = orphans.detect(
        finding.key,
        session_name=finding.session,
        session=session,
        source=OrphanSource.LEGACY,
        reason="a list of the old service"
        if session
        else f"a list of the old service; no session {finding.session}"[:500],
        messages=finding.messages,
        now=timezone.now(),
    )
    if session is not None:
        archived = _archive(orphan, finding, Policy.ARCHIVE)
        _give_young(orphan, session, finding)
        return archived
    if policy == Policy.REPORT:
        finding.detail = f"left in Redis for a person to decide: orphan {orphan.pk}"
        return None
    return _archive(orphan, finding, policy)


def _give_young(orphan: Orphan, session: Session, finding: Finding) -> None:
    orphan.refresh_from_db()
    if orphan.state != OrphanState.ARCHIVED:
        return
    restored = restore_young(orphan, session, actor=ACTOR)
    orphan.refresh_from_db()
    finding.action = "adopted" if orphan.state == OrphanState.RESTORED else "archived"
    finding.detail = f"{restored} messages into {session.name}, {orphan.messages} wait for a person: orphan {orphan.pk}"


def _finish(finding: Finding) -> Orphan:
    """Bring an archiving to its end that died half-way, or that a lost row has forgotten."""
    orphan = Orphan.objects.filter(staging_key=finding.key).first()
    if orphan is not None and orphan.is_cleaned:
        # An old snapshot of Redis brought the list back. It was copied whole.
        orphan.is_cleaned = False
        finding.action, finding.detail = "deleted again", f"it was archived before: orphan {orphan.pk}"
        return orphans.finish_archiving(orphan)
    if orphan is None:
        now = timezone.now()
        original = lists.original_of(finding.key)
        is_rq = original.startswith(keys.RQ_QUEUE_PREFIX.encode())
        orphan = Orphan.objects.create(
            queue=queue_label(original),
            # A queue of that name may be there again and have a row of its own.
            key=finding.key,
            session_name=finding.session
            if is_rq
            else queue_label(original).removeprefix(settings.WAQUEUE_LEGACY_PREFIX),
            source=OrphanSource.RQ if is_rq else OrphanSource.LEGACY,
            reason="an archiving that no row knew of",
            first_seen_at=now,
            last_seen_at=now,
            staging_key=finding.key,
        )
    orphan = orphans.finish_archiving(orphan)
    session = Session.objects.alive().filter(name=orphan.session_name).select_related("dispatch").first()
    finding.action, finding.messages, finding.detail = "archived", orphan.messages, f"orphan {orphan.pk}"
    if session is not None and orphan.source in (OrphanSource.LEGACY, OrphanSource.RQ):
        _give_young(orphan, session, finding)
    return orphan
