"""What a person may do to orphans, in words, and how several are done at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Q
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from sessions_app.admin.acts import Act, Outcome
from sessions_app.admin.base import PURGE_ORPHAN, RESTORE_ORPHAN, actor_of
from sessions_app.exceptions import Conflict, InvalidInput, NotFound, QueueUnavailable
from sessions_app.models import UNRESOLVED, BackgroundTask, Orphan, OrphanState
from sessions_app.services import orphans, tasks
from sessions_app.services.orphans.confirmed import restore_confirmed

_WAITING = Q(state__in=UNRESOLVED)
# A session cannot be called otherwise: such an orphan is restored into another one, on its own page.
_NAMED = Q(session_name__regex=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")

ARCHIVE = Act(
    name="archive",
    label=_("Archive"),
    permission=RESTORE_ORPHAN,
    question=ngettext_lazy("Archive %d orphan?", "Archive %d orphans?"),
    report=ngettext_lazy("%d orphan was archived.", "%d orphans were archived."),
    effect=_(
        "Its messages are copied whole out of Redis into PostgreSQL and then deleted in Redis. Nothing is sent, and "
        "nothing is lost: they can still be restored."
    ),
    fits=Q(state=OrphanState.DETECTED),
)
RESTORE = Act(
    name="restore",
    label=_("Restore"),
    permission=RESTORE_ORPHAN,
    question=ngettext_lazy(
        "Restore %d orphan into the session of its name?", "Restore %d orphans into the sessions of their names?"
    ),
    report=ngettext_lazy("%d orphan was dealt with.", "%d orphans were dealt with."),
    effect=_(
        "All of their messages go into the line of the session of the same name, behind what waits there, in their "
        "old order, and are sent. An orphan whose session does not exist is left alone. What was sent already and what "
        "cannot be read stays in the orphan. To choose messages or another session, open the orphan."
    ),
    fits=_WAITING & _NAMED,
    is_grave=True,
)
PURGE = Act(
    name="purge",
    label=_("Purge"),
    permission=PURGE_ORPHAN,
    question=ngettext_lazy("Delete %d orphan for good?", "Delete %d orphans for good?"),
    report=ngettext_lazy("%d orphan was dealt with.", "%d orphans were dealt with."),
    effect=_("All of their messages are deleted. They are never sent, and nobody can bring them back."),
    fits=_WAITING,
    is_grave=True,
)
ACTS = (ARCHIVE, RESTORE, PURGE)


@dataclass(slots=True)
class Tally:
    """What several acts came to."""

    done: int = 0
    refused: int = 0
    messages: int = 0
    left: int = 0
    is_redis_away: bool = False
    tasks: list[BackgroundTask] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """The same, as an act reports it."""
        return Outcome(self.done, self.refused)


def perform(request: HttpRequest, act: Act, counts: dict[Any, int]) -> Tally:
    """Do it to each orphan by itself, if it holds as many messages as the person was told."""
    tally = Tally()
    rows = Orphan.objects.in_bulk(counts)
    for key, expected in counts.items():
        try:
            if key not in rows:
                raise NotFound
            _DOES[act.name](request, rows[key], expected, tally)
        except QueueUnavailable:
            tally.is_redis_away = True
            tally.refused += 1
        except (Conflict, NotFound, InvalidInput):
            tally.refused += 1
        else:
            tally.done += 1
    return tally


def _archive(request: HttpRequest, orphan: Orphan, expected: int, tally: Tally) -> None:
    tally.messages += orphans.archive(orphan, actor=actor_of(request)).messages


def _restore(request: HttpRequest, orphan: Orphan, expected: int, tally: Tally) -> None:
    done = restore_confirmed(
        orphan,
        session_name=orphan.session_name,
        create=False,
        expected=expected,
        actor=actor_of(request),
    )
    if done.task is not None:
        tally.tasks.append(done.task)
    elif done.restored is not None:
        tally.messages += done.restored.restored
        tally.left += done.restored.left


def _purge(request: HttpRequest, orphan: Orphan, expected: int, tally: Tally) -> None:
    if expected > tasks.LARGE:
        tally.tasks.append(
            orphans.purge_later(orphan, expected=expected, selection=orphans.Selection(), actor=actor_of(request))
        )  # fmt: skip
    else:
        tally.messages += orphans.purge(orphan, expected=expected, actor=actor_of(request))


_DOES: dict[str, Callable[[HttpRequest, Orphan, int, Tally], None]] = {
    ARCHIVE.name: _archive,
    RESTORE.name: _restore,
    PURGE.name: _purge,
}
