"""What a session finds under its name: young messages go back into its line, older ones wait for a person.

A notice that is days old may be worse than none, so no machine sends it: `WAQUEUE_RESTORE_MAX_AGE` says what is young.
"""

import logging
import uuid
from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from sessions_app.exceptions import Conflict, NotFound, QueueUnavailable
from sessions_app.models import BackgroundTask, Message, Orphan, OrphanEntry, OrphanSource, OrphanState, Session
from sessions_app.queues import keys, lists
from sessions_app.services import messages, tasks
from sessions_app.services.audit import Actor
from sessions_app.services.orphans.archiving import archive, begin, detect, set_aside
from sessions_app.services.orphans.background import restore_later
from sessions_app.services.orphans.restoring import restore
from sessions_app.services.orphans.selection import Selection

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Adopted:
    """What a session got back, what it gets back in the background, and the orphans of its name that wait."""

    restored: int = 0
    tasks: list[BackgroundTask] = field(default_factory=list)
    waiting: list[Orphan] = field(default_factory=list)


def adopt(session: Session, *, actor: Actor, leave: uuid.UUID | None = None) -> Adopted:
    """Archive what Redis holds under the name of `session`, and restore what is young of that and of earlier orphans.

    The orphan `leave` is left to the caller. What is more than a request should wait for is done in the background.
    To be called after the commit that made the session: nothing may hold up who looks at the name or at its orphans.
    Never raises for Redis: what cannot be reached now is found by the next reconciliation.
    """
    adopted = Adopted()
    begun: list[Orphan] = []
    try:
        begun = _archive_live(session, leave)
    except QueueUnavailable as error:
        log.warning("what Redis holds under the name %s is looked at later: %s", session.name, error)
    waiting = Orphan.objects.filter(session_name=session.name, state=OrphanState.ARCHIVED)
    if leave is not None:
        waiting = waiting.exclude(pk=leave)
    for orphan in [*begun, *waiting.order_by("first_seen_at", "pk")]:
        try:
            _give_young(orphan, session, adopted, actor)
        except (Conflict, NotFound) as error:
            # A reconciliation or a person was faster.
            log.info("orphan %s: %s", orphan.queue, error)
        orphan.refresh_from_db()
        if orphan.state == OrphanState.ARCHIVED:
            adopted.waiting.append(orphan)
    return adopted


def _give_young(orphan: Orphan, session: Session, adopted: Adopted, actor: Actor) -> None:
    young = _young(orphan)
    if orphan.state == OrphanState.DETECTED:
        # A worker copies it, and then gives back what is young: younger than now is none.
        chosen = young or Selection(newer_than=timezone.now())
    elif young is None or _new(orphan, young).count() <= tasks.LARGE:
        adopted.restored += restore_young(orphan, session, actor=actor)
        return
    else:
        chosen = young
    adopted.tasks.append(restore_later(orphan, session, selection=chosen, with_duplicates=False, actor=actor))


def restore_young(orphan: Orphan, session: Session, *, actor: Actor) -> int:
    """Restore the messages of an archived orphan that are young enough; return how many."""
    young = _young(orphan)
    if young is None or not _new(orphan, young).exists():
        return 0
    return restore(orphan, session, actor=actor, selection=young).restored


def _young(orphan: Orphan) -> Selection | None:
    max_age: timedelta | None = settings.WAQUEUE_RESTORE_MAX_AGE
    if max_age is None or orphan.source == OrphanSource.UNKNOWN_JOBS:
        return None
    return Selection() if max_age == timedelta.max else Selection(newer_than=timezone.now() - max_age)


def _new(orphan: Orphan, selection: Selection) -> QuerySet[OrphanEntry]:
    return selection.of(orphan).filter(readable=True, restored_at=None, duplicate_of=None)


def _archive_live(session: Session, leave: uuid.UUID | None) -> list[Orphan]:
    """Archive what stands in Redis; return the orphans that were only begun, since they are long.

    One that is left to the caller is archived whole: a reconciliation would finish it, and give back what is young.
    """
    now = timezone.now()
    prefix = settings.WAQUEUE_LEGACY_PREFIX
    begun = []
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
            if length > tasks.LARGE and orphan.pk != leave:
                orphan = begin(orphan, is_for_its_session=True)
                set_aside(orphan, is_for_its_session=True)
                begun.append(orphan)
            else:
                archive(orphan, is_for_its_session=True)
        except Conflict as error:
            log.info("queue %s: %s", orphan.queue, error)
        if source == OrphanSource.RQ and (submitted := list(Message.objects.open().filter(session=session).in_order())):
            # Somebody was faster than this: their jobs went out of Redis with the list.
            messages.put(session.name, submitted)
    return begun
