"""What pages and the API show of an orphan, archived or still live in Redis."""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sessions_app.exceptions import NotFound
from sessions_app.models import Orphan, OrphanEntry, OrphanSource, OrphanState
from sessions_app.queues import inspect, lists
from sessions_app.queues.entries import parse_legacy, printable
from sessions_app.services.orphans.archiving import build_entries
from sessions_app.services.orphans.duplicates import find_known


@dataclass(frozen=True, slots=True)
class EntryView:
    """One message of an orphan. `raw` is what stood in Redis, escaped and cut."""

    index: int
    to: str
    text: str
    created_at: datetime | None
    readable: bool
    error: str
    raw: str
    duplicate_of: uuid.UUID | None
    message_id: uuid.UUID | None
    is_restored: bool


def get(orphan_id: uuid.UUID) -> Orphan:
    """The orphan of that id. Raises NotFound."""
    try:
        return Orphan.objects.select_related("session").get(pk=orphan_id)
    except Orphan.DoesNotExist:
        raise NotFound(f"there is no orphan {orphan_id}") from None


def entries(orphan: Orphan, *, start: int = 0, count: int = 100) -> list[EntryView]:
    """Up to `count` messages from place `start` on, in order. Raises QueueUnavailable for a live one."""
    return [view(row) for row in rows(orphan, start=start, count=count)]


def rows(orphan: Orphan, *, start: int, count: int) -> list[OrphanEntry]:
    """The same as they are kept, or would be. Raises QueueUnavailable."""
    if orphan.state == OrphanState.DETECTED and not orphan.staging_key:
        parsed = lists.read(bytes(orphan.key), start, is_rq=orphan.source == OrphanSource.RQ, count=count)
        live = build_entries(orphan, start, parsed, Counter())
        known = find_known([entry for entry in live if entry.readable])
        for entry in live:
            entry.duplicate_of = known.get(entry.index)
        return live
    return list(OrphanEntry.objects.filter(orphan=orphan, index__gte=start).order_by("index")[:count])


def view(entry: OrphanEntry) -> EntryView:
    """An entry as it is shown."""
    return EntryView(
        index=entry.index,
        to=entry.recipient,
        text=entry.content.get("text") or entry.content.get("caption") or "",
        created_at=entry.created_at,
        readable=entry.readable,
        error=entry.error,
        raw=printable(bytes(entry.raw)),
        duplicate_of=entry.duplicate_of,
        message_id=entry.message_id,
        is_restored=entry.restored_at is not None,
    )


def first_times(live: Sequence[tuple[bytes, bool]]) -> list[datetime | None]:
    """When the first entry of each list was handed in; each is a key in Redis and whether it is RQ's.

    Two round trips, however many lists. Raises QueueUnavailable.
    """
    first = inspect.first_entries([key for key, _ in live])
    ids = [entry for entry, (_, is_rq) in zip(first, live, strict=True) if is_rq and entry is not None]
    jobs = dict(zip(ids, lists.read_jobs(ids), strict=True)) if ids else {}
    return [
        None if entry is None else (jobs[entry] if is_rq else parse_legacy(entry)).created_at
        for entry, (_, is_rq) in zip(first, live, strict=True)
    ]
