"""What a restore would do, counted without doing it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Max, Min, Q
from django.utils import timezone

from sessions_app.models import Message, Orphan, OrphanEntry, OrphanSource, OrphanState, Status
from sessions_app.models.message import written_time
from sessions_app.queues import inspect, lists
from sessions_app.services import endings, tasks
from sessions_app.services.orphans.archiving import build_entries
from sessions_app.services.orphans.duplicates import find_known, likeness, own_id
from sessions_app.services.orphans.selection import Selection


@dataclass(frozen=True, slots=True)
class Preview:
    """What a restore of the chosen messages would do. `others` wait in the orphan and were not chosen.

    Of the `restored`, those `scheduled` keep a time that lies ahead. Those `expired` are not sent any more, nor are the
    `uncertain`: those have expired as well, but may have arrived before.
    """

    restored: int
    duplicates: int
    unreadable: int
    others: int
    oldest_at: datetime | None
    newest_at: datetime | None
    scheduled: int = 0
    expired: int = 0
    uncertain: int = 0


def preview(orphan: Orphan, selection: Selection, *, with_duplicates: bool = False) -> Preview | None:
    """Count what a restore would do; None for a live orphan that is too long to be looked through by a request.

    Of more than `tasks.LARGE` archived messages, only those that were marked as duplicates before are counted as such.
    Raises QueueUnavailable for a live orphan, Conflict when places of it are chosen.
    """
    selection.check_places(orphan)
    if orphan.state == OrphanState.DETECTED and not orphan.staging_key:
        if lists.length(bytes(orphan.key)) > tasks.LARGE:
            return None
        every = list(_live(orphan))
        chosen = [entry for entry in every if selection.has(entry)]
        return _of_rows(chosen, len(every) - len(chosen), with_duplicates=with_duplicates)
    waiting = OrphanEntry.objects.filter(orphan=orphan, restored_at=None).count()
    chosen_rows = selection.of(orphan).filter(restored_at=None)
    count = chosen_rows.count()
    if count <= tasks.LARGE:
        return _of_rows(list(chosen_rows.select_related("message")), waiting - count, with_duplicates=with_duplicates)
    readable = Q(readable=True) if with_duplicates else Q(readable=True, duplicate_of=None)
    now = written_time(timezone.now())
    # Without the key, it is null, which is not false.
    expired = Q(content__has_key="expires_at") & Q(content__expires_at__lte=now)
    sums = chosen_rows.aggregate(
        restored=Count("pk", filter=readable),
        unreadable=Count("pk", filter=Q(readable=False)),
        oldest=Min("created_at", filter=readable),
        newest=Max("created_at", filter=readable),
        expired=Count("pk", filter=readable & expired),
        scheduled=Count("pk", filter=readable & Q(content__scheduled_at__gt=now) & ~expired),
    )
    duplicates = count - sums["restored"] - sums["unreadable"]
    uncertain = 0
    if sums["expired"]:
        # Few are sent again, and of those few expire.
        again = chosen_rows.filter(readable & expired, message__status=Status.ORPHANED, message__resends__gt=0)
        uncertain = len(endings.in_doubt(list(again.values_list("message_id", flat=True))))
    return Preview(
        sums["restored"], duplicates, sums["unreadable"], waiting - count, sums["oldest"], sums["newest"],
        sums["scheduled"], sums["expired"] - uncertain, uncertain,
    )  # fmt: skip


def waiting(orphans: Sequence[Orphan]) -> list[int]:
    """How many messages wait in each of these orphans now. Raises QueueUnavailable when one of them is live."""
    live = [row for row in orphans if row.state == OrphanState.DETECTED and not row.staging_key]
    lengths = dict(
        zip((row.pk for row in live), inspect.lengths([bytes(row.key) for row in live]) if live else (), strict=True)
    )
    return [lengths.get(row.pk, row.messages) for row in orphans]


def _live(orphan: Orphan) -> Iterator[OrphanEntry]:
    start, equals = 0, Counter[str]()
    while parsed := lists.read(bytes(orphan.key), start, is_rq=orphan.source == OrphanSource.RQ):
        yield from build_entries(orphan, start, parsed, equals)
        start += len(parsed)


def _of_rows(chosen: Sequence[OrphanEntry], others: int, *, with_duplicates: bool) -> Preview:
    readable = [entry for entry in chosen if entry.readable]
    now = timezone.now()
    restored = readable if with_duplicates else _new(readable, now)
    fates = [_fate(entry, now) for entry in restored]
    expired = [entry for entry, fate in zip(restored, fates, strict=True) if fate == Status.EXPIRED]
    uncertain = len(endings.in_doubt([row.pk for entry in expired if (row := _former(entry))]))
    times = [entry.created_at for entry in restored if entry.created_at is not None]
    return Preview(
        restored=len(restored),
        duplicates=len(readable) - len(restored),
        unreadable=len(chosen) - len(readable),
        others=others,
        oldest_at=min(times, default=None),
        newest_at=max(times, default=None),
        scheduled=fates.count(Status.SCHEDULED),
        expired=len(expired) - uncertain,
        uncertain=uncertain,
    )


def _new(readable: Sequence[OrphanEntry], now: datetime) -> list[OrphanEntry]:
    """Those that are known as no other message, and of those that are one the first."""
    unmarked = [entry for entry in readable if entry.duplicate_of is None]
    known = find_known(unmarked)
    seen: set[object] = set()
    new = []
    for entry in unmarked:
        own = own_id(entry.job_id)
        # The message of a deleted session is like no other, and what has expired unsent makes no other one a second.
        alike = likeness(entry) if entry.message_id is None else None
        if entry.index in known or own in seen or alike in seen:
            continue
        new.append(entry)
        if own is not None:
            seen.add(own)
        if alike is not None and alike[0] and _fate(entry, now) != Status.EXPIRED:
            seen.add(alike)
    return new


def _fate(entry: OrphanEntry, now: datetime) -> Status:
    """What an entry would be once it is restored; whether one that expires is in doubt is not asked here."""
    row = _former(entry)
    scheduled_at = row.scheduled_at if row else _time(entry, "scheduled_at")
    expires_at = row.expires_at if row else _time(entry, "expires_at")
    if expires_at is not None and expires_at <= now:
        return Status.EXPIRED
    return Status.SCHEDULED if scheduled_at is not None and scheduled_at > now else Status.QUEUED


def _former(entry: OrphanEntry) -> Message | None:
    """The message of a deleted session that moves into its new line."""
    return entry.message if entry.message is not None and entry.message.status == Status.ORPHANED else None


def _time(entry: OrphanEntry, name: str) -> datetime | None:
    text = entry.content.get(name)
    return datetime.fromisoformat(text) if text else None
