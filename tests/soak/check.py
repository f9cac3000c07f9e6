"""The count: which promises were not kept. A pure function of the facts."""

from collections.abc import Callable, Iterator

from tests.soak import ends, flights, lines, paces
from tests.soak.facts import Facts, Violation
from tests.soak.index import Index

_LOOKS: tuple[Callable[[Index], Iterator[Violation]], ...] = (
    ends.lost, ends.doubled, flights.twice, ends.untrue, ends.uncaused, flights.unpromised, flights.unfenced,
    flights.overlaps, lines.order, paces.pace, paces.caps, lines.places, flights.paused, ends.untold,
)  # fmt: skip
KINDS = (
    "lost", "doubled", "twice", "untrue", "uncaused", "unpromised", "unfenced", "overlap", "order", "pace", "cap",
    "place", "paused", "untold", "remains",
)  # fmt: skip


def violations(facts: Facts) -> list[Violation]:
    """Everything that was promised and not kept."""
    index = Index(facts)
    found = [violation for look in _LOOKS for violation in look(index)]
    return found + [Violation("remains", what) for what in facts.remains]


def missing(facts: Facts) -> list[str]:
    """What must have happened for the count to mean anything, and has not."""
    began_at, ended_at = facts.monkey_at
    found = []
    if not any(promise.accepted_at is not None for promise in facts.promises):
        found.append("nothing was accepted")
    if not any(began_at <= entry.arrived_at <= ended_at for entry in facts.entries):
        found.append("nothing was handed over while the monkey was at work")
    if not facts.effects:
        found.append("nothing that the monkey did took effect")
    return found
