"""What one part of a restore has committed goes into the mirror while PostgreSQL writes the next part."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from django.db import Error as DatabaseError
from django.db import connections

from sessions_app import crash_points
from sessions_app.database import await_disk
from sessions_app.models import Message, Mirrored, Priority, Session, read_mirrored
from sessions_app.services import messages
from sessions_app.services.orphans.into_line import Placed

log = logging.getLogger(__name__)


def put(session: Session, placed: Placed) -> None:
    """Put what was restored into the mirror, once it is on disk; only log when a store is not there."""
    try:
        await_disk()
        queued = _line(session, placed)
    except DatabaseError as error:
        log.warning("%d messages of %s wait for reconciliation: %s", placed.count, session.name, error)
        # They are sent all the same: a fence waits for the disk, too.
        messages.signal_session(session.name)
        queued = []
    if queued:
        messages.put(session.name, queued, have_new_places=True)
    crash_points.reach("restore: part restored")


def _line(session: Session, placed: Placed) -> list[Mirrored]:
    # Of either class, for a line's index begins with it.
    line = Message.objects.open().filter(session=session, priority__in=Priority.values)
    return read_mirrored(line.filter(seq__gte=placed.first, seq__lt=placed.first + placed.count).in_order())


class Puts:
    """A thread that puts one part after the other, so that a line keeps its order."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "restored")
        self._last: Future[None] | None = None

    def put(self, session: Session, placed: Placed) -> None:
        """Put these, once the part before is in the mirror, while the caller goes on."""
        self.finish()
        self._last = self._thread.submit(_put, session, placed)

    def finish(self) -> None:
        """Return when everything is in the mirror."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


def _put(session: Session, placed: Placed) -> None:
    try:
        put(session, placed)
    finally:
        connections.close_all()
