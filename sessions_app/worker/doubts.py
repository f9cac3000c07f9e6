"""Whether the database that answers is the one that answered before, and has all that this worker knows.

A connection that broke may have committed without a word; whoever answers next may be a standby that never got the
last commits, or a backup that was restored. Until that is cleared, no session goes on and nothing is fenced.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping

import psycopg
from django.db import Error as DatabaseError

from sessions_app.database import end
from sessions_app.exceptions import OutcomeUnknown, QueueUnavailable
from sessions_app.queues.dispatch import Claim, DispatchQueues, GiveBack, SettledJob
from sessions_app.reconciliation import older_database
from sessions_app.worker import outcomes
from sessions_app.worker.fence import newest_token, own_flights
from sessions_app.worker.landing import Landing
from sessions_app.worker.lost_attempts import Handed, put_back
from sessions_app.worker.outcomes import Flight
from sessions_app.worker.store import Store
from sessions_app.worker.thread import Thread

log = logging.getLogger(__name__)

_FAILED_MS = 1_000
# While the database is older than Redis, it is asked again and again.
_OLDER_MS = 2_000
_PAUSE_SECONDS = 0.5
_LOST = "it was handed over, and PostgreSQL has lost what came of it"


class Doubts:
    """What one worker knows of its attempts, held against what the database has. `tokens` are those in flight."""

    def __init__(
        self, worker: uuid.UUID, queues: DispatchQueues, fences: Store, landing: Landing, tokens: Callable[[], set[int]]
    ) -> None:
        # The highest attempt that this database is known to have.
        self.known_token = 0
        self._worker = worker
        self._queues = queues
        self._fences = fences
        self._landing = landing
        self._tokens = tokens
        # The newest attempt of each session that this worker has handed over, or was about to, by its name.
        self._handed: dict[str, Handed] = {}
        self._restores = Thread("older database")
        self._count = 0
        self._cleared = 0

    @property
    def is_cleared(self) -> bool:
        """Whether nothing has come up since the database was last asked."""
        return self._count == self._cleared

    def arise(self) -> None:
        """PostgreSQL or Redis did not answer, or an attempt was not found."""
        self._count += 1

    def note(self, flight: Flight) -> None:
        """Remember an attempt that is about to be handed over."""
        self.known_token = max(self.known_token, flight.token)
        self._handed[flight.session_name] = Handed.of(flight)

    def forget(self, flight: Flight) -> None:
        """The attempt did certainly not arrive: whatever the database has of it, its message may go again."""
        if (handed := self._handed.get(flight.session_name)) is not None and handed.token == flight.token:
            del self._handed[flight.session_name]

    async def clear(self, claim: Claim) -> bool:
        """Ask the database if there is any doubt, or if Redis knows of an attempt beyond what is known here.

        False when it is older than it should be: nothing may be sent, the claim is given back, and it was tried to
        resolve that. Raises psycopg.Error, after which the claim is given back, too, and the doubt stands.
        """
        # What comes up, or goes on, while it is asked is newer than the answer.
        count, known = self._count, self.known_token
        is_in_doubt = count != self._cleared
        if not is_in_doubt and claim.mark <= known:
            return True
        try:
            newest = await self._fences.run(newest_token)
            if max(claim.mark, known) > newest:
                self._landing.give_back(GiveBack(session, _OLDER_MS) for session in claim.sessions)
                await self.resolve_older_database()
                await asyncio.sleep(_PAUSE_SECONDS)
                return False
            if is_in_doubt:
                await self.return_unanswered()
        except psycopg.Error:
            self._landing.give_back(GiveBack(session, _FAILED_MS) for session in claim.sessions)
            raise
        self.known_token = max(self.known_token, newest)
        self._cleared = count
        return True

    async def return_unanswered(self) -> None:
        """Put back by token what a fence fenced whose commit was not answered: nothing of it was handed over.

        A server that lost its last commits, as a replica may have, has lost outcomes and attempts: what was handed over
        and is in flight once more is uncertain, and what waits once more is given the attempt that it has forgotten.
        Raises psycopg.Error.
        """
        # No session goes on while there is doubt, so that after this nothing is fenced that is not known here.
        await self._landing.none_going()
        for store in (self._fences, *self._landing.stores):
            # A server goes on without its client: what it still commits has to be there before the look.
            await self._fences.run(end, given_up := list(store.given_up))
            del store.given_up[: len(given_up)]
        known = self._tokens()
        unknown = [flight for flight in await self._fences.run(own_flights, self._worker) if flight.token not in known]
        self._landing.add(
            outcomes.refused(flight, OutcomeUnknown(_LOST))
            if self._was_handed_over(flight)
            else outcomes.returned(flight, "the fence was not answered")
            for flight in unknown
        )
        # Others may have gone on meanwhile in a database that lost attempts: its newest one says nothing of those.
        await self.put_back(self._fences, dict(self._handed))

    def _was_handed_over(self, flight: Flight) -> bool:
        handed = self._handed.get(flight.session_name)
        return handed is not None and flight.token <= handed.token

    async def put_back(self, store: Store, handed: Mapping[str, Handed]) -> None:
        """Give the database the attempts among `handed`, by session name, that it has lost. Raises psycopg.Error."""
        if not handed:
            return
        lost = await store.run(put_back, self._worker, handed.values(), self._tokens(), known=self.known_token)
        over = {one.token for one in lost if one.is_over}
        for name, one in handed.items():
            if one.token in over:
                self._landing.give_back((), [SettledJob(name, str(one.message_id))])
                # Once: what a person decides of it from now on stands.
                if self._handed.get(name) == one:
                    del self._handed[name]

    async def resolve_older_database(self) -> None:
        """Attempts are known that this database, restored from a backup, has never made."""
        # Once it goes on above them, what this worker remembers is held against it.
        self.arise()
        try:
            # Redis hears of an attempt when it is settled: what this worker has in flight may be newer.
            await self._queues.give_back([], mark=self.known_token)
            await self._restores.run(older_database.resolve)
        except (DatabaseError, QueueUnavailable) as error:
            log.warning("the database is older than Redis, and that could not be resolved: %s", str(error).strip())

    def close(self) -> None:
        """End the thread in which an older database is resolved."""
        self._restores.close()
