"""How many messages each transport may have in flight in this process, where that is less than the process may.

Sessions that find their transport busy are parked: claimed, and fenced first as soon as there is room, in the order in
which they came. While some are parked, no session of that transport goes on by itself.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from sessions_app.queues.dispatch import ClaimedSession
from sessions_app.worker.outcomes import Flight

# More than that are given back, for other workers or for later.
_PARKED_AT_MOST = 1000


class TransportLimits:
    """`limits` by transport; `flights` is the worker's memory, by session name."""

    def __init__(self, limits: Mapping[str, int], flights: Mapping[str, Flight]) -> None:
        self._limits = dict(limits)
        self._flights = flights
        self._parked: dict[str, dict[str, ClaimedSession]] = {}

    @property
    def parked_count(self) -> int:
        """How many sessions wait here for room."""
        return sum(map(len, self._parked.values()))

    def room(self) -> dict[str, int]:
        """How many more each limited transport may send."""
        if not self._limits:
            return {}
        used = self._used()
        return {name: max(0, limit - used[name]) for name, limit in self._limits.items()}

    def room_after(self, landing: Iterable[Flight]) -> dict[str, int]:
        """How many may take the places of those that land. What else is free is for whoever is claimed or parked."""
        if not self._limits:
            return {}
        used, leaving = self._used(), Counter(flight.transport for flight in landing)
        return {
            name: 0 if self._parked.get(name) else max(0, min(leaving[name], limit - used[name] + leaving[name]))
            for name, limit in self._limits.items()
        }

    def park(self, transport: str, claimed: ClaimedSession) -> bool:
        """Keep a session until its transport has room; False when too many are kept already."""
        parked = self._parked.setdefault(transport, {})
        if len(parked) >= _PARKED_AT_MOST and claimed.name not in parked:
            return False
        parked[claimed.name] = claimed
        return True

    def is_parked(self, claimed: ClaimedSession) -> bool:
        """Whether the session waits here; it keeps its turn, by its newest claim."""
        for parked in self._parked.values():
            if claimed.name in parked:
                parked[claimed.name] = claimed
                return True
        return False

    def ready_count(self, at_most: int) -> int:
        """How many of those that are parked may go now, of all transports together."""
        room = self.room()
        ready = sum(min(len(parked), room.get(transport, 0)) for transport, parked in self._parked.items())
        return min(ready, at_most)

    def unpark(self, at_most: int) -> list[ClaimedSession]:
        """Let those go for which there is room now, first come first."""
        room = self.room()
        names = [
            (parked, name)
            for transport, parked in self._parked.items()
            for name in list(parked)[: room.get(transport, 0)]
        ]
        return [parked.pop(name) for parked, name in names[:at_most]]

    def unpark_all(self) -> list[ClaimedSession]:
        """Let all go."""
        everybody = [claimed for parked in self._parked.values() for claimed in parked.values()]
        self._parked.clear()
        return everybody

    def _used(self) -> Counter[str]:
        return Counter(flight.transport for flight in self._flights.values())
