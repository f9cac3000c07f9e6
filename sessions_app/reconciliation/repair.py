"""What was found is put right, as far as a machine may: nothing is deleted unless an operator set that policy."""

import logging
from collections.abc import Callable
from enum import StrEnum

from django.conf import settings
from django.utils import timezone

from sessions_app.exceptions import Conflict
from sessions_app.models import FindingKind, Orphan, OrphanSource, OrphanState, Session
from sessions_app.queues import inspect, keys, lists, mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation import older_database, rebuild
from sessions_app.reconciliation.replaced import settle_replaced
from sessions_app.reconciliation.report import Finding, Report
from sessions_app.services import orphans
from sessions_app.services.audit import Actor
from sessions_app.services.orphans.adopting import restore_young
from sessions_app.services.orphans.archiving import queue_label
from sessions_app.services.orphans.unknown import archive_unknown

log = logging.getLogger(__name__)


class Policy(StrEnum):
    """What becomes of a queue without an owner."""

    REPORT = "report"
    ARCHIVE = "archive"
    PURGE = "purge"


ACTOR = Actor("reconciliation")


def repair(report: Report, *, policy: Policy, legacy_policy: Policy) -> None:
    """Act on every finding and write into it what was done. Raises QueueUnavailable and database errors."""
    if report.stopped:
        return
    rebuilt: set[int] = set()
    for finding in _in_order(report):
        match finding.kind:
            case FindingKind.OLDER_DATABASE:
                older_database.resolve(wait=True)
                finding.action = "made uncertain"
            case FindingKind.GENERATION_LOST:
                rebuild.rebuild(inspect.establish_generation())
                finding.action = "rebuilt"
            case FindingKind.ORPHAN_QUEUE:
                _say_unreadable(report, finding, _orphan(finding, policy))
            case FindingKind.LEGACY_QUEUE:
                _say_unreadable(report, finding, _legacy(finding, legacy_policy))
            case FindingKind.UNKNOWN_JOB if finding.row is not None:
                archive_unknown(finding.row, finding.job_ids, queue_key=keys.queue_key(finding.session).encode())
                finding.action = "archived"
            case FindingKind.STRANDED_SESSION:
                mirror.signal([finding.session], client=upkeep_client())
                finding.action = "signalled"
            case FindingKind.EMPTY_NAME:
                inspect.forget_empty_name(finding.key)
                finding.action = "forgotten"
            case _ if finding.row is not None:
                if finding.row.pk not in rebuilt:
                    rebuild.rebuild_session(finding.row, upkeep_client())
                    rebuilt.add(finding.row.pk)
                if finding.kind == FindingKind.FINAL_JOB:
                    lists.remove_jobs(keys.queue_key(finding.session).encode(), finding.job_ids)
                finding.action = "put right"


def _in_order(report: Report) -> list[Finding]:
    """What decides about the others comes first; jobs that nobody knows are saved before their queue is rewritten."""
    first = [FindingKind.OLDER_DATABASE, FindingKind.UNKNOWN_JOB, FindingKind.GENERATION_LOST]
    rank: Callable[[Finding], int] = lambda finding: first.index(finding.kind) if finding.kind in first else len(first)  # noqa: E731
    return sorted(report.findings, key=rank)


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
        Orphan.objects.filter(pk=orphan.pk, state=OrphanState.DETECTED).delete()
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
