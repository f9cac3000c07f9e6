"""For good: an orphan's messages deleted, by a person who typed how many."""

import logging

from django.db import transaction
from django.utils import timezone

from sessions_app.exceptions import Conflict
from sessions_app.models import Event, EventKind, Message, Orphan, OrphanEntry, OrphanState, Status
from sessions_app.queues import lists
from sessions_app.services import audit
from sessions_app.services.audit import Actor
from sessions_app.services.orphans.archiving import archive, summarise
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
    selection = selection or Selection()
    orphan = checked(orphan, expected=expected, selection=selection)
    if orphan.state == OrphanState.DETECTED:
        # Renamed away first: what arrives from now on is a new orphan, not a part of what was confirmed.
        orphan = archive(orphan)
        orphan = checked(orphan, expected=expected, selection=selection)
    purged = 0
    while count := purge_chunk(orphan, selection):
        purged += count
    conclude(orphan, purged, actor=actor)
    return purged


def checked(orphan: Orphan, *, expected: int, selection: Selection) -> Orphan:
    """The orphan as it is now. Raises OrphanChanged, Conflict, QueueUnavailable."""
    current = Orphan.objects.get(pk=orphan.pk)
    if current.state == OrphanState.DETECTED:
        now = lists.length(bytes(current.key))
        if not selection.is_everything:
            raise Conflict("only a whole live orphan can be purged: archive it first, then choose")
    elif current.state == OrphanState.ARCHIVED:
        now = selection.of(current).filter(restored_at=None).count()
    else:
        raise Conflict(f"this orphan is {current.state}: there is nothing to purge", state=current.state)
    if now != expected:
        raise OrphanChanged(
            f"{expected} messages were confirmed, but there are {now} now: look again and confirm that number",
            messages=now,
        )
    return current


def purge_chunk(orphan: Orphan, selection: Selection) -> int:
    """Delete up to CHUNK of the chosen entries; return how many."""
    with transaction.atomic():
        Orphan.objects.select_for_update().get(pk=orphan.pk)
        chosen = list(selection.of(orphan).filter(restored_at=None).values_list("pk", "message_id")[:CHUNK])
        orphaned = [message_id for _, message_id in chosen if message_id is not None]
        Message.objects.filter(pk__in=orphaned, status=Status.ORPHANED).update(status=Status.CANCELLED, orphan=None)
        OrphanEntry.objects.filter(pk__in=[pk for pk, _ in chosen]).delete()
    return len(chosen)


def conclude(orphan: Orphan, purged: int, *, actor: Actor) -> None:
    """Write down what was purged; the orphan is resolved once nothing is left in it."""
    with transaction.atomic():
        locked = Orphan.objects.select_for_update().get(pk=orphan.pk)
        summarise(locked)
        done = f"{purged} messages purged"
        locked.resolution = f"{locked.resolution}; {done}"[-500:] if locked.resolution else done
        locked.resolved_by = actor.label
        if not locked.messages:
            locked.state, locked.resolved_at = OrphanState.PURGED, timezone.now()
        locked.save()
        Event.objects.create(
            kind=EventKind.QUEUE_PURGED,
            session=locked.session,
            data={"orphan": str(locked.pk), "queue": locked.queue, "messages": purged, "by": actor.label},
        )
        audit.record(actor, "purge orphan", locked.queue, count=purged)
    log.warning("orphan %s: %d messages purged by %s", orphan.queue, purged, actor.label)
