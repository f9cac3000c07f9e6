"""Checks of how messages end: each does, in one row, in a state that is true, that something led to, and is told."""

from collections import Counter
from collections.abc import Iterator

from tests.soak.facts import NOT_CONNECTED, Answer, Row, Violation
from tests.soak.index import Index, of

_SENT = ("sent", "delivered", "read")
_ENDED = (*_SENT, "failed", "cancelled", "expired", "uncertain")
# The event of an end bears the time at which its transaction began, and a fence looks at the clock later in its own.
_FENCE_SECONDS = 2.0


def lost(index: Index) -> Iterator[Violation]:
    """Every promised message is there and has ended; one that is `sent` is known to the engine."""
    for promise in index.facts.promises:
        row = index.rows.get(promise.text)
        if row is None:
            if promise.accepted_at is not None:
                yield of(promise, "lost", "was answered with 202 and is in no row")
        elif row.status not in _ENDED:
            yield of(row, "lost", f"has not ended: it is {row.status}")
        elif row.status in _SENT and not any(entry.accepted for entry in index.entries[row.text]):
            yield of(row, "lost", f"is {row.status}, and the engine never took it")


def doubled(index: Index) -> Iterator[Violation]:
    """What a client handed in once, also by several requests of one key, is one message."""
    for text, count in Counter(row.text for row in index.facts.rows).items():
        if count > 1:
            yield of(index.rows[text], "doubled", f"is in {count} rows")


def untrue(index: Index) -> Iterator[Violation]:
    """A final state that says `not sent` is true."""
    for row in index.facts.rows:
        accepted = any(entry.accepted for entry in index.entries[row.text])
        if row.status in ("failed", "cancelled", "expired") and accepted:
            if row.status == "failed" and row.id in index.facts.given_up_by_person:
                continue
            # Who sends it again knows that it may have arrived.
            if row.id in index.facts.resent_by_person:
                continue
            yield of(row, "untrue", f"is {row.status}, and the engine took it")


def uncaused(index: Index) -> Iterator[Violation]:
    """Something led to a final state: what somebody asked for, what the engine said, or what nobody could know."""
    for row in index.facts.rows:
        match row.status:
            case "cancelled" if row.id not in index.facts.cancelled_by_client:
                yield of(row, "uncaused", "is cancelled, which nobody asked for")
            case "expired" if row.expires_at is None:
                yield of(row, "uncaused", "is expired, and was to be sent at any time")
            case "expired" if row.expired_at is None or row.expired_at < row.expires_at - _FENCE_SECONDS:
                yield of(row, "uncaused", "is expired, and its time was not over")
            case "failed" if row.id not in index.facts.given_up_by_person and not _is_refused(index, row):
                yield of(row, "uncaused", "failed, and neither the engine nor a person said so of its last attempt")
            # Also of a message that was cancelled, expired or refused later: the attempt before may have arrived.
            case "uncertain" if not any(attempt.outcome == "uncertain" for attempt in row.attempts):
                yield of(row, "uncaused", "is uncertain, and what came of each of its attempts is known")


def _is_refused(index: Index, row: Row) -> bool:
    """Whether the engine met the last attempt with a refusal of the message: for good, or one too many for now."""
    last = max(row.attempts, key=lambda attempt: attempt.token, default=None)
    return (
        last is not None
        and last.outcome == "failed"
        and any(
            entry.answer == Answer.REFUSED and entry.said != NOT_CONNECTED and index.attempt_of(entry) is last
            for entry in index.entries[row.text]
        )
    )


def untold(index: Index) -> Iterator[Violation]:
    """Somebody was told of everything that is uncertain or failed."""
    for row in index.facts.rows:
        if row.status == "uncertain" and "message.uncertain" not in row.told:
            yield of(row, "untold", "is uncertain, and there is no event of it")
        if row.status == "failed" and not row.told & {"message.failed", "message.resolved"}:
            yield of(row, "untold", "failed, and there is no event of it")
