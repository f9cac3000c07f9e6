"""What a session finds under its name: young messages go back into its line, older ones wait for a person.

A notice that is days old may be worse than none, so no machine sends it: `WAQUEUE_RESTORE_MAX_AGE` says what is young.
"""

import logging
import uuid
from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from sessions_app.exceptions import Conflict, QueueUnavailable
from sessions_app.models import Message, Orphan, OrphanSource, OrphanState, Session
from sessions_app.queues import keys, lists
from sessions_app.services import messages
from sessions_app.services.audit import Actor
from sessions_app.services.orphans.archiving import archive, detect
from sessions_app.services.orphans.restoring import restore
from sessions_app.services.orphans.selection import Selection

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Adopted:
    """What a session got back, and the orphans of its name that wait for a person."""

    restored: int = 0
    waiting: list[Orphan] = field(default_factory=list)


def adopt(session: Session, *, actor: Actor, leave: uuid.UUID | None = None) -> Adopted:
    """Archive what Redis holds under the name of `session`, and restore what is young of that and of earlier orphans.

    The orphan `leave` is left to the caller. Never raises for Redis: what cannot be reached now is found by the next
    reconciliation.
    """
    adopted = Adopted()
    try:
        _archive_live(session)
    except QueueUnavailable as error:
        log.warning("what Redis holds under the name %s is looked at later: %s", session.name, error)
    waiting = Orphan.objects.filter(session_name=session.name, state=OrphanState.ARCHIVED).order_by("first_seen_at")
    for orphan in waiting.exclude(pk=leave) if leave else waiting:
        adopted.restored += restore_young(orphan, session, actor=actor)
        orphan.refresh_from_db()
        if orphan.state == OrphanState.ARCHIVED:
            adopted.waiting.append(orphan)
    return adopted


def restore_young(orphan: Orphan, session: Session, *, actor: Actor) -> int:
    """Restore the messages of an archived orphan that are young enough; return how many."""
    max_age: timedelta | None = settings.WAQUEUE_RESTORE_MAX_AGE
    if max_age is None or orphan.source == OrphanSource.UNKNOWN_JOBS:
        return 0
    selection = Selection() if max_age == timedelta.max else Selection(newer_than=timezone.now() - max_age)
    young = selection.of(orphan).filter(readable=True, restored_at=None, duplicate_of=None)
    if not young.exists():
        return 0
    return restore(orphan, session, actor=actor, selection=selection).restored


def _archive_live(session: Session) -> None:
    now = timezone.now()
    prefix = settings.WAQUEUE_LEGACY_PREFIX
    for key, source in (
        (keys.queue_key(session.name), OrphanSource.RQ),
        (f"{prefix}{session.name}", OrphanSource.LEGACY),
    ):
        if source == OrphanSource.LEGACY and not prefix:
            continue
        if not (length := lists.length(key.encode())):
            continue
        orphan, _ = detect(
            key.encode(),
            session_name=session.name,
            source=source,
            reason="it was in Redis before its session was made",
            messages=length,
            now=now,
        )
        try:
            archive(orphan, is_for_its_session=True)
        except Conflict as error:
            log.info("queue %s: %s", orphan.queue, error)
        if source == OrphanSource.RQ and (submitted := list(Message.objects.open().filter(session=session).in_order())):
            # Somebody was faster than this: their jobs went out of Redis with the list.
            messages.put(session.name, submitted)
