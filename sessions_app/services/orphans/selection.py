"""Which of an orphan's messages an act is about."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from django.db import transaction
from django.db.models import Max, QuerySet

from sessions_app.exceptions import Conflict
from sessions_app.models import Orphan, OrphanEntry, OrphanState


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """All of an orphan's messages, or those newer than a time, or those at certain places.

    `up_to` is the last place that there was when a person said yes: what arrives later is no part of it.
    """

    newer_than: datetime | None = None
    indexes: tuple[int, ...] | None = None
    up_to: int | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out of what there was."""
        return self.newer_than is None and self.indexes is None

    def check_places(self, orphan: Orphan) -> None:
        """Raise Conflict where places are chosen of a list that is still in Redis: there they shift."""
        if self.indexes is not None and orphan.state == OrphanState.DETECTED:
            raise Conflict(
                "this orphan is still in Redis, where places shift: archive it first, then choose among its messages"
            )

    def pinned(self, orphan: Orphan) -> Self:
        """The same without what arrives from now on. Within the transaction that counted, it is what was counted."""
        if self.up_to is not None:
            return self
        with transaction.atomic():
            # Whoever adds to an archived orphan writes its row first.
            Orphan.objects.select_for_update().get(pk=orphan.pk)
            last = OrphanEntry.objects.filter(orphan=orphan).aggregate(last=Max("index"))["last"]
        return replace(self, up_to=-1 if last is None else last)

    def of(self, orphan: Orphan) -> QuerySet[OrphanEntry]:
        """The chosen entries, in their order. An entry without a time is never newer than one."""
        chosen = OrphanEntry.objects.filter(orphan=orphan)
        if self.newer_than is not None:
            chosen = chosen.filter(created_at__gt=self.newer_than)
        if self.indexes is not None:
            chosen = chosen.filter(index__in=self.indexes)
        if self.up_to is not None:
            chosen = chosen.filter(index__lte=self.up_to)
        return chosen.order_by("index")

    def has(self, entry: OrphanEntry) -> bool:
        """Whether an entry is among the chosen, by the same rules."""
        is_new = self.newer_than is None or (entry.created_at is not None and entry.created_at > self.newer_than)
        return is_new and (self.indexes is None or entry.index in self.indexes)
