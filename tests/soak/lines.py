"""Checks of the order: places in a line as they were drawn, and hand-overs in the order of the places."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.soak.facts import Promise, Row, Violation
from tests.soak.index import Index, of

# A message that was scheduled is in line from its promotion's commit on, which may be a while after its `queued_at`.
_PROMOTION_SECONDS = 5.0


def order(index: Index) -> Iterator[Violation]:
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


def _begun(index: Index, row: Row) -> tuple[float, float]:
    """When a message first arrived, and when that was decided."""
    first = index.entries[row.text][0]
    attempt = index.attempt_of(first)
    return first.arrived_at, attempt.fenced_at if attempt else first.arrived_at


def _handed_over(index: Index, row: Row) -> float:
    """When a message had its turn: the last time, but the first time if it was given up or tried again by a person."""
    uncertain = [attempt.fenced_at for attempt in row.attempts if attempt.outcome == "uncertain"]
    entries = index.entries[row.text]
    if uncertain:
        return min(*uncertain, entries[0].arrived_at)
    is_tried_again = row.resends or row.id in index.facts.retried_by_person
    return entries[0 if is_tried_again else -1].arrived_at


def _in_line_since(index: Index, ahead: Row, behind: Row) -> float | None:
    """From when on the second of them has to wait for the first."""
    if ahead.is_scheduled:
        return None if ahead.queued_at is None else ahead.queued_at + _PROMOTION_SECONDS
    # Who draws a place waits for the commit of those before it: whenever its client heard of it, `ahead` was there.
    if ahead.seq < behind.seq:
        return 0.0
    promise = index.promises.get(ahead.text)
    return promise.accepted_at if promise else None


def places(index: Index) -> Iterator[Violation]:
    """A client that waits for each 202 finds its messages in that order."""
    handed_in: defaultdict[str, list[Promise]] = defaultdict(list)
    for promise in index.facts.promises:
        if promise.accepted_at is not None and promise.text in index.rows:
            handed_in[promise.session].append(promise)
    for promises in handed_in.values():
        promises.sort(key=lambda promise: promise.number)
        for earlier, later in pairwise(promises):
            if index.rows[earlier.text].seq >= index.rows[later.text].seq:
                yield of(later, "place", f"stands before {earlier.text}, which was handed in earlier")
