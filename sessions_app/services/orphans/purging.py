"""For good: an orphan's messages deleted, by a person who typed how many."""

import logging
import uuid

from django.db import transaction

from sessions_app.exceptions import Conflict
from sessions_app.models import Event, EventKind, Message, Orphan, OrphanEntry, OrphanState, Status
from sessions_app.queues import lists
from sessions_app.services import audit, endings
from sessions_app.services.audit import Actor
from sessions_app.services.orphans.archiving import SUMMARY, archive, summarise
from sessions_app.services.orphans.progress import close_if_empty, note, take_off
from sessions_app.services.orphans.selection import Selection

log = logging.getLogger(__name__)

CHUNK = 5000


class OrphanChanged(Conflict):
    """The orphan holds another number of messages than was confirmed: nothing was deleted."""

    code = "orphan_changed"


def purge(orphan: Orphan, *, expected: int, actor: Actor, selection: Selection | None = None) -> int:
    """Delete the chosen messages for good; return how many.

    `expected` is the number that the person confirmed. Raises OrphanChanged when it is another one now, Conflict when
    the orphan is resolved already, QueueUnavailable when a live one cannot be reached.
    """
    orphan, selection = confirmed(orphan, expected=expected, selection=selection or Selection())
    purged = 0
    while count := purge_chunk(orphan, selection, actor=actor, done=purged):
        purged += count
    conclude(orphan, purged, actor=actor)
    return purged


def confirmed(orphan: Orphan, *, expected: int, selection: Selection) -> tuple[Orphan, Selection]:
    """The orphan, out of Redis, and just those messages of it that were counted. Raises what `purge` raises."""
    current = Orphan.objects.get(pk=orphan.pk)
    selection.check_places(current)
    if current.state == OrphanState.DETECTED:
        _compare(lists.length(bytes(current.key)), expected)
        # Renamed away first: what arrives from now on is a new orphan, not a part of what was confirmed.
        current = archive(current)
    with transaction.atomic():
        state = Orphan.objects.select_for_update().values_list("state", flat=True).get(pk=current.pk)
        if state != OrphanState.ARCHIVED:
            raise Conflict(f"this orphan is {state}: there is nothing to purge", state=state)
        _compare(selection.of(current).filter(restored_at=None).count(), expected)
        return current, selection.pinned(current)


def _compare(now: int, expected: int) -> None:
    if now != expected:
        raise OrphanChanged(
            f"{expected} messages were confirmed, but there are {now} now: look again and confirm that number",
            messages=now,
        )


def purge_chunk(orphan: Orphan, selection: Selection, *, actor: Actor, done: int = 0) -> int:
    """Delete up to CHUNK of the chosen entries; return how many. `done` is what this act did before."""
    with transaction.atomic():
        locked = Orphan.objects.select_for_update().get(pk=orphan.pk)
        chosen = list(selection.of(orphan).filter(restored_at=None).values_list("pk", "message_id")[:CHUNK])
        if not chosen:
            return 0
        _cancel([message_id for _, message_id in chosen if message_id is not None], actor)
        OrphanEntry.objects.filter(pk__in=[pk for pk, _ in chosen]).delete()
        take_off(locked, len(chosen))
        before = f"{done} messages purged" if done else ""
        note(locked, f"{done + len(chosen)} messages purged", before=before, actor=actor)
        close_if_empty(locked, OrphanState.PURGED)
        locked.save(update_fields=["messages", "resolution", "resolved_by", "state", "resolved_at"])
        audit.record(actor, "purge orphan", locked.queue, count=len(chosen))
    return len(chosen)


def _cancel(message_ids: list[uuid.UUID], actor: Actor) -> None:
    """What a deleted session left is not sent any more, and its history says so."""
    orphaned = Message.objects.select_for_update().filter(pk__in=message_ids, status=Status.ORPHANED)
    ids = list(orphaned.order_by("pk").values_list("pk", flat=True))
    endings.end(ids, Status.CANCELLED, by=actor.label)
    Message.objects.filter(pk__in=ids).update(orphan=None)


def conclude(orphan: Orphan, purged: int, *, actor: Actor) -> None:
    """Say what was purged; the orphan is resolved once nothing is left in it."""
    with transaction.atomic():
        locked = Orphan.objects.select_for_update().get(pk=orphan.pk)
        summarise(locked)
        close_if_empty(locked, OrphanState.PURGED)
        locked.save(update_fields=[*SUMMARY, "state", "resolved_at"])
        if purged:
            Event.objects.create(
                kind=EventKind.QUEUE_PURGED,
                session=locked.session,
                data={"orphan": str(locked.pk), "queue": locked.queue, "messages": purged, "by": actor.label},
            )
    log.warning("orphan %s: %d messages purged by %s", orphan.queue, purged, actor.label)
