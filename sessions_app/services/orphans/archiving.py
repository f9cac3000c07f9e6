"""Out of Redis, into PostgreSQL, whole.

The steps, with a commit between any two: the row with its staging key; the list renamed to it; copied; the row set
`archived`; Redis cleaned. A run that finds a step undone goes on from there, so a crash anywhere loses nothing and
doubles nothing. Renaming is one step in Redis: a producer that comes late begins a new list, which is a new orphan.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import Count, Max, Min, Q
from django.utils import timezone

from sessions_app import crash_points
from sessions_app.database import part_of_an_act
from sessions_app.exceptions import Conflict, InvalidInput
from sessions_app.models import (
    Event,
    EventKind,
    Orphan,
    OrphanEntry,
    OrphanSource,
    OrphanState,
    Session,
)
from sessions_app.models.orphan import new_staging_key
from sessions_app.queues import lists
from sessions_app.queues.entries import ParsedEntry, printable
from sessions_app.services import audit, phones
from sessions_app.services.audit import Actor
from sessions_app.services.locks import lock_name
from sessions_app.services.orphans.duplicates import find_known, own_id


def detect(
    key: bytes,
    *,
    session_name: str,
    source: str,
    reason: str,
    messages: int,
    now: datetime,
    session: Session | None = None,
) -> tuple[Orphan, bool]:
    """The row of a queue that is seen in Redis without an owner, and whether it is seen for the first time."""
    with transaction.atomic():
        orphan, is_new = Orphan.objects.get_or_create(
            key=key,
            state=OrphanState.DETECTED,
            defaults={
                "queue": queue_label(key),
                "session_name": session_name,
                "session": session,
                "source": source,
                "reason": reason,
                "messages": messages,
                "first_seen_at": now,
                "last_seen_at": now,
            },
        )
        if is_new:
            _tell(EventKind.QUEUE_ORPHANED, orphan)
        else:
            # One that was archived meanwhile has counted what it holds.
            seen = Orphan.objects.filter(pk=orphan.pk, state=OrphanState.DETECTED)
            seen.update(messages=messages, last_seen_at=now)
            orphan.messages = messages
    return orphan, is_new


def queue_label(key: bytes) -> str:
    """A list's name as people read it: an RQ queue without RQ's own prefix, bytes that are no text escaped."""
    return printable(key.removeprefix(b"rq:queue:"))


def archive(orphan: Orphan, *, actor: Actor | None = None, is_for_its_session: bool = False) -> Orphan:
    """Copy a detected orphan out of Redis and delete it there. Raises Conflict when its session exists now.

    A session that takes over what it finds under its name says `is_for_its_session`.
    Raises QueueUnavailable when Redis cannot be reached; the next run finishes what was begun.
    """
    locked = begin(orphan, actor=actor, is_for_its_session=is_for_its_session)
    crash_points.reach("archive: row written")
    return finish_archiving(locked, is_for_its_session=is_for_its_session)


def begin(orphan: Orphan, *, actor: Actor | None = None, is_for_its_session: bool = False) -> Orphan:
    """Write down that a detected orphan is being archived, and to which key its list is renamed. Raises Conflict."""
    with transaction.atomic():
        lock_name(orphan.session_name)
        locked = Orphan.objects.select_for_update().filter(pk=orphan.pk).first()
        if locked is None:
            # A reconciliation has met its session, and forgot it.
            raise Conflict("this orphan is none any more: its queue has a session")
        if locked.state != OrphanState.DETECTED:
            raise Conflict(f"this orphan is {locked.state} already", state=locked.state)
        owned = Session.objects.alive().filter(name=orphan.session_name).exists()
        if locked.source == OrphanSource.RQ and owned and not is_for_its_session:
            raise Conflict(f"the session {orphan.session_name!r} exists now: its queue is no orphan")
        if not locked.staging_key:
            locked.staging_key = new_staging_key(bytes(locked.key))
            locked.save(update_fields=["staging_key"])
        if actor is not None:
            audit.record(actor, "archive orphan", locked.queue, count=locked.messages)
    return locked


def finish_archiving(orphan: Orphan, *, is_for_its_session: bool = False) -> Orphan:
    """Go on with an archiving from whatever step it has reached. Raises QueueUnavailable.

    Somebody else may be at the same one: whoever comes second to a step finds the orphan archived, and leaves it so.
    Raises Conflict where the list, left alone as its session's, was renamed by the session since.
    """
    staging = bytes(orphan.staging_key)
    if orphan.state == OrphanState.DETECTED:
        set_aside(orphan, is_for_its_session=is_for_its_session)
        crash_points.reach("archive: list renamed")
        copied = _copy(orphan, staging)
        crash_points.reach("archive: list copied")
        _conclude(orphan, copied)
        crash_points.reach("archive: row archived")
        orphan.refresh_from_db()
    if not orphan.is_cleaned:
        # Not before the copy is committed, whoever called.
        transaction.on_commit(lambda: _clean(orphan))
    return orphan


def set_aside(orphan: Orphan, *, is_for_its_session: bool = False) -> None:
    """Rename an orphan's list to its staging key, if that was not done: from then on nobody adds to it.

    Raises QueueUnavailable.
    """
    staging = bytes(orphan.staging_key)
    with transaction.atomic():
        # Whoever makes a session of this name waits until its queue is out of the way.
        lock_name(orphan.session_name)
        if _is_archived(orphan):
            return
        is_owned = Session.objects.alive().filter(name=orphan.session_name).exists()
        is_anothers = orphan.source == OrphanSource.RQ and is_owned and not is_for_its_session
        # What was copied in part and then lost with Redis is all there is: a list of that name is another one now.
        is_begun = bool(lists.length(staging)) or OrphanEntry.objects.filter(orphan=orphan).exists()
        if not is_begun and not is_anothers:
            lists.rename_away(bytes(orphan.key), staging)


def _is_archived(orphan: Orphan) -> bool:
    """Whether somebody else has brought this archiving to its end; if not, nobody does before the commit."""
    locked = Orphan.objects.select_for_update().values_list("state", flat=True).get(pk=orphan.pk)
    return locked != OrphanState.DETECTED


def _clean(orphan: Orphan) -> None:
    if orphan.source == OrphanSource.RQ:
        lists.delete(bytes(orphan.staging_key), is_rq=True, copied=lambda job_ids: _copied(orphan, job_ids))
    else:
        lists.delete(bytes(orphan.staging_key), is_rq=False)
    crash_points.reach("archive: Redis cleaned")
    orphan.is_cleaned = True
    orphan.save(update_fields=["is_cleaned"])


def _copied(orphan: Orphan, job_ids: Sequence[bytes]) -> dict[bytes, bytes]:
    """What was copied of these jobs, by their ids."""
    names = {printable(job_id, 200): job_id for job_id in job_ids}
    return {names[name]: raw for name, raw in OrphanEntry.objects.raw_of(orphan, list(names)).items()}


def _copy(orphan: Orphan, staging: bytes) -> int:
    """Keep what stands in the renamed list; return how many entries that was. Raises QueueUnavailable."""
    is_rq = orphan.source == OrphanSource.RQ
    equals: Counter[str] = Counter()
    start = 0
    while parsed := lists.read(staging, start, is_rq=is_rq):
        entries = build_entries(orphan, start, parsed, equals)
        known = find_known([entry for entry in entries if is_rq or entry.readable])
        for entry in entries:
            entry.duplicate_of = known.get(entry.index)
        # Where there is a row of a job, the row decides: it says what became of its message.
        new = [entry for entry in entries if not (is_rq and entry.duplicate_of and _is_own(entry))]
        with part_of_an_act():
            if _is_archived(orphan):
                # And maybe restored or purged since: what was read before that is not to come back.
                return start
            OrphanEntry.objects.keep(orphan, new)
        start += len(parsed)
        crash_points.reach("archive: part copied")
    return start


def _is_own(entry: OrphanEntry) -> bool:
    return entry.duplicate_of == own_id(entry.job_id)


def _conclude(orphan: Orphan, copied: int) -> None:
    now = timezone.now()
    with transaction.atomic():
        locked = Orphan.objects.select_for_update().get(pk=orphan.pk)
        if locked.state != OrphanState.DETECTED:
            return
        if lists.length(bytes(locked.staging_key)) > copied:
            # Who renames holds the row too: what is not there now is not renamed any more.
            raise Conflict(f"the session {locked.session_name!r} has begun to take this queue over, and goes on")
        summarise(locked)
        if locked.messages:
            locked.state = OrphanState.ARCHIVED
            locked.archived_at = now
            _tell(EventKind.QUEUE_ARCHIVED, locked)
        else:
            # Nothing but jobs whose rows say what became of them.
            locked.state = OrphanState.VANISHED
            locked.resolved_at = now
            locked.resolution = "nothing in it was without a row"
        locked.save()


# What `summarise` counts.
SUMMARY = ("messages", "unreadable", "oldest_at", "newest_at")


def summarise(orphan: Orphan) -> None:
    """Count what an archived orphan still holds: its entries that were not restored."""
    waiting = OrphanEntry.objects.filter(orphan=orphan, restored_at=None)
    sums = waiting.aggregate(
        count=Count("pk"), bad=Count("pk", filter=Q(readable=False)), oldest=Min("created_at"), newest=Max("created_at")
    )
    orphan.messages, orphan.unreadable = sums["count"], sums["bad"]
    orphan.oldest_at, orphan.newest_at = sums["oldest"], sums["newest"]


def build_entries(
    orphan: Orphan, start: int, parsed: Sequence[ParsedEntry], equals: "Counter[str]"
) -> list[OrphanEntry]:
    """Unsaved entries of what stood in Redis from place `start` on. `equals` counts from one part to the next.

    What bears no id gets one of its bytes, its queue and how many of the same bytes stood before it: the list that
    comes back with an old Redis is known by it, and two that are equal are two messages.
    """
    entries = [build_entry(orphan, start + at, entry) for at, entry in enumerate(parsed)]
    for entry in entries:
        if entry.readable and not entry.job_id:
            name = "raw-" + hashlib.sha256(orphan.queue.encode() + b"\0" + bytes(entry.raw)).hexdigest()[:40]
            equals[name] += 1
            entry.job_id = name if equals[name] == 1 else f"{name}-{equals[name]}"
    return entries


def build_entry(orphan: Orphan, index: int, parsed: ParsedEntry) -> OrphanEntry:
    """An unsaved entry from what stood in Redis; a phone that is none makes it unreadable."""
    recipient, error = "", parsed.error
    if not error:
        try:
            recipient = phones.normalise(parsed.to)
        except InvalidInput:
            error = f"{parsed.to[:50]!r} is no phone"
    return OrphanEntry(
        orphan_id=orphan.pk,
        index=index,
        raw=parsed.raw,
        job_id=parsed.job_id[:200],
        recipient=recipient,
        content={**parsed.content, "to": recipient} if recipient else parsed.content,
        created_at=parsed.created_at,
        readable=not error,
        error=error[:300],
    )


def _tell(kind: EventKind, orphan: Orphan) -> None:
    Event.objects.create(
        kind=kind,
        session=orphan.session,
        data={"orphan": str(orphan.pk), "queue": orphan.queue, "messages": orphan.messages, "reason": orphan.reason},
    )
