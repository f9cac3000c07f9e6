"""Checks of the hand-overs: each is promised, fenced, alone in its session, and not made again without need."""

from collections import defaultdict
from collections.abc import Iterator

from tests.soak.facts import Answer, Attempt, Entry, Row, Violation
from tests.soak.index import Index, of

# A worker counts the time of an attempt on another clock than the one that `fenced_at` is read from.
_MOMENT = 0.05


def twice(index: Index) -> Iterator[Violation]:
    """Once the engine may have taken a message, only a policy or a person hands it over again."""
    for row in index.facts.rows:
        entries = index.entries[row.text]
        handed = [entry for entry in entries if entry.accepted or entry.answer != Answer.REFUSED]
        if len(handed) > 1 + row.resends:
            yield of(row, "twice", f"was handed over {len(handed)} times and resent {row.resends} times")
        may_be_resent = index.facts.policies.get(row.session) == "resend" or row.id in index.facts.resent_by_person
        if row.resends and not may_be_resent:
            yield of(row, "twice", "was resent, which nobody asked for")
        # A resend may have been meant for an attempt that never arrived: the count has room for it, and this has not.
        for entry in handed:
            attempt = index.attempt_of(entry)
            if entry is not entries[-1] and attempt is not None and attempt.outcome != "uncertain":
                how = attempt.outcome or "under way"
                yield of(row, "twice", f"was handed over again after attempt {attempt.token}, which is {how}")


def unfenced(index: Index) -> Iterator[Violation]:
    """Each hand-over was decided by a commit of its own, which says no more that nothing was handed over."""
    for text, entries in index.entries.items():
        row = index.rows.get(text)
        if row is not None:
            yield from _unfenced_of(index, row, entries)
        elif text in index.promises:
            yield of(index.promises[text], "unfenced", "was handed over and is in no row")


def _unfenced_of(index: Index, row: Row, entries: list[Entry]) -> Iterator[Violation]:
    owned: defaultdict[Attempt | None, int] = defaultdict(int)
    for entry in entries:
        owned[index.attempt_of(entry)] += 1
    for attempt, count in owned.items():
        if attempt is None:
            yield of(row, "unfenced", "was handed over before its first attempt")
        elif attempt.outcome == "returned":
            yield of(row, "unfenced", f"was handed over in attempt {attempt.token}, which was put back unsent")
        elif count > 1:
            yield of(row, "unfenced", f"was handed over {count} times in attempt {attempt.token}")


def unpromised(index: Index) -> Iterator[Violation]:
    """The engine gets nothing that no client handed in."""
    for entry in index.facts.entries:
        if entry.text not in index.promises:
            yield Violation("unpromised", f"the engine got {entry.text!r}", entry.session, (entry.text,))
        elif entry.session != index.promises[entry.text].session:
            yield Violation("unpromised", "went out through another session", entry.session, (entry.text,))


def overlaps(index: Index) -> Iterator[Violation]:
    """Never two of one session in flight: one is until it is answered, its worker has hung up, or its time is over."""
    for session, entries in index.by_session.items():
        busy_until, holder = 0.0, None
        for entry in entries:
            # Both times are the engine's own, and it writes down the end before its answer leaves.
            if holder is not None and entry.arrived_at < busy_until:
                yield Violation(
                    "overlap", f"{entry.text} arrived while {holder.text} was in flight", session,
                    (holder.text, entry.text),
                )  # fmt: skip
            attempt = index.attempt_of(entry)
            over = (attempt.fenced_at if attempt else entry.arrived_at) + index.facts.send_seconds - _MOMENT
            until = over if entry.ended_at is None else min(entry.ended_at, over)
            if until > busy_until:
                busy_until, holder = until, entry


def paused(index: Index) -> Iterator[Violation]:
    """A paused session sends nothing that was not on its way."""
    for pause in index.facts.pauses:
        for entry in index.by_session[pause.session]:
            attempt = index.attempt_of(entry)
            if attempt and pause.since < attempt.fenced_at < pause.until:
                yield Violation("paused", f"{entry.text} was sent while it was paused", pause.session, (entry.text,))
