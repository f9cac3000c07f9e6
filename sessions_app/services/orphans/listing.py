"""What pages and the API show of an orphan, archived or still live in Redis."""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import BinaryField, QuerySet
from django.db.models.functions import Length, Substr

from sessions_app.exceptions import NotFound
from sessions_app.models import Orphan, OrphanEntry, OrphanSource, OrphanState
from sessions_app.queues import inspect, lists
from sessions_app.queues.entries import parse_legacy, printable, time_of_job
from sessions_app.services.orphans.archiving import build_entries
from sessions_app.services.orphans.duplicates import find_known

# What of an entry is looked at to show it, and how many bytes of entries are held whole at once.
_SHOWN_BYTES = 4000
_WHOLE_BYTES = 4 * 1024 * 1024


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
    """Up to `count` messages from place `start` on, in order: fewer of large ones, none only at the end.

    Raises QueueUnavailable for a live one.
    """
    if _is_live(orphan):
        return [view(row, bytes(row.raw)) for row in _live(orphan, start, count)]
    begin = Substr("raw", 1, _SHOWN_BYTES, output_field=BinaryField())
    found = _kept(orphan, start)[:count].defer("raw").annotate(begin=begin)
    return [view(row, bytes(row.begin)) for row in found]


def page(orphan: Orphan, *, start: int, count: int) -> tuple[list[EntryView], int | None]:
    """Up to `count` messages from place `start` on, and where the next page begins; None on the last one.

    Raises QueueUnavailable for a live one.
    """
    found = entries(orphan, start=start, count=count + 1)
    if len(found) > count:
        return found[:count], found[count].index
    after = found[-1].index + 1 if found else start
    # A page of large ones ends before it is full.
    has_more = bool(found) and _is_live(orphan) and lists.length(bytes(orphan.key)) > after
    return found, after if has_more else None


def rows(orphan: Orphan, *, start: int, count: int) -> list[OrphanEntry]:
    """The same whole, as they are kept or would be. Raises QueueUnavailable."""
    if _is_live(orphan):
        return _live(orphan, start, count)
    last, held = start, 0
    for index, size in _kept(orphan, start).values_list("index", Length("raw"))[:count]:
        last, held = index, held + size
        if held >= _WHOLE_BYTES:
            break
    return list(_kept(orphan, start).filter(index__lte=last))


def _is_live(orphan: Orphan) -> bool:
    return orphan.state == OrphanState.DETECTED and not orphan.staging_key


def _kept(orphan: Orphan, start: int) -> QuerySet[OrphanEntry]:
    return OrphanEntry.objects.filter(orphan=orphan, index__gte=start).order_by("index")


def _live(orphan: Orphan, start: int, count: int) -> list[OrphanEntry]:
    parsed = lists.read(bytes(orphan.key), start, is_rq=orphan.source == OrphanSource.RQ, count=count)
    live = build_entries(orphan, start, parsed, Counter())
    known = find_known([entry for entry in live if entry.readable])
    for entry in live:
        entry.duplicate_of = known.get(entry.index)
    return live


def view(entry: OrphanEntry, begin: bytes) -> EntryView:
    """An entry as it is shown; `begin` is the beginning of what stood in Redis."""
    return EntryView(
        index=entry.index,
        to=entry.recipient,
        text=entry.content.get("text") or entry.content.get("caption") or "",
        created_at=entry.created_at,
        readable=entry.readable,
        error=entry.error,
        raw=printable(begin),
        duplicate_of=entry.duplicate_of,
        message_id=entry.message_id,
        is_restored=entry.restored_at is not None,
    )


def first_times(live: Sequence[tuple[bytes, bool]]) -> list[datetime | None]:
    """When the first entry of each list was handed in; each is a key in Redis and whether it is RQ's.

    Two round trips, however many lists. Raises QueueUnavailable.
    """
    return [
        None if entry is None else time_of_job(entry) if is_rq else parse_legacy(entry).created_at
        for entry, (_, is_rq) in zip(inspect.first_entries(live), live, strict=True)
    ]
