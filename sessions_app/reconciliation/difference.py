"""How the queue of a session differs from its rows."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sessions_app.models import Message

# Ids of one query.
_IDS = 5000


@dataclass(frozen=True, slots=True)
class Difference:
    """How the queue of a session differs from its rows. Empty fields are right.

    Of a long queue, no more jobs of a kind are named than `long_queues.NAMED`.
    """

    missing: frozenset[bytes] = frozenset()
    final: frozenset[bytes] = frozenset()
    unknown: tuple[bytes, ...] = ()
    duplicate: frozenset[bytes] = frozenset()
    without_hash: frozenset[bytes] = frozenset()
    is_misordered: bool = False
    is_foreign: bool = False

    def both(self, later: "Difference") -> "Difference":
        """What is different in both looks: a put or a settle on its way is only in one."""
        unknown = set(later.unknown)
        return Difference(
            self.missing & later.missing,
            self.final & later.final,
            tuple(job for job in self.unknown if job in unknown),
            self.duplicate & later.duplicate,
            self.without_hash & later.without_hash,
            self.is_misordered and later.is_misordered,
            self.is_foreign and later.is_foreign,
        )

    def __bool__(self) -> bool:
        return self != Difference()


def known_rows(job_ids: Sequence[bytes], *, only_open: bool = False) -> set[bytes]:
    """Those of `job_ids` for which PostgreSQL has a message, or one that is open."""
    messages = Message.objects.open() if only_open else Message.objects.all()
    ids: dict[uuid.UUID, list[bytes]] = {}
    for job in job_ids:
        if (pk := uuid_of(job)) is not None:
            # One id may be spelled in more than one way.
            ids.setdefault(pk, []).append(job)
    found: set[bytes] = set()
    pks = list(ids)
    for start in range(0, len(pks), _IDS):
        rows = messages.filter(pk__in=pks[start : start + _IDS]).values_list("pk", flat=True)
        found.update(job for pk in rows for job in ids[pk])
    return found


def uuid_of(job: bytes) -> uuid.UUID | None:
    """The id of the message that a job may be of."""
    try:
        return uuid.UUID(job.decode())
    except ValueError:
        return None
