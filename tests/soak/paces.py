"""Checks of the paces: no hand-over comes too soon, and each counts towards its session's cap."""

from collections import defaultdict
from collections.abc import Iterator

from tests.soak.facts import NOT_CONNECTED, Answer, Entry, Violation
from tests.soak.index import Index

# What an attempt comes to when its engine was troubled.
_COUNTED = ("sent", "retry", "failed", "uncertain")
# A wait ends by one clock and is looked at by another.
_MOMENT = 0.05


def pace(index: Index) -> Iterator[Violation]:
    """A session with a pace troubles its engine no sooner than that after the last time, or each recipient so."""
    facts = index.facts
    for session, least in facts.paces.items():
        yield from _too_soon(session, index.by_session[session], least, "")
    for session, least in facts.recipient_paces.items():
        by_chat: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in index.by_session[session]:
            by_chat[entry.chat].append(entry)
        for entries in by_chat.values():
            yield from _too_soon(session, entries, least, " to the same recipient")


def _too_soon(session: str, entries: list[Entry], least: float, where: str) -> Iterator[Violation]:
    last: Entry | None = None
    for entry in entries:
        gap = entry.arrived_at - last.arrived_at if last else least
        if last is not None and gap < least - _MOMENT:
            yield Violation(
                "pace", f"{entry.text} arrived {gap:.3f} s after {last.text}{where}, and not {least:g} s", session,
                (last.text, entry.text),
            )  # fmt: skip
        # Whatever came of it begins a wait, but for a link that was down: no one was sent anything.
        if (entry.answer, entry.said) != (Answer.REFUSED, NOT_CONNECTED):
            last = entry


def caps(index: Index) -> Iterator[Violation]:
    """What a session has sent counts towards its cap. A late answer to what was uncertain may count once more."""
    for session, (since, count) in index.facts.counted.items():
        attempts = [each for row in index.facts.rows if row.session == session for each in row.attempts]
        # Both times are read from the same clock, in the same transaction.
        sent = [each for each in attempts if each.outcome in _COUNTED and (each.finished_at or 0.0) >= since]
        if count < len(sent):
            yield Violation("cap", f"has counted {count} of {len(sent)} hand-overs towards its cap", session)
