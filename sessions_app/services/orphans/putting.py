"""What one part of a restore has committed goes into the mirror while PostgreSQL writes the next part."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from django.db import connections

from sessions_app import crash_points
from sessions_app.models import Message, Session
from sessions_app.services import messages


def put(session: Session, queued: Sequence[Message]) -> None:
    """Put what was restored into the mirror; only log when Redis is not there."""
    if queued:
        messages.put(session.name, queued, have_new_places=True)
    crash_points.reach("restore: part restored")


class Puts:
    """A thread that puts one part after the other, so that a line keeps its order."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "restored")
        self._last: Future[None] | None = None

    def put(self, session: Session, queued: Sequence[Message]) -> None:
        """Put these, once the part before is in the mirror, while the caller goes on."""
        self.finish()
        self._last = self._thread.submit(_put, session, queued)

    def finish(self) -> None:
        """Return when everything is in the mirror."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


def _put(session: Session, queued: Sequence[Message]) -> None:
    try:
        put(session, queued)
    finally:
        connections.close_all()
