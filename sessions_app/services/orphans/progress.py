"""What an act has done to an orphan, written down with every part of it: one that dies half-way leaves the truth."""

from django.utils import timezone

from sessions_app.models import Orphan, OrphanEntry, OrphanState
from sessions_app.services.audit import Actor


def note(orphan: Orphan, done: str, *, before: str, actor: Actor) -> None:
    """Write into the locked row what was done of it; `before` is what the same act wrote there with its last part."""
    own = f"; {before}" if orphan.resolution.endswith(f"; {before}") else before
    rest = orphan.resolution.removesuffix(own) if before else orphan.resolution
    orphan.resolution = f"{rest}; {done}"[-500:] if rest else done
    orphan.resolved_by = actor.label


def take_off(orphan: Orphan, count: int) -> None:
    """Count down the locked orphan's messages: they are counted anew only when none seems to be left."""
    orphan.messages = max(orphan.messages - count, 0) or _count(orphan)


def close_if_empty(orphan: Orphan, state: OrphanState) -> None:
    """Resolve the locked orphan once nothing is left in it, whoever took the last of it out."""
    if orphan.state == OrphanState.ARCHIVED and not orphan.messages:
        orphan.state, orphan.resolved_at = state, timezone.now()


def _count(orphan: Orphan) -> int:
    return OrphanEntry.objects.filter(orphan=orphan, restored_at=None).count()
