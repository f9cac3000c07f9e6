"""What happens after a send: its outcome is written to PostgreSQL, then its session goes on or is given back to Redis.

Results are kept in memory until they are written, however long a store is gone.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import psycopg

from sessions_app import crash_points
from sessions_app.exceptions import OtherDeployment, OutcomeUnknown, QueueUnavailable
from sessions_app.models import PROBED_HOLDS, EventKind, Hold, Outcome, Status
from sessions_app.queues.dispatch import ClaimedSession, DispatchQueues, GiveBack, SettledJob
from sessions_app.worker import probes
from sessions_app.worker.backoff import Backoff
from sessions_app.worker.fence import newest_token
from sessions_app.worker.going_on import Onward, settle_and_fence
from sessions_app.worker.lost_attempts import Handed
from sessions_app.worker.outcomes import Flight, Settlement, refused
from sessions_app.worker.settle import Settled, settle
from sessions_app.worker.store import FEW_ROWS, Store

log = logging.getLogger(__name__)

# What nobody waits for meanwhile waits so long for company, since one costs as much as ten: the outcome of a session
# with a pace of at least so many ms, and a session that has come due.
COMPANY_SECONDS = 0.01
_UNHURRIED_MS = 100
# Large enough that a round trip costs nothing per message, small enough that the first does not wait for the last.
_BATCH = 500
# Where engines take longer than this, their answers come in waves, and each session waits for the batch of its own:
# small ones have the first of a wave with its engine again while the others are written.
_SLOW_SECONDS = 0.1
_BATCH_OF_SLOW = 40
# While PostgreSQL works on the outcomes of one batch, the next ones are on their way.
_WRITERS = 3
_LOCK_TIMEOUT_MS = 250
_LOCKED_SECONDS = 1.0
# A database that is older than this worker is asked again after so long.
_OLDER_SECONDS = 1.0
# A claim waits no longer for what is to be given back before it.
_GIVEN_BACK_SECONDS = 0.1
_FINAL = (Status.SENT, Status.FAILED)
_UNWRITABLE = "its outcome could not be written"


class Landing:
    """The results of one worker on their way into both stores. `flights` is the worker's memory, by session name."""

    def __init__(self, queues: DispatchQueues, flights: dict[str, Flight], onward: Onward) -> None:
        self.settled_count = 0
        # Called when flights have landed, and when sessions were given back that come due again.
        self.on_room: Callable[[], None] = lambda: None
        # With the shortest time until one does, in seconds.
        self.on_given_back: Callable[[float], None] = lambda seconds: None
        self._queues = queues
        self._flights = flights
        self._onward = onward
        self._settling = Backoff("settling")
        # A lock that somebody holds must not keep the other outcomes from being written.
        self.stores = [Store(onward.worker, lock_timeout_ms=_LOCK_TIMEOUT_MS) for _ in range(_WRITERS)]
        self._going_count = 0
        self._none_going = asyncio.Event()
        self._none_going.set()
        self._results: list[Settlement] = []
        self._backs: list[GiveBack] = []
        self._jobs: list[SettledJob] = []
        self._signals: list[str] = []
        self._mark = 0
        self._waiting_for_backs: list[asyncio.Future[None]] = []
        self._has_results = asyncio.Event()
        self._has_backs = asyncio.Event()
        self._company: asyncio.TimerHandle | None = None
        self._is_giving_back = False
        self._has_unsent = self._is_giving_unsent = False

    @property
    def is_empty(self) -> bool:
        """Whether everything that is known here is in both stores."""
        return not (self._results or self._backs or self._jobs or self._signals or self._is_giving_back)

    @property
    def waiting_tokens(self) -> set[int]:
        """The attempts whose outcomes wait to be written."""
        return {result.flight.token for result in self._results}

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Have these outcomes written."""
        before = len(self._results)
        self._results += settlements
        if all(result.flight.pace_ms >= _UNHURRIED_MS for result in self._results[before:]):
            self._write_soon()
        else:
            self._has_results.set()

    def give_back(self, unsent: Iterable[GiveBack], jobs: Iterable[SettledJob] = ()) -> None:
        """Have these sessions given back that were claimed and send nothing, and these jobs taken out of the mirror.

        The next claim waits for that: a session that is claimed again before counts as signalled, and would be claimed
        again and again, without an end. Those that have sent are none of these: they do something each time.
        """
        before = len(self._backs)
        self._give_back(unsent, jobs)
        self._has_unsent |= len(self._backs) > before

    def _give_back(self, backs: Iterable[GiveBack], jobs: Iterable[SettledJob]) -> None:
        self._backs += backs
        self._jobs += jobs
        if self._backs or self._jobs:
            self._has_backs.set()

    async def unsent_given_back(self) -> None:
        """Return when all sessions that sent nothing are given back, or after a moment where Redis is away."""
        if not (self._has_unsent or self._is_giving_unsent):
            return
        given = asyncio.get_running_loop().create_future()
        self._waiting_for_backs.append(given)
        self._has_backs.set()
        await asyncio.wait([given], timeout=_GIVEN_BACK_SECONDS)

    async def settle_forever(self) -> None:
        """Write outcomes to PostgreSQL as they come."""
        async with asyncio.TaskGroup() as group:
            for store in self.stores:
                group.create_task(self._settle_forever(store))

    async def _settle_forever(self, store: Store) -> None:
        while True:
            await self._has_results.wait()
            if not (batch := self._take_batch()):
                # Another writer was faster.
                continue
            if not (going := self._going(batch)) or not await self._write_and_go_on(store, batch, going):
                self._after(await self._write(store, batch))

    async def give_back_forever(self) -> None:
        """Give sessions back to Redis as they come."""
        backoff = Backoff("giving back")
        while True:
            await self._has_backs.wait()
            self._has_backs.clear()
            backs, self._backs = self._backs, []
            jobs, self._jobs = self._jobs, []
            names, self._signals = self._signals, []
            waiting, self._waiting_for_backs = self._waiting_for_backs, []
            self._is_giving_unsent, self._has_unsent = self._has_unsent, False
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
            self._is_giving_back = self._is_giving_unsent = False
            for one in waiting:
                one.set_result(None)
            if soonest := [0] * bool(names) + [back.delay_ms for back in backs if back.delay_ms is not None]:
                self.on_given_back(min(soonest) / 1000)

    async def open(self) -> None:
        """Connect to PostgreSQL. Raises psycopg.Error."""
        for store in self.stores:
            await store.open()

    async def none_going(self) -> None:
        """Return when no fence of sessions that go on is under way: whatever was fenced is then known, or lost."""
        await self._none_going.wait()

    async def close(self) -> None:
        """Close the connections."""
        for store in self.stores:
            await store.close()

    def _write_soon(self) -> None:
        if self._results and not (self._has_results.is_set() or self._company):
            self._company = asyncio.get_running_loop().call_later(COMPANY_SECONDS, self._write_now)

    def _write_now(self) -> None:
        self._company = None
        if self._results:
            self._has_results.set()

    def _take_batch(self) -> list[Settlement]:
        """Results of different sessions, at most a batch of them; the others stay for the next one."""
        limit = self._batch_limit()
        batch: dict[int, Settlement] = {}
        rest: list[Settlement] = []
        for result in self._results:
            if len(batch) < limit and result.flight.session_id not in batch:
                batch[result.flight.session_id] = result
            else:
                rest.append(result)
        self._results = rest
        if not rest:
            self._has_results.clear()
        return list(batch.values())

    def _batch_limit(self) -> int:
        waiting = len(self._results)
        # More than one wave is a backlog: there it is the rate that counts.
        is_wave = 0 < waiting < 2 * _BATCH
        if is_wave and self._results[-1].flight.engine_seconds > _SLOW_SECONDS:
            return _BATCH_OF_SLOW
        # A batch in the middle costs more per result than a small or a full one.
        return _BATCH if waiting >= _BATCH // 2 else FEW_ROWS

    def _going(self, batch: Sequence[Settlement]) -> dict[str, ClaimedSession]:
        """The sessions that may go on with their next message, by name."""
        return {
            flight.session_name: flight.claimed
            for flight in (settlement.flight for settlement in batch if settlement.status in _FINAL)
            if flight.has_more
            and flight.claimed is not None
            and self._flights.get(flight.session_name) is flight
            and self._onward.may_go_on(flight)
        }

    async def _write_and_go_on(
        self, store: Store, batch: Sequence[Settlement], going: dict[str, ClaimedSession]
    ) -> bool:
        """Write a batch and fence what comes next; False when that did not work and the batch has yet to be written."""
        self._going_count += 1
        self._none_going.clear()
        crash_points.reach("go on: about to write")
        try:
            room = self._onward.limits.room_after(settlement.flight for settlement in batch)
            settled, fenced = await store.run_for(
                len(batch), settle_and_fence, self._onward.worker, batch, list(going.values()), room,
                self._onward.doubts.known_token,
            )  # fmt: skip
        except (psycopg.errors.LockNotAvailable, psycopg.DataError, psycopg.ProgrammingError, psycopg.IntegrityError):
            # Rolled back: somebody has locked one of the sessions, or an outcome cannot be written as it is.
            return False
        except psycopg.Error as error:
            log.warning("outcomes have to be written again: %s", str(error).strip())
            self._onward.doubts.arise()
            return False
        finally:
            self._going_count -= 1
            if not self._going_count:
                self._none_going.set()
        crash_points.reach("go on: committed")
        self._after([one for one in settled if not one.is_lost], going)
        self._onward.take_off(fenced)
        if lost := [one.settlement for one in settled if one.is_lost]:
            # None of these went on: the database did not have them in flight.
            self._after(await self._write(store, lost), going)
        return True

    async def _write(self, store: Store, batch: Sequence[Settlement]) -> list[Settled]:
        """Write a batch, however long PostgreSQL is gone. What it refuses is found by writing halves."""
        while True:
            crash_points.reach("settle: about to write")
            try:
                settled = await store.run_for(len(batch), settle, batch)
                if lost := [one.settlement for one in settled if one.is_lost and one.settlement.may_have_arrived]:
                    settled = [one for one in settled if one.settlement not in lost]
                    settled += await self._write_lost(store, lost)
                crash_points.reach("settle: written")
                self._settling.reset()
                return settled
            except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.LockNotAvailable) as error:
                if len(batch) > 1:
                    middle = len(batch) // 2
                    return await self._write(store, batch[:middle]) + await self._write(store, batch[middle:])
                if isinstance(error, psycopg.errors.LockNotAvailable):
                    # Somebody has locked one of its rows. The others do not wait for that.
                    asyncio.get_running_loop().call_later(_LOCKED_SECONDS, self.add, batch)
                    return []
                log.exception("an outcome could not be written as it is")
                (refusal,) = batch
                if refusal.error_detail.startswith(_UNWRITABLE):
                    # Nothing is left to try. Once its flight is forgotten here, it is judged, and that is told.
                    self._forget(refusal.flight)
                    return []
                why = OutcomeUnknown(f"{_UNWRITABLE}: {type(error).__name__}")
                batch = [refused(refusal.flight, why)]
            except psycopg.Error as error:
                # Also of a table that is not there: a migration or a restore is under way, and the outcome is known.
                self._onward.doubts.arise()
                await self._settling.wait(error)

    async def _write_lost(self, store: Store, lost: Sequence[Settlement]) -> list[Settled]:
        """Write outcomes whose attempts the database has lost, once it has those again. Raises psycopg.Error.

        Any other outcome of an attempt that is lost is lost with it: its message may go again.
        """
        doubts = self._onward.doubts
        if doubts.known_token > await store.run(newest_token):
            # It is older, and what else it has lost has to be found before anything is written above that.
            await doubts.resolve_older_database()
            asyncio.get_running_loop().call_later(_OLDER_SECONDS, self.add, lost)
            return []
        await doubts.put_back(store, {one.flight.session_name: Handed.of(one.flight) for one in lost})
        return await store.run_for(len(lost), settle, lost)

    def _forget(self, flight: Flight) -> bool:
        mine = self._flights.get(flight.session_name)
        if mine is None or mine.token != flight.token:
            return False
        del self._flights[flight.session_name]
        return True

    def _after(self, settled: Sequence[Settled], going: Collection[str] = ()) -> None:
        """Forget the flights that have landed, and give back the sessions that do not go on."""
        backs: list[GiveBack] = []
        jobs: list[SettledJob] = []
        for one in settled:
            flight = one.settlement.flight
            self._mark = max(self._mark, flight.token)
            if not one.settlement.may_have_arrived:
                self._onward.doubts.forget(flight)
            if one.is_current and not one.is_open:
                jobs.append(SettledJob(flight.session_name, str(flight.message_id)))
            self.settled_count += self._forget(flight)
            if flight.session_name in going:
                continue
            if flight.claimed is None:
                # A flight that somebody else fenced: its session is looked at anew.
                self._signals.append(flight.session_name)
            else:
                backs.append(GiveBack(flight.claimed, _next_look(one)))
        if len(settled) > len(going):
            self.on_room()
        self._give_back(backs, jobs)
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
            kept = "PostgreSQL has lost the attempt" if one.is_lost else "kept as evidence"
            found[name, f"answered too late ({one.settlement.outcome}), {kept}"] += 1
            continue
        if one.settlement.event == EventKind.MESSAGE_POISON:
            message, why = one.settlement.flight.message_id, one.settlement.error_detail
            log.warning("session %s: message %s is set aside: %s", name, message, why)
        elif one.settlement.outcome == Outcome.UNCERTAIN:
            found[
                name, "uncertain" if one.settlement.status == Status.UNCERTAIN else "uncertain, sent again by policy"
            ] += 1
        elif one.settlement.status == Status.UNCERTAIN:
            found[name, "refused, and may have arrived before: uncertain"] += 1
        elif one.settlement.status == Status.FAILED:
            found[name, "failed"] += 1
        if one.is_new_hold:
            log.warning("session %s is held (%s): %s", name, one.hold, one.settlement.error_detail)
    for (name, what), count in found.items():
        log.warning("session %s: %d %s %s", name, count, "message" if count == 1 else "messages", what)
