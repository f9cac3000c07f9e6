"""What happens after a send: its outcome is written to PostgreSQL, then its session is given back to Redis.

Results are kept in memory until they are written, however long a store is gone.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import psycopg

from sessions_app.exceptions import OtherDeployment, OutcomeUnknown, QueueUnavailable
from sessions_app.models import PROBED_HOLDS, Hold, Outcome, Status
from sessions_app.queues.dispatch import DispatchQueues, GiveBack, SettledJob
from sessions_app.worker import probes
from sessions_app.worker.backoff import Backoff
from sessions_app.worker.outcomes import Flight, Settlement, refused
from sessions_app.worker.settle import Settled, settle
from sessions_app.worker.store import Store

log = logging.getLogger(__name__)

# Large enough that a round trip costs nothing per message, small enough that the first does not wait for the last.
_BATCH = 500
_UNWRITABLE = "its outcome could not be written"


class Landing:
    """The results of one worker on their way into both stores. `flights` is the worker's memory, by session name."""

    def __init__(self, queues: DispatchQueues, flights: dict[str, Flight]) -> None:
        self.settled_count = 0
        self.has_room = asyncio.Event()
        # Called when sessions were given back: one of them may be due.
        self.on_given_back: Callable[[], None] = lambda: None
        self._queues = queues
        self._flights = flights
        self._settling = Backoff("settling")
        self._store = Store()
        self._results: list[Settlement] = []
        self._backs: list[GiveBack] = []
        self._jobs: list[SettledJob] = []
        self._signals: list[str] = []
        self._mark = 0
        self._has_results = asyncio.Event()
        self._has_backs = asyncio.Event()
        self._is_giving_back = False

    @property
    def is_empty(self) -> bool:
        """Whether everything that is known here is in both stores."""
        return not (self._results or self._backs or self._jobs or self._signals or self._is_giving_back)

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Have these outcomes written."""
        self._results += settlements
        if self._results:
            self._has_results.set()

    def give_back(self, backs: Iterable[GiveBack], jobs: Iterable[SettledJob] = ()) -> None:
        """Have these sessions given back, and these jobs taken out of the mirror."""
        self._backs += backs
        self._jobs += jobs
        if self._backs or self._jobs:
            self._has_backs.set()

    async def settle_forever(self) -> None:
        """Write outcomes to PostgreSQL as they come."""
        while True:
            await self._has_results.wait()
            self._after(await self._write(self._take_batch()))

    async def give_back_forever(self) -> None:
        """Give sessions back to Redis as they come."""
        backoff = Backoff("giving back")
        while True:
            await self._has_backs.wait()
            self._has_backs.clear()
            backs, self._backs = self._backs, []
            jobs, self._jobs = self._jobs, []
            names, self._signals = self._signals, []
            self._is_giving_back = True
            while True:
                try:
                    for start in range(0, max(len(backs), len(jobs)), _BATCH):
                        part = slice(start, start + _BATCH)
                        await self._queues.give_back(backs[part], jobs[part], self._mark)
                    await self._queues.signal(names)
                    backoff.reset()
                    break
                except OtherDeployment as error:
                    log.error("%s", error)
                    break
                except QueueUnavailable as error:
                    await backoff.wait(error)
            self._is_giving_back = False
            self.on_given_back()

    async def close(self) -> None:
        """Close the connection."""
        await self._store.close()

    def _take_batch(self) -> list[Settlement]:
        """Results of different sessions, at most a batch of them; the others stay for the next one."""
        batch: dict[int, Settlement] = {}
        rest: list[Settlement] = []
        for result in self._results:
            if len(batch) < _BATCH and result.flight.session_id not in batch:
                batch[result.flight.session_id] = result
            else:
                rest.append(result)
        self._results = rest
        if not rest:
            self._has_results.clear()
        return list(batch.values())

    async def _write(self, batch: Sequence[Settlement]) -> list[Settled]:
        """Write a batch, however long PostgreSQL is gone. What it refuses is found by writing one by one."""
        while True:
            try:
                settled = await self._store.run(settle, batch)
                self._settling.reset()
                return settled
            except (psycopg.DataError, psycopg.ProgrammingError, psycopg.IntegrityError) as error:
                log.exception("%d outcomes could not be written as they are", len(batch))
                if len(batch) > 1:
                    return [settled for one in batch for settled in await self._write([one])]
                (refusal,) = batch
                if refusal.error_detail.startswith(_UNWRITABLE):
                    # Nothing is left to try. Its flight stays, and whoever judges it tells of it.
                    return []
                why = OutcomeUnknown(f"{_UNWRITABLE}: {type(error).__name__}")
                batch = [refused(refusal.flight, why)]
            except psycopg.Error as error:
                await self._settling.wait(error)

    def _after(self, settled: Sequence[Settled]) -> None:
        backs: list[GiveBack] = []
        jobs: list[SettledJob] = []
        for one in settled:
            flight = one.settlement.flight
            self._mark = max(self._mark, flight.token)
            if one.is_current and not one.is_open:
                jobs.append(SettledJob(flight.session_name, str(flight.message_id)))
            mine = self._flights.get(flight.session_name)
            if mine is not None and mine.token == flight.token:
                del self._flights[flight.session_name]
                self.settled_count += 1
            if flight.claimed is None:
                # A flight that somebody else fenced: its session is looked at anew.
                self._signals.append(flight.session_name)
            else:
                backs.append(GiveBack(flight.claimed, _next_look(one)))
        self.has_room.set()
        self.give_back(backs, jobs)
        if self._signals:
            self._has_backs.set()
        _tell(settled)


def _next_look(settled: Settled) -> int | None:
    """When the session of a settled message is to be looked at again, in ms; None for not until it is signalled."""
    if settled.hold:
        return probes.FIRST_MS if Hold(settled.hold) in PROBED_HOLDS else None
    if settled.is_open or settled.settlement.flight.has_more or not settled.is_current:
        return settled.delay_ms
    return None


def _tell(settled: Sequence[Settled]) -> None:
    """Say, once per session and kind, what needs a person."""
    found: Counter[tuple[str, str]] = Counter()
    for one in settled:
        name = one.settlement.flight.session_name
        if not one.is_current:
            found[name, f"answered too late ({one.settlement.outcome}), kept as evidence"] += 1
            continue
        if one.settlement.outcome == Outcome.UNCERTAIN:
            found[
                name, "uncertain" if one.settlement.status == Status.UNCERTAIN else "uncertain, sent again by policy"
            ] += 1
        elif one.settlement.status == Status.FAILED:
            found[name, "failed"] += 1
        if one.is_new_hold:
            log.warning("session %s is held (%s): %s", name, one.hold, one.settlement.error_detail)
    for (name, what), count in found.items():
        log.warning("session %s: %d %s %s", name, count, "message" if count == 1 else "messages", what)
