"""The facts by text and by session, and which attempt a hand-over belongs to."""

from collections import defaultdict

from tests.soak.facts import Attempt, Entry, Facts, Promise, Row, Violation


class Index:
    """What every check looks things up in."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.promises: dict[str, Promise] = {promise.text: promise for promise in facts.promises}
        self.rows: dict[str, Row] = {row.text: row for row in facts.rows}
        self.entries: defaultdict[str, list[Entry]] = defaultdict(list)
        self.by_session: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in sorted(facts.entries, key=lambda entry: entry.arrived_at):
            self.entries[entry.text].append(entry)
            self.by_session[entry.session].append(entry)

    def attempt_of(self, entry: Entry) -> Attempt | None:
        """The try that a hand-over belongs to: the last one fenced before it arrived.

        PostgreSQL and the engine read one machine's clock, and a fence is committed before anything is handed over.
        """
        row = self.rows.get(entry.text)
        before = [each for each in row.attempts if each.fenced_at <= entry.arrived_at] if row else []
        return max(before, key=lambda each: each.fenced_at, default=None)


def of(what: Row | Promise, kind: str, why: str) -> Violation:
    """A violation by one message."""
    return Violation(kind, f"{what.text} {why}", what.session, (what.text,))
