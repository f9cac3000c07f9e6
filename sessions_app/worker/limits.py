"""How many messages each transport may have in flight in this process, where that is less than the process may."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping

from sessions_app.worker.outcomes import Flight

# What a send takes, before the first one of a transport has been seen.
_FIRST_GUESS_MS = 200.0
_LONGEST_WAIT_MS = 5_000
# The share of the newest send in the average of all.
_NEWEST = 0.1


class TransportLimits:
    """`limits` by transport; `flights` is the worker's memory, by session name."""

    def __init__(self, limits: Mapping[str, int], flights: Mapping[str, Flight]) -> None:
        self._limits = dict(limits)
        self._flights = flights
        self._send_ms: dict[str, float] = {}

    def room(self) -> dict[str, int]:
        """How many more each limited transport may send."""
        if not self._limits:
            return {}
        used = self._used()
        return {name: max(0, limit - used[name]) for name, limit in self._limits.items()}

    def room_after(self, landing: Iterable[Flight]) -> dict[str, int]:
        """How many may take the places of those that land. What else is free is for whoever is claimed."""
        if not self._limits:
            return {}
        used, leaving = self._used(), Counter(flight.transport for flight in landing)
        return {
            name: max(0, min(leaving[name], limit - used[name] + leaving[name])) for name, limit in self._limits.items()
        }

    def note(self, transport: str, send_ms: float) -> None:
        """A send has taken so long."""
        if transport in self._limits:
            before = self._send_ms.get(transport, send_ms)
            self._send_ms[transport] = before + _NEWEST * (send_ms - before)

    def _used(self) -> Counter[str]:
        return Counter(flight.transport for flight in self._flights.values())

    def wait_ms(self, transport: str, beyond: int) -> int:
        """When to look again at a session that is `beyond` the room of its transport: about when its turn comes."""
        rounds = math.ceil(beyond / self._limits.get(transport, 1))
        expected = rounds * self._send_ms.get(transport, _FIRST_GUESS_MS)
        # Scattered, so that they do not all come back at once.
        return round(min(expected * random.uniform(0.5, 1.5), _LONGEST_WAIT_MS)) + 1  # noqa: S311
