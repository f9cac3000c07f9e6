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
from sessions_app.services.orphans.archiving import build_entry, mark_duplicates, summarise


def archive_unknown(session: Session, job_ids: Sequence[bytes], *, queue_key: bytes | None) -> int:
    """Copy these jobs into the session's orphan of unknown jobs, then take them out of `queue_key`; return how many.

    Begun again after a crash, it copies nothing twice. Raises QueueUnavailable.
    """
    now = timezone.now()
    parsed = lists.read_jobs(job_ids)
    with transaction.atomic():
        lock_name(session.name)
        orphan = Orphan.objects.filter(
            session=session, source=OrphanSource.UNKNOWN_JOBS, state=OrphanState.ARCHIVED
        ).first() or Orphan(
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
        # By their bytes: one id may come again with other content, and nothing may go that was not kept.
        kept = OrphanEntry.objects.filter(orphan=orphan, job_id__in={entry.job_id for entry in parsed})
        known = {bytes(raw) for raw in kept.values_list("raw", flat=True)}
        last = OrphanEntry.objects.filter(orphan=orphan).aggregate(last=Max("index"))["last"]
        start = 0 if last is None else last + 1
        new = [entry for entry in parsed if entry.raw not in known]
        OrphanEntry.objects.bulk_create([build_entry(orphan, start + at, entry) for at, entry in enumerate(new)])
        mark_duplicates(orphan)
        summarise(orphan)
        orphan.save()
        if new:
            Event.objects.create(
                kind=EventKind.QUEUE_ORPHANED,
                session=session,
                data={"orphan": str(orphan.pk), "queue": orphan.queue, "messages": len(new), "reason": orphan.reason},
            )
    if queue_key is not None:
        lists.remove_jobs(queue_key, job_ids)
    return len(new)
