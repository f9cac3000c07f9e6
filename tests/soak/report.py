"""What the soak says: a table of counts, and each violation with all that is known of its messages."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.soak.check import KINDS
from tests.soak.facts import Entry, Facts, Row, Violation

_SHOWN_OF_A_KIND = 10


def summary(facts: Facts, violations: Sequence[Violation]) -> dict[str, Any]:
    """The counts, as plain JSON."""
    statuses = Counter(row.status for row in facts.rows)
    return {
        "accepted": sum(promise.accepted_at is not None for promise in facts.promises),
        "rows": len(facts.rows),
        "handed over": len(facts.entries),
        "taken by the engine": sum(entry.accepted for entry in facts.entries),
        "statuses": dict(sorted(statuses.items())),
        "resent": sum(row.resends for row in facts.rows),
        "pauses": len(facts.pauses),
        "acts that took effect": facts.effects,
        "violations": {kind: sum(violation.kind == kind for violation in violations) for kind in KINDS},
    }


def table(counts: dict[str, Any]) -> Iterator[str]:
    """The counts as lines."""
    for name, value in counts.items():
        if isinstance(value, dict):
            yield f"{name}:"
            yield from (f"  {line}" for line in table(value))
        else:
            yield f"{name:<24} {value}"


def verdict(is_kept: bool, missing: Sequence[str], again: str) -> tuple[int, str]:
    """The exit code, and what is said last. `missing` is what must have happened for the count to mean anything."""
    if not is_kept:
        return 1, f"PROMISES WERE BROKEN; again: {again}"
    if missing:
        return 2, f"THE SOAK WAS VACUOUS: {'; '.join(missing)}; again: {again}"
    return 0, "every promise was kept"


def details(facts: Facts, violations: Sequence[Violation]) -> Iterator[str]:
    """Each violation, with the attempts and the ledger of its messages."""
    for kind in KINDS:
        of_kind = [violation for violation in violations if violation.kind == kind]
        for violation in of_kind[:_SHOWN_OF_A_KIND]:
            policy = facts.policies.get(violation.session, "")
            where = f" [session {violation.session}, {policy}]" if violation.session else ""
            yield f"{kind.upper()}: {violation.what}{where}"
            for text in violation.texts:
                yield from (f"    {line}" for line in _story(facts, text))
        if len(of_kind) > _SHOWN_OF_A_KIND:
            yield f"{kind.upper()}: and {len(of_kind) - _SHOWN_OF_A_KIND} more"


def _story(facts: Facts, text: str) -> Iterator[str]:
    for promise in facts.promises:
        if promise.text == text:
            known = f"answered with 202 at {_at(promise.accepted_at)}" if promise.accepted_at else "never answered"
            yield f"{text}: {known}"
    for row in facts.rows:
        if row.text == text:
            yield from _row(row)
    yield from (_entry(entry) for entry in facts.entries if entry.text == text)


def _row(row: Row) -> Iterator[str]:
    yield (
        f"{row.text}: {row.status}, place {row.priority}/{row.seq}, {row.resends} resends, "
        f"queued {_at(row.queued_at)}, expires {_at(row.expires_at)}, told {sorted(row.told)}, id {row.id}"
    )
    for attempt in row.attempts:
        yield f"{row.text}: attempt {attempt.token}: {attempt.outcome or 'under way'}, fenced {_at(attempt.fenced_at)}"


def _entry(entry: Entry) -> str:
    took = "taken" if entry.accepted else "not taken"
    return (
        f"{entry.text}: the engine: {took}, {entry.answer} ({entry.said}), "
        f"{_at(entry.arrived_at)} to {_at(entry.ended_at)}"
    )


def _at(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S.%f")[:-3]
