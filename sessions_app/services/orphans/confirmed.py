"""A restore that a person saw a preview of and said yes to: checked again, its session made where there is none.

It is not among what the package offers: sessions need the package, and this needs sessions.
"""

from dataclasses import dataclass

from sessions_app.exceptions import SessionNotFound
from sessions_app.models import BackgroundTask, Orphan, OrphanState, Session
from sessions_app.services import sessions, tasks
from sessions_app.services.audit import Actor
from sessions_app.services.orphans.adopting import Adopted
from sessions_app.services.orphans.archiving import archive
from sessions_app.services.orphans.background import restore_later
from sessions_app.services.orphans.preview import waiting
from sessions_app.services.orphans.purging import OrphanChanged
from sessions_app.services.orphans.restoring import Restored, restore
from sessions_app.services.orphans.selection import Selection


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it: `restored`, or for more than a request should wait for a `task`; `adopted` by a new session."""

    session: Session
    restored: Restored | None = None
    task: BackgroundTask | None = None
    adopted: Adopted | None = None


def restore_confirmed(
    orphan: Orphan,
    *,
    session_name: str,
    may_create: bool,
    expected: int,
    actor: Actor,
    selection: Selection | None = None,
    with_duplicates: bool = False,
) -> Done:
    """Restore if there wait as many messages as when the person was asked.

    Raises OrphanChanged when there are others, Conflict when it is resolved, SessionNotFound, InvalidInput for a name
    that no session can have, QueueUnavailable.
    """
    selection = selection or Selection()
    orphan = Orphan.objects.get(pk=orphan.pk)
    _check(orphan, waiting([orphan])[0], expected)
    if not may_create:
        sessions.get(session_name)
    if orphan.state == OrphanState.DETECTED:
        # Out of Redis first: what arrives from now on is a new orphan, not a part of what was confirmed.
        orphan = archive(orphan, actor=actor)
        if orphan.messages > expected:
            _check(orphan, orphan.messages, expected)
    adopted = None
    try:
        session = sessions.get(session_name)
    except SessionNotFound:
        if not may_create:
            raise
        session, adopted = sessions.create(name=session_name, actor=actor, leave=orphan.pk)
    if expected > tasks.LARGE:
        task = restore_later(
            orphan, session, selection=selection, with_duplicates=with_duplicates, actor=actor
        )  # fmt: skip
        return Done(session, task=task, adopted=adopted)
    restored = restore(orphan, session, actor=actor, selection=selection, with_duplicates=with_duplicates)
    return Done(session, restored=restored, adopted=adopted)


def _check(orphan: Orphan, now: int, expected: int) -> None:
    if now != expected:
        raise OrphanChanged(
            f"{expected} messages were confirmed, but there are {now} now: look again", messages=now, orphan=orphan.pk
        )
