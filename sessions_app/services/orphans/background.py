"""Restores and purges of more messages than a request should wait for."""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sessions_app.models import BackgroundTask, Orphan, OrphanState, Session
from sessions_app.services import tasks
from sessions_app.services.audit import Actor
from sessions_app.services.orphans import purging, restoring
from sessions_app.services.orphans.archiving import archive, finish_archiving
from sessions_app.services.orphans.listing import get
from sessions_app.services.orphans.putting import Puts
from sessions_app.services.orphans.selection import Selection

_Made = tuple[tasks.Part, Callable[[int], str]]


def restore_later(
    orphan: Orphan, session: Session, *, selection: Selection, with_duplicates: bool, actor: Actor
) -> BackgroundTask:
    """Restore in the background what there is now. Raises Conflict when places of a live list are chosen.

    One whose list was renamed away already is copied by the worker, another live one now: then QueueUnavailable too.
    """
    selection.check_places(orphan)
    if orphan.state == OrphanState.DETECTED and not orphan.staging_key:
        orphan = archive(orphan, actor=actor)
    total = orphan.messages
    if orphan.state != OrphanState.DETECTED:
        selection = selection.pinned(orphan)
        total = selection.of(orphan).filter(readable=True, restored_at=None).count()
    return tasks.start(
        "restore orphan",
        f"restore {orphan.queue} to {session.name}",
        parameters={
            "orphan": str(orphan.pk), "session": session.pk, "with_duplicates": with_duplicates,
            **_packed(selection),
        },
        total=total,
        actor=actor,
    )  # fmt: skip


def purge_later(orphan: Orphan, *, expected: int, selection: Selection, actor: Actor) -> BackgroundTask:
    """Purge in the background what was confirmed now. Raises OrphanChanged, Conflict, QueueUnavailable."""
    orphan, selection = purging.confirmed(orphan, expected=expected, selection=selection)
    return tasks.start(
        "purge orphan",
        f"purge {orphan.queue}",
        parameters={"orphan": str(orphan.pk), **_packed(selection)},
        total=expected,
        actor=actor,
    )


@tasks.kind("restore orphan")
def _restore(parameters: dict[str, Any], actor: Actor) -> _Made:
    orphan = get(uuid.UUID(parameters["orphan"]))
    session = Session.objects.get(pk=parameters["session"])
    selection = _unpacked(parameters)
    if orphan.state == OrphanState.DETECTED:
        # It was begun when its session was made, and is too long to be copied by a request.
        orphan = finish_archiving(orphan, is_for_its_session=True)

    puts = Puts()

    def part(done: int) -> int | None:
        return restoring.restore_chunk(
            orphan, session, selection, actor=actor, with_duplicates=parameters["with_duplicates"], done=done, puts=puts
        )

    def conclude(done: int) -> str:
        puts.finish()
        restored = restoring.conclude(orphan, session, done, actor=actor)
        return f"{restored.restored} restored to {restored.session}, {restored.left} left"

    return part, conclude


@tasks.kind("purge orphan")
def _purge(parameters: dict[str, Any], actor: Actor) -> _Made:
    orphan = get(uuid.UUID(parameters["orphan"]))
    selection = _unpacked(parameters)

    def part(done: int) -> int:
        return purging.purge_chunk(orphan, selection, actor=actor, done=done)

    def conclude(done: int) -> str:
        purging.conclude(orphan, done, actor=actor)
        return f"{done} purged"

    return part, conclude


def _packed(selection: Selection) -> dict[str, Any]:
    newer_than = selection.newer_than
    return {
        "newer_than": newer_than.isoformat() if newer_than else None,
        "indexes": list(selection.indexes) if selection.indexes is not None else None,
        "up_to": selection.up_to,
    }


def _unpacked(parameters: dict[str, Any]) -> Selection:
    newer_than, indexes = parameters["newer_than"], parameters["indexes"]
    return Selection(
        newer_than=datetime.fromisoformat(newer_than) if newer_than else None,
        indexes=tuple(indexes) if indexes is not None else None,
        # A task of an older version has none.
        up_to=parameters.get("up_to"),
    )
