"""A small soak of which all is known: for tests that break one promise of it, or none."""

from dataclasses import replace
from typing import Any

from tests.soak import check
from tests.soak.facts import Answer, Attempt, Entry, Facts, Promise, Row

_SEND_SECONDS = 8.0


class Case:
    """One session that sends a, b, c and so on, each a second after the one before, answered after a tenth."""

    def __init__(self, texts: str = "abc", policy: str = "hold") -> None:
        self.facts = Facts(_SEND_SECONDS, policies={"s": policy})
        for at, text in enumerate(texts):
            sent_at = 100.0 + at
            self.facts.promises.append(Promise("s", text, at, accepted_at=10.0 + at))
            self.arrives(text, sent_at)
            tried = (Attempt(sent_at - 0.1, "sent", at),)
            self.facts.rows.append(Row(text * 8, "s", text, "sent", at, queued_at=10.0 + at, attempts=tried))

    def arrives(self, text: str, at: float, answer: Answer = Answer.ACCEPTED, **changes: Any) -> Entry:
        """Another hand-over."""
        given = {"accepted": answer == Answer.ACCEPTED, "ended_at": at + 0.1, "answer": answer} | changes
        self.facts.entries.append(Entry("s", text, at, **given))
        return self.facts.entries[-1]

    def entry(self, text: str) -> Entry:
        """The first hand-over of a message."""
        return next(entry for entry in self.facts.entries if entry.text == text)

    def row(self, text: str, **changes: Any) -> None:
        """Change a row."""
        self.facts.rows = [replace(row, **changes) if row.text == text else row for row in self.facts.rows]

    def fenced(self, text: str, *attempts: tuple[float, str]) -> None:
        """Give a message these attempts, by when each was fenced and what came of it."""
        self.row(text, attempts=tuple(Attempt(at, outcome, token) for token, (at, outcome) in enumerate(attempts)))

    def finished(self, *times: float) -> None:
        """Give the only attempt of each message its end."""
        for row, at in zip(self.facts.rows, times, strict=True):
            self.row(row.text, attempts=(replace(row.attempts[0], finished_at=at),))

    def drop(self, text: str) -> None:
        """Have the engine never hear of a message."""
        self.facts.entries = [entry for entry in self.facts.entries if entry.text != text]

    def cancelled(self, text: str) -> None:
        """Have a message cancelled after an attempt that was refused for now."""
        self.fenced(text, (100.9, "retry"))
        self.row(text, status="cancelled")

    def found(self) -> set[str]:
        """The kinds of violation."""
        return {violation.kind for violation in check.violations(self.facts)}


def refused(case: Case, said: str) -> None:
    case.entry("b").answer, case.entry("b").accepted, case.entry("b").said = Answer.REFUSED, False, said
    case.fenced("b", (100.9, "failed"))
    case.row("b", status="failed", told=frozenset({"message.failed"}))


def cancelled_by_nobody(case: Case) -> None:
    case.drop("b")
    case.cancelled("b")
    case.facts.cancelled_by_client.add("cccccccc")


def expired_without_an_end(case: Case) -> None:
    case.drop("b")
    case.row("b", status="expired", expired_at=100.0, attempts=())


def overtaken(case: Case) -> None:
    case.entry("b").arrived_at, case.entry("b").ended_at = 103.0, 103.1
    case.fenced("b", (102.9, "sent"))


def no_row(case: Case) -> None:
    case.drop("b")
    case.facts.rows = [row for row in case.facts.rows if row.text != "b"]
