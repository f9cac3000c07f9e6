"""Jobs in the queue of a known session that PostgreSQL has no row for: kept for a person, never dropped, never sent.

They come from a database that was restored from a backup older than Redis, or from somebody who put jobs there by hand.
"""

from collections.abc import Sequence

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from sessions_app.models import Event, EventKind, Orphan, OrphanEntry, OrphanSource, OrphanState, Session
from sessions_app.queues import lists
from sessions_app.services.locks import lock_name
from sessions_app.services.orphans.archiving import build_entry, summarise
from sessions_app.services.orphans.duplicates import mark_known


def archive_unknown(session: Session, job_ids: Sequence[bytes]) -> tuple[int, dict[bytes, bytes]]:
    """Copy these jobs into the session's orphan of unknown jobs; return how many were new, and what was copied of each.

    Some hundreds at once. Begun again after a crash, it copies nothing twice. Raises QueueUnavailable.
    """
    now = timezone.now()
    parsed = lists.read_jobs(job_ids)
    with transaction.atomic():
        lock_name(session.name)
        orphan = Orphan.objects.filter(
            session=session,
            source=OrphanSource.UNKNOWN_JOBS,
            state=OrphanState.ARCHIVED,
            # Once somebody has decided about a part of one, what comes is another: a place is never given twice.
            resolution="",
        ).select_for_update().first() or Orphan(
            queue=session.queue_name,
            key=b"",
            session_name=session.name,
            session=session,
            source=OrphanSource.UNKNOWN_JOBS,
            state=OrphanState.ARCHIVED,
            reason="jobs without a row in this database",
            first_seen_at=now,
            archived_at=now,
            is_cleaned=True,
        )
        orphan.last_seen_at = now
        orphan.save()
        entries = OrphanEntry.objects.filter(orphan=orphan)
        # By their bytes: one id may come again with other content, and nothing may go that was not kept.
        # By their ids alone: of a large orphan, all entries would be compared with all ids.
        same = OrphanEntry.objects.filter(job_id__in={entry.job_id for entry in parsed})
        kept = [(job, raw) for pk, job, raw in same.values_list("orphan", "job_id", "raw") if pk == orphan.pk]
        known = {bytes(raw) for _, raw in kept}
        # One whose content was deleted already was kept before a crash.
        known |= {job_id.encode() for job_id, _ in kept}
        last = entries.aggregate(last=Max("index"))["last"]
        start = 0 if last is None else last + 1
        new = [entry for entry in parsed if entry.raw not in known]
        made = [build_entry(orphan, start + at, entry) for at, entry in enumerate(new)]
        OrphanEntry.objects.bulk_create(made)
        mark_known([entry.pk for entry in made if entry.readable])
        summarise(orphan)
        orphan.save()
        if new:
            Event.objects.create(
                kind=EventKind.QUEUE_ORPHANED,
                session=session,
                data={"orphan": str(orphan.pk), "queue": orphan.queue, "messages": len(new), "reason": orphan.reason},
            )
    return len(new), {job_id: entry.raw for job_id, entry in zip(job_ids, parsed, strict=True)}
