"""The count: which promises were not kept. A pure function of the facts."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from tests.soak.facts import NOT_CONNECTED, Answer, Attempt, Entry, Facts, Promise, Row, Violation

SENT = ("sent", "delivered", "read")
ENDED = (*SENT, "failed", "cancelled", "expired", "uncertain")
# What an attempt comes to when its engine was troubled.
_COUNTED = ("sent", "retry", "failed", "uncertain")
# A message that was scheduled is in line from its promotion's commit on, which may be a while after its `queued_at`.
_PROMOTION_SECONDS = 5.0
# Clocks are the same; what was read from them may be off by a moment.
_MOMENT = 0.05


class _Index:
    """The facts by text."""

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
        """The try that a hand-over belongs to: the last one fenced before it arrived."""
        row = self.rows.get(entry.text)
        before = [each for each in row.attempts if each.fenced_at <= entry.arrived_at + _MOMENT] if row else []
        return max(before, key=lambda each: each.fenced_at, default=None)


def violations(facts: Facts) -> list[Violation]:
    """Everything that was promised and not kept."""
    index = _Index(facts)
    found = [violation for look in _LOOKS for violation in look(index)]
    return found + [Violation("remains", what) for what in facts.remains]


def _lost(index: _Index) -> Iterator[Violation]:
    """Every promised message is there and has ended; one that is `sent` is known to the engine."""
    for promise in index.facts.promises:
        row = index.rows.get(promise.text)
        if row is None:
            if promise.accepted_at is not None:
                yield _of(promise, "lost", "was answered with 202 and is in no row")
        elif row.status not in ENDED:
            yield _of(row, "lost", f"has not ended: it is {row.status}")
        elif row.status in SENT and not any(entry.accepted for entry in index.entries[row.text]):
            yield _of(row, "lost", f"is {row.status}, and the engine never took it")


def _doubled(index: _Index) -> Iterator[Violation]:
    """What a client handed in once, also by several requests of one key, is one message."""
    for text, count in Counter(row.text for row in index.facts.rows).items():
        if count > 1:
            yield _of(index.rows[text], "doubled", f"is in {count} rows")


def _twice(index: _Index) -> Iterator[Violation]:
    """Once the engine may have taken a message, only a policy or a person hands it over again."""
    for row in index.facts.rows:
        handed = [entry for entry in index.entries[row.text] if entry.accepted or entry.answer != Answer.REFUSED]
        if len(handed) > 1 + row.resends:
            yield _of(row, "twice", f"was handed over {len(handed)} times and resent {row.resends} times")
        may_be_resent = index.facts.policies.get(row.session) == "resend" or row.id in index.facts.resent_by_person
        if row.resends and not may_be_resent:
            yield _of(row, "twice", "was resent, which nobody asked for")


def _untrue(index: _Index) -> Iterator[Violation]:
    """A final state that says `not sent` is true."""
    for row in index.facts.rows:
        accepted = any(entry.accepted for entry in index.entries[row.text])
        if row.status in ("failed", "cancelled", "expired") and accepted:
            if row.status == "failed" and row.id in index.facts.given_up_by_person:
                continue
            # Who sends it again knows that it may have arrived.
            if row.id in index.facts.resent_by_person:
                continue
            yield _of(row, "untrue", f"is {row.status}, and the engine took it")


def _unpromised(index: _Index) -> Iterator[Violation]:
    """The engine gets nothing that no client handed in."""
    for entry in index.facts.entries:
        if entry.text not in index.promises:
            yield Violation("unpromised", f"the engine got {entry.text!r}", entry.session, (entry.text,))
        elif entry.session != index.promises[entry.text].session:
            yield Violation("unpromised", "went out through another session", entry.session, (entry.text,))


def _overlaps(index: _Index) -> Iterator[Violation]:
    """Never two of one session in flight: one is until it is answered, its worker has hung up, or its time is over."""
    for session, entries in index.by_session.items():
        busy_until, holder = 0.0, None
        for entry in entries:
            if holder is not None and entry.arrived_at < busy_until - _MOMENT:
                yield Violation(
                    "overlap", f"{entry.text} arrived while {holder.text} was in flight", session,
                    (holder.text, entry.text),
                )  # fmt: skip
            attempt = index.attempt_of(entry)
            over = (attempt.fenced_at if attempt else entry.arrived_at) + index.facts.send_seconds
            until = over if entry.ended_at is None else min(entry.ended_at, over)
            if until > busy_until:
                busy_until, holder = until, entry


def _order(index: _Index) -> Iterator[Violation]:
    """In one session, none is handed over while another that stands before it in the line has yet to be."""
    lines: defaultdict[str, list[Row]] = defaultdict(list)
    for row in index.facts.rows:
        if index.entries[row.text]:
            lines[row.session].append(row)
    for rows in lines.values():
        rows.sort(key=lambda row: (row.priority, row.seq))
        begun = [(_begun(index, row), row) for row in rows]
        for at, ahead in enumerate(rows):
            done = _handed_over(index, ahead)
            for (arrived, fenced), behind in begun[at + 1 :]:
                since = _in_line_since(index, ahead, behind)
                if since is not None and arrived < done and fenced > since:
                    yield Violation(
                        "order", f"{behind.text} was handed over {done - arrived:.3f} s before {ahead.text}",
                        ahead.session, (ahead.text, behind.text),
                    )  # fmt: skip


def _begun(index: _Index, row: Row) -> tuple[float, float]:
    """When a message first arrived, and when that was decided."""
    first = index.entries[row.text][0]
    attempt = index.attempt_of(first)
    return first.arrived_at, attempt.fenced_at if attempt else first.arrived_at


def _handed_over(index: _Index, row: Row) -> float:
    """When a message had its turn: the last time, but the first time if it was given up or tried again by a person."""
    uncertain = [attempt.fenced_at for attempt in row.attempts if attempt.outcome == "uncertain"]
    entries = index.entries[row.text]
    if uncertain:
        return min(*uncertain, entries[0].arrived_at)
    is_tried_again = row.resends or row.id in index.facts.retried_by_person
    return entries[0 if is_tried_again else -1].arrived_at


def _in_line_since(index: _Index, ahead: Row, behind: Row) -> float | None:
    """From when on the second of them has to wait for the first."""
    if ahead.is_scheduled:
        return None if ahead.queued_at is None else ahead.queued_at + _PROMOTION_SECONDS
    # Who draws a place waits for the commit of those before it: whenever its client heard of it, `ahead` was there.
    if ahead.seq < behind.seq:
        return 0.0
    promise = index.promises.get(ahead.text)
    return promise.accepted_at if promise else None


def _pace(index: _Index) -> Iterator[Violation]:
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


def _caps(index: _Index) -> Iterator[Violation]:
    """What a session has sent counts towards its cap. A late answer to what was uncertain may count once more."""
    for session, (since, count) in index.facts.counted.items():
        attempts = [each for row in index.facts.rows if row.session == session for each in row.attempts]
        # Both times are read from the same clock, in the same transaction.
        sent = [each for each in attempts if each.outcome in _COUNTED and (each.finished_at or 0.0) >= since]
        if count < len(sent):
            yield Violation("cap", f"has counted {count} of {len(sent)} hand-overs towards its cap", session)


def _places(index: _Index) -> Iterator[Violation]:
    """A client that waits for each 202 finds its messages in that order."""
    handed_in: defaultdict[str, list[Promise]] = defaultdict(list)
    for promise in index.facts.promises:
        if promise.accepted_at is not None and promise.text in index.rows:
            handed_in[promise.session].append(promise)
    for promises in handed_in.values():
        promises.sort(key=lambda promise: promise.number)
        for earlier, later in pairwise(promises):
            if index.rows[earlier.text].seq >= index.rows[later.text].seq:
                yield _of(later, "place", f"stands before {earlier.text}, which was handed in earlier")


def _paused(index: _Index) -> Iterator[Violation]:
    """A paused session sends nothing that was not on its way."""
    for pause in index.facts.pauses:
        for entry in index.by_session[pause.session]:
            attempt = index.attempt_of(entry)
            if attempt and pause.since < attempt.fenced_at < pause.until:
                yield Violation("paused", f"{entry.text} was sent while it was paused", pause.session, (entry.text,))


def _untold(index: _Index) -> Iterator[Violation]:
    """Somebody was told of everything that is uncertain or failed."""
    for row in index.facts.rows:
        if row.status == "uncertain" and "message.uncertain" not in row.told:
            yield _of(row, "untold", "is uncertain, and there is no event of it")
        if row.status == "failed" and not row.told & {"message.failed", "message.resolved"}:
            yield _of(row, "untold", "failed, and there is no event of it")


def _of(what: Row | Promise, kind: str, why: str) -> Violation:
    return Violation(kind, f"{what.text} {why}", what.session, (what.text,))


_LOOKS: tuple[Callable[[_Index], Iterator[Violation]], ...] = (
    _lost, _doubled, _twice, _untrue, _unpromised, _overlaps, _order, _pace, _caps, _places, _paused, _untold,
)  # fmt: skip
KINDS = (
    "lost", "doubled", "twice", "untrue", "unpromised", "overlap", "order", "pace", "cap", "place", "paused",
    "untold", "remains",
)  # fmt: skip
