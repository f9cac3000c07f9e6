"""What the monkey does and when: a pure function of the seed, so that a run can be repeated."""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

WORKERS = 3
# Sessions are broken in groups, each a tenth of all.
GROUPS = 10
# Nothing new begins in the last part: what was begun ends before the end.
_LAST_PART_SECONDS = 5.0
_GAP_SECONDS = (1.5, 5.0)


@dataclass(frozen=True, slots=True, order=True)
class Act:
    """One thing the monkey does, `at` so many seconds after the start. `value` is what it needs beside a target."""

    at: float
    name: str
    target: int | None = None
    value: float = 0.0

    def __str__(self) -> str:
        target = "" if self.target is None else f" {self.target}"
        return f"{self.at:7.2f} s  {self.name}{target}{f' ({self.value:g})' if self.value else ''}"


# A card is one idea: what happens when it is played, and what ends it after a while.
Card = Callable[[random.Random], list[Act]]


def _lasting(begin: str, end: str, least: float, most: float, targets: int = 0) -> Card:
    def play(chance: random.Random) -> list[Act]:
        target, seconds = _one_of(targets, chance), round(chance.uniform(least, most), 2)
        return [Act(0, begin, target), Act(seconds, end, target)]

    return play


def _slow(store: str, least: float, most: float) -> Card:
    """Each piece that a client sends to that store is so many seconds late."""

    def play(chance: random.Random) -> list[Act]:
        delay, seconds = round(chance.uniform(least, most), 2), round(chance.uniform(3, 8), 2)
        return [Act(0, f"{store}.slow", value=delay), Act(seconds, f"{store}.fast")]

    return play


def _at_once(name: str, targets: int = 0) -> Card:
    return lambda chance: [Act(0, name, _one_of(targets, chance))]


def _one_of(targets: int, chance: random.Random) -> int | None:
    return chance.randrange(targets) if targets else None


DECK: tuple[Card, ...] = (
    _lasting("worker.kill", "worker.start", 0, 8, WORKERS),
    _lasting("worker.kill", "worker.start", 0, 1, WORKERS),
    _at_once("worker.replace", WORKERS),
    _lasting("worker.freeze", "worker.thaw", 5, 40, WORKERS),
    _lasting("web.kill", "web.start", 0, 3),
    _lasting("redis.kill", "redis.start", 0, 5),
    _at_once("redis.flush"),
    _at_once("redis.empty"),
    _at_once("redis.old"),
    _at_once("redis.cut"),
    _slow("redis", 0.2, 0.5),
    _lasting("postgres.kill", "postgres.start", 0, 1),
    _lasting("postgres.kill", "postgres.start", 5, 20),
    # A request needs several turns, and who asks in a row waits for each.
    _slow("postgres", 0.02, 0.1),
    _at_once("postgres.terminate"),
    _at_once("postgres.cut"),
    _at_once("reconcile"),
    _at_once("orphan"),
    _lasting("engine.disconnect", "engine.connect", 4, 15, GROUPS),
    _lasting("engine.hang", "engine.answer", 4, 12, GROUPS),
)


def make(seed: int, seconds: float) -> list[Act]:
    """The acts of a run, in order. Each card is played before any is played again."""
    chance = random.Random(seed)
    acts: list[Act] = []
    # The fewer seconds there are, the closer the acts: each card is to be played once.
    pace = min(1.0, seconds / (len(DECK) * sum(_GAP_SECONDS) / 2))
    at = 3.0 * pace
    for card in _dealt(chance):
        if at > seconds - _LAST_PART_SECONDS:
            break
        acts += [Act(round(min(at + act.at, seconds), 2), act.name, act.target, act.value) for act in card(chance)]
        at += chance.uniform(*_GAP_SECONDS) * pace
    return sorted(acts)


def _dealt(chance: random.Random) -> Iterator[Card]:
    return itertools.chain.from_iterable(chance.sample(DECK, len(DECK)) for _ in itertools.count())
