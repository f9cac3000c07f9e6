"""Messages of an orphan into a session's line, in their old order, with new places at its end."""

import logging
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from sessions_app.exceptions import Conflict, SessionNotFound, WaqueueError
from sessions_app.models import (
    Event,
    EventKind,
    Message,
    MessageType,
    Orphan,
    OrphanEntry,
    OrphanState,
    Priority,
    Session,
    SessionCounter,
    Status,
    new_id,
)
from sessions_app.models.message import built
from sessions_app.services import audit
from sessions_app.services.audit import Actor
from sessions_app.services.orphans import putting
from sessions_app.services.orphans.archiving import SUMMARY, archive, summarise
from sessions_app.services.orphans.duplicates import known_messages, mark_known, own_id
from sessions_app.services.orphans.progress import close_if_empty, note, take_off
from sessions_app.services.orphans.putting import Puts
from sessions_app.services.orphans.selection import Selection

log = logging.getLogger(__name__)

# Messages of one transaction.
CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. `left` are those that still wait in the orphan."""

    session: str
    restored: int
    duplicates: int
    left: int


def restore(
    orphan: Orphan,
    session: Session,
    *,
    actor: Actor,
    selection: Selection | None = None,
    with_duplicates: bool = False,
) -> Restored:
    """Put the chosen messages into the line of `session`. Unreadable ones stay; duplicates too, unless asked for.

    Raises Conflict when the orphan is resolved already, SessionNotFound when the session is deleted meanwhile, and
    QueueUnavailable when a live orphan cannot be archived first.
    """
    selection = selection or Selection()
    selection.check_places(orphan)
    if orphan.state == OrphanState.DETECTED:
        orphan = archive(orphan, actor=actor)
    selection = selection.pinned(orphan)
    restored = 0
    puts = Puts()
    try:
        while count := restore_chunk(
            orphan, session, selection, actor=actor, with_duplicates=with_duplicates, done=restored, puts=puts
        ):
            restored += count
    except WaqueueError:
        if restored:
            conclude(orphan, session, restored, actor=actor)
        raise
    finally:
        puts.finish()
    return conclude(orphan, session, restored, actor=actor)


def restore_chunk(
    orphan: Orphan,
    session: Session,
    selection: Selection,
    *,
    actor: Actor,
    with_duplicates: bool = False,
    done: int = 0,
    puts: Puts | None = None,
) -> int:
    """Restore up to CHUNK of the chosen messages that are left; return how many. `done` is what this act did before.

    With `puts`, they go into the mirror while the caller goes on.
    """
    now = timezone.now()
    with transaction.atomic():
        locked = Orphan.objects.select_for_update().get(pk=orphan.pk)
        if locked.state != OrphanState.ARCHIVED:
            if done:
                # The part before took the last of it.
                return 0
            raise Conflict(f"this orphan is {locked.state}: there is nothing to restore", state=locked.state)
        # What stood in Redis is not needed, and is most of an entry.
        chosen = selection.of(orphan).filter(readable=True, restored_at=None).defer("raw")
        entries = _next_of(chosen) if with_duplicates else _new_ones(chosen)
        if not entries:
            return 0
        first = SessionCounter.draw(session.pk, len(entries))
        if first is None:
            raise SessionNotFound(f"the session {session.name!r} was deleted")
        taken = _taken_ids(entries, are_new=not with_duplicates)
        # One for all: what is the same goes to PostgreSQL once.
        origin = {"orphan": str(orphan.pk)}
        rows = [_message(entry, session, first + at, now, taken, origin) for at, entry in enumerate(entries)]
        moved = {row.pk for row, entry in zip(rows, entries, strict=True) if row is entry.message}
        Message.objects.keep([row for row in rows if row.pk not in moved])
        Message.objects.bulk_update([row for row in rows if row.pk in moved], _MOVED)
        OrphanEntry.objects.restored(now, zip(entries, rows, strict=True))
        for status, kind in _TOLD.items():
            Event.objects.tell(
                kind, session.pk, [row.pk for row in rows if row.status == status], by=actor.label,
                restored_from=str(orphan.pk),
            )  # fmt: skip
        _write_down(locked, session, len(entries), done, actor)
        queued = [row for row in rows if row.status == Status.QUEUED]
        transaction.on_commit(lambda: (puts or putting).put(session, queued))
    return len(entries)


# What a restored message may be, and what is told of it.
_TOLD = {
    Status.QUEUED: EventKind.MESSAGE_QUEUED,
    Status.SCHEDULED: EventKind.MESSAGE_SCHEDULED,
    Status.EXPIRED: EventKind.MESSAGE_EXPIRED,
}


def _write_down(orphan: Orphan, session: Session, count: int, done: int, actor: Actor) -> None:
    take_off(orphan, count)
    before = f"{done} messages restored to {session.name}" if done else ""
    note(orphan, f"{done + count} messages restored to {session.name}", before=before, actor=actor)
    close_if_empty(orphan, OrphanState.RESTORED)
    orphan.save(update_fields=["messages", "resolution", "resolved_by", "state", "resolved_at"])
    audit.record(actor, "restore orphan", orphan.queue, count=count, session=session.name)


def _next_of(chosen: QuerySet[OrphanEntry]) -> list[OrphanEntry]:
    """The next of the chosen, with the messages that they were where their session was deleted."""
    entries = list(chosen[:CHUNK])
    # By themselves: most have none, and each column of a message costs, also where it is null.
    rows = Message.objects.in_bulk([entry.message_id for entry in entries if entry.message_id])
    for entry in entries:
        if entry.message_id:
            entry.message = rows.get(entry.message_id)
    return entries


def _new_ones(chosen: QuerySet[OrphanEntry]) -> list[OrphanEntry]:
    """The next of the chosen that are in no line yet; what was sent since they were archived is marked on the way."""
    while entries := _next_of(chosen.filter(duplicate_of=None)):
        marked = mark_known(entries)
        if new := [entry for entry in entries if entry.pk not in marked]:
            return _once_each(new)
    return []


def _once_each(entries: list[OrphanEntry]) -> list[OrphanEntry]:
    """Without those whose id stands among them already: one job that stood in its list twice."""
    seen: set[uuid.UUID] = set()
    once = []
    for entry in entries:
        own = own_id(entry.job_id)
        if own is None or own not in seen:
            once.append(entry)
        if own is not None:
            seen.add(own)
    return once


def conclude(orphan: Orphan, session: Session, restored: int, *, actor: Actor) -> Restored:
    """Say what was restored, also by an act that failed; the orphan is resolved once nothing is left in it."""
    with transaction.atomic():
        locked = Orphan.objects.select_for_update().get(pk=orphan.pk)
        summarise(locked)
        readable = OrphanEntry.objects.filter(orphan=locked, readable=True, restored_at=None)
        duplicates = readable.exclude(duplicate_of=None).count()
        close_if_empty(locked, OrphanState.RESTORED)
        locked.save(update_fields=[*SUMMARY, "state", "resolved_at"])
        if restored:
            Event.objects.create(
                kind=EventKind.QUEUE_RESTORED,
                session=session,
                data={"orphan": str(locked.pk), "queue": locked.queue, "messages": restored, "by": actor.label},
            )
            log.warning("orphan %s: %d messages restored to session %s", locked.queue, restored, session.name)
    return Restored(session.name, restored, duplicates, locked.messages)


# What changes on the row of a deleted session's message when it moves into another line.
_MOVED = [
    "session", "seq", "status", "queued_at", "next_attempt_at", "max_attempts", "orphan", "scheduled_at",
]  # fmt: skip


def fate(entry: OrphanEntry, now: datetime) -> Status:
    """What an entry is once it is restored: it keeps a time that lies ahead, and is not sent once it has expired."""
    row = entry.message if entry.message is not None and entry.message.status == Status.ORPHANED else None
    scheduled_at = row.scheduled_at if row else term(entry, "scheduled_at")
    expires_at = row.expires_at if row else term(entry, "expires_at")
    if expires_at is not None and expires_at <= now:
        return Status.EXPIRED
    return Status.SCHEDULED if scheduled_at is not None and scheduled_at > now else Status.QUEUED


def term(entry: OrphanEntry, name: str) -> datetime | None:
    """One of the times that an entry carries."""
    text = entry.content.get(name)
    return datetime.fromisoformat(text) if text else None


def _message(
    entry: OrphanEntry, session: Session, seq: int, now: datetime, taken: set[uuid.UUID], origin: dict[str, str]
) -> Message:
    status = fate(entry, now)
    queued_at = None if status == Status.SCHEDULED else now
    if entry.message is not None and entry.message.status == Status.ORPHANED:
        row = entry.message
        row.session, row.seq, row.status, row.queued_at = session, seq, status, queued_at
        row.next_attempt_at, row.orphan = None, None
        row.scheduled_at = row.scheduled_at if status == Status.SCHEDULED else None
        row.max_attempts = row.attempts + settings.WAQUEUE_MAX_ATTEMPTS
        return row
    content = entry.content
    return built({
        "id": _own_id(entry, taken),
        "session_id": session.pk,
        "seq": seq,
        "recipient": entry.recipient,
        "type": content.get("type", MessageType.TEXT),
        "text": content.get("text", ""),
        "media_url": content.get("media_url", "")[:2000],
        "filename": content.get("filename", "")[:255],
        "caption": content.get("caption", ""),
        "template": content.get("template"),
        "priority": content.get("priority", Priority.NORMAL),
        "status": status,
        "max_attempts": settings.WAQUEUE_MAX_ATTEMPTS,
        "scheduled_at": term(entry, "scheduled_at") if status == Status.SCHEDULED else None,
        "expires_at": term(entry, "expires_at"),
        "client_ref": (content.get("client_ref") or entry.job_id)[:200],
        "metadata": origin,
        "created_at": entry.created_at or now,
        "queued_at": queued_at,
    })  # fmt: skip


def _own_id(entry: OrphanEntry, taken: set[uuid.UUID]) -> uuid.UUID:
    """The job's own id, so that whoever handed the message in still finds it; a new one where there is none."""
    own = own_id(entry.job_id)
    return new_id() if own is None or own in taken else own


def _taken_ids(entries: Sequence[OrphanEntry], *, are_new: bool) -> set[uuid.UUID]:
    """The ids of jobs that a row has already. Those that are new were looked for, and stand here once each."""
    if are_new:
        return {entry.message_id for entry in entries if entry.message_id}
    ids = [own for entry in entries if (own := own_id(entry.job_id)) is not None]
    twice = {own for own, count in Counter(ids).items() if count > 1}
    return twice | known_messages(entry.job_id for entry in entries)
