"""Messages of an orphan into a session's line, in their old order, with new places at its end."""

import logging
from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.utils import timezone

from sessions_app.database import part_of_an_act
from sessions_app.exceptions import Conflict, SessionNotFound, WaqueueError, primary_message
from sessions_app.models import (
    Event,
    EventKind,
    Orphan,
    OrphanEntry,
    OrphanState,
    Session,
)
from sessions_app.services import audit
from sessions_app.services.audit import Actor
from sessions_app.services.locks import lock_restores
from sessions_app.services.orphans import putting
from sessions_app.services.orphans.archiving import SUMMARY, archive, summarise
from sessions_app.services.orphans.duplicates import mark_known
from sessions_app.services.orphans.into_line import place
from sessions_app.services.orphans.progress import close_if_empty, note, take_off
from sessions_app.services.orphans.putting import Puts
from sessions_app.services.orphans.selection import Selection

log = logging.getLogger(__name__)

# Messages of one transaction, in which nobody else restores.
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
        while (
            count := restore_chunk(
                orphan, session, selection, actor=actor, with_duplicates=with_duplicates, done=restored, puts=puts
            )
        ) != 0:
            restored += count or 0
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
) -> int | None:
    """Restore of the next CHUNK of the chosen messages those that are in no line yet; return how many.

    That is 0 when nothing is left, and None when all of them are known: there may be others behind them. `done` is what
    this act did before. With `puts`, they go into the mirror while the caller goes on.
    """
    try:
        return _restore_chunk(orphan, session, selection, actor, with_duplicates, done, puts)
    except IntegrityError as error:
        # Whoever restores holds the lock: this is somebody else's doing.
        raise Conflict(f"these messages cannot be placed in a line: {primary_message(error)}") from error


def _restore_chunk(
    orphan: Orphan,
    session: Session,
    selection: Selection,
    actor: Actor,
    with_duplicates: bool,
    done: int,
    puts: Puts | None,
) -> int | None:
    now = timezone.now()
    # What goes into the mirror meanwhile waits for the disk there.
    with transaction.atomic() if puts is None else part_of_an_act():
        lock_restores()
        locked = Orphan.objects.select_for_update().get(pk=orphan.pk)
        if locked.state != OrphanState.ARCHIVED:
            if done:
                # The part before took the last of it.
                return 0
            raise Conflict(f"this orphan is {locked.state}: there is nothing to restore", state=locked.state)
        chosen = selection.of(orphan).filter(readable=True, restored_at=None)
        if not with_duplicates:
            chosen = chosen.filter(duplicate_of=None)
        entries = list(chosen.values_list("pk", flat=True)[:CHUNK])
        if not entries:
            return 0
        if not with_duplicates:
            # What was sent since they were archived, or placed by somebody else.
            known = mark_known(entries)
            entries = [entry for entry in entries if entry not in known]
            if not entries:
                return None
        told = {"by": actor.label, "restored_from": str(orphan.pk)}
        placed = place(orphan, session, entries, with_duplicates=with_duplicates, now=now, told=told)
        if not placed.count:
            raise SessionNotFound(f"the session {session.name!r} was deleted")
        _write_down(locked, session, placed.count, done, actor)
        transaction.on_commit(lambda: (puts or putting).put(session, placed))
    return placed.count


def _write_down(orphan: Orphan, session: Session, count: int, done: int, actor: Actor) -> None:
    take_off(orphan, count)
    before = f"{done} messages restored to {session.name}" if done else ""
    note(orphan, f"{done + count} messages restored to {session.name}", before=before, actor=actor)
    close_if_empty(orphan, OrphanState.RESTORED)
    orphan.save(update_fields=["messages", "resolution", "resolved_by", "state", "resolved_at"])
    audit.record(actor, "restore orphan", orphan.queue, count=count, session=session.name)


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
