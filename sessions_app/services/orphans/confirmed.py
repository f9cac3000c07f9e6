"""A restore that a person saw a preview of and said yes to: checked again, its session made where there is none.

It is not among what the package offers: sessions need the package, and this needs sessions.
"""

import uuid
from dataclasses import dataclass

from django.db import transaction

from sessions_app.exceptions import Conflict, InvalidInput, SessionExists, SessionNotFound
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
from sessions_app.transports import registry
from sessions_app.transports.base import Transport


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
    create: bool,
    actor: Actor,
    transport: str | None = None,
    expected: int | None = None,
    selection: Selection | None = None,
    with_duplicates: bool = False,
) -> Done:
    """Restore what waits now, if it is as many as `expected`, where a person was told a number.

    With `create` the session is made if there is none, on `transport`, which has to be named where there are several.
    Of this orphan it gets what was chosen, and no more.

    Raises OrphanChanged when there are others, Conflict when it is resolved, SessionNotFound, SessionExists when there
    is one on another transport, InvalidInput for a name or a transport of no use, QueueUnavailable.
    """
    selection = selection or Selection()
    orphan = Orphan.objects.get(pk=orphan.pk)
    selection.check_places(orphan)
    was_live = orphan.state == OrphanState.DETECTED
    if was_live and expected is not None:
        _check(orphan, waiting([orphan])[0], expected)
    chosen = _transport(session_name, transport, create=create)
    if was_live:
        # Out of Redis first: what arrives from now on is a new orphan, not a part of what was confirmed.
        orphan = archive(orphan, actor=actor)
    with transaction.atomic():
        locked = Orphan.objects.select_for_update().get(pk=orphan.pk)
        if locked.state != OrphanState.ARCHIVED:
            raise Conflict(f"this orphan is {locked.state}: there is nothing to restore", state=locked.state)
        now = Selection().of(locked).filter(restored_at=None).count()
        # Jobs whose rows say what became of them stood in Redis, and are not copied.
        if expected is not None and not (was_live and now < expected):
            _check(locked, now, expected)
        selection = selection.pinned(locked)
    session, adopted = _session(session_name, chosen, actor, leave=locked.pk)
    if now > tasks.LARGE:
        task = restore_later(
            locked, session, selection=selection, with_duplicates=with_duplicates, actor=actor
        )  # fmt: skip
        return Done(session, task=task, adopted=adopted)
    restored = restore(locked, session, actor=actor, selection=selection, with_duplicates=with_duplicates)
    return Done(session, restored=restored, adopted=adopted)


def _transport(session_name: str, named: str | None, *, create: bool) -> str | None:
    """On which transport the session is to be made; None when it is there. Raises what `restore_confirmed` raises."""
    try:
        session = sessions.get(session_name)
    except SessionNotFound:
        if not create:
            raise
    else:
        if create and named is not None and named != session.transport:
            raise SessionExists(
                f"a session named {session_name!r} exists, on {session.transport}: to restore into it, do not ask for "
                f"one on {named}",
                differing=["transport"],
            )
        return None
    names = registry.names()
    if named is None and len(names) > 1:
        # Made on the wrong one, it would mark as sent what went nowhere.
        raise InvalidInput(
            [{"field": "transport", "message": f"say on which the session is to be made: {' or '.join(names)}"}]
        )
    chosen = named or names[0]
    if _needs_settings(registry.get(chosen)):
        message = f"a session on {chosen} needs settings: add the session first, then restore into it"
        raise InvalidInput([{"field": "transport", "message": message}])
    return chosen


def transports_on_the_spot() -> list[tuple[str, str]]:
    """Names and titles of the transports on which a session can be made without settings."""
    return [(name, title) for name, title in registry.choices() if not _needs_settings(registry.get(name))]


def _needs_settings(transport: type[Transport]) -> bool:
    return any(setting.required for setting in transport.fields)


def _session(
    name: str, transport: str | None, actor: Actor, *, leave: uuid.UUID
) -> tuple[Session, Adopted | None]:  # fmt: skip
    if transport is None:
        return sessions.get(name), None
    return sessions.create(name=name, transport=transport, actor=actor, leave=leave)


def _check(orphan: Orphan, now: int, expected: int) -> None:
    if now != expected:
        raise OrphanChanged(
            f"{expected} messages were confirmed, but there are {now} now: look again", messages=now, orphan=orphan.pk
        )
