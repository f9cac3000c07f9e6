"""Which of an orphan's messages an act is about."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import QuerySet

from sessions_app.models import Orphan, OrphanEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """All of an orphan's messages, or those newer than a time, or those at certain places."""

    newer_than: datetime | None = None
    indexes: tuple[int, ...] | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return self.newer_than is None and self.indexes is None

    def of(self, orphan: Orphan) -> QuerySet[OrphanEntry]:
        """The chosen entries, in their order. An entry without a time is never newer than one."""
        chosen = OrphanEntry.objects.filter(orphan=orphan)
        if self.newer_than is not None:
            chosen = chosen.filter(created_at__gt=self.newer_than)
        if self.indexes is not None:
            chosen = chosen.filter(index__in=self.indexes)
        return chosen.order_by("index")

    def has(self, entry: OrphanEntry) -> bool:
        """Whether an entry is among the chosen, by the same rules."""
        is_new = self.newer_than is None or (entry.created_at is not None and entry.created_at > self.newer_than)
        return is_new and (self.indexes is None or entry.index in self.indexes)
