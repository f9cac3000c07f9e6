"""A session's line: messages appended to it, and what stands before a place in it, each in one statement."""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from django.db import connection

from sessions_app.database import kept_cursor
from sessions_app.models.message import Ahead, Message, Priority, blank_values

# How many open messages of a session stand before a place in its line; past 200 an upper bound, so that it stays cheap.
# And until when the first of them waits: of those that go before its priority, and of its own.
# Each is asked for in the line's order, so that its index is the cheapest also to a planner that sees an empty table.
_AHEAD = """
SELECT
    (SELECT count(*) FROM (
        SELECT FROM wa_message m
        WHERE m.session_id = %(session)s::bigint AND m.status IN ('queued', 'sending')
          AND m.priority < %(priority)s::int
        ORDER BY m.priority, m.seq OFFSET 0) before)
    + CASE WHEN {seq} - head.seq < 200 THEN (
        SELECT count(*) FROM (
            SELECT FROM wa_message m
            WHERE m.session_id = %(session)s::bigint AND m.status IN ('queued', 'sending')
              AND m.priority = %(priority)s::int AND m.seq < {seq}
            ORDER BY m.priority, m.seq OFFSET 0) before)
    ELSE coalesce({seq} - head.seq, 0) END,
    greatest(head.next_attempt_at, (
        SELECT next_attempt_at FROM wa_message
        WHERE session_id = %(session)s::bigint AND status IN ('queued', 'sending') AND priority < %(priority)s::int
        ORDER BY priority, seq LIMIT 1))
FROM (SELECT 1) here LEFT JOIN LATERAL (
    SELECT seq, next_attempt_at FROM wa_message
    WHERE session_id = %(session)s::bigint AND status IN ('queued', 'sending') AND priority = %(priority)s::int
    ORDER BY seq LIMIT 1
) head ON true
"""
# When the last 200 up to a place can have gone to their recipients at the earliest: each of these gets its messages
# one after another, and none that stands further back overtakes.
_RECIPIENTS = """
SELECT max(greatest(%(now)s::timestamptz, pace.next_send_at)
           + (own.count - 1) * %(wait_ms)s::bigint * interval '1 millisecond')
FROM (
    SELECT recipient, count(*) FROM (
        SELECT recipient FROM wa_message
        WHERE session_id = %(session)s::bigint AND status IN ('queued', 'sending')
          AND (priority, seq) <= (%(priority)s::smallint, %(seq)s::bigint)
        ORDER BY priority DESC, seq DESC LIMIT 200
    ) near GROUP BY recipient
) own
LEFT JOIN wa_recipient_pace pace ON pace.session_id = %(session)s::bigint AND pace.recipient = own.recipient
"""
# Most of a row is the same in all: that goes once.
_ROWS = "json_populate_recordset(json_populate_record(NULL::wa_message, %(same)s::json), %(rows)s::json)"
# Places are drawn first: whoever draws next waits for this commit, and stands behind it.
_APPEND = """
WITH drawn AS (
    UPDATE wa_session_counter SET next_seq = next_seq + %(count)s::int WHERE session_id = %(session)s::bigint
    RETURNING next_seq - %(count)s::int AS first
), kept AS (
    INSERT INTO wa_message ({columns})
    SELECT {values} FROM drawn, {rows} new ORDER BY new.seq
    RETURNING id, session_id, status
), told AS (
    INSERT INTO wa_event (kind, session_id, message_id, data)
    SELECT 'message.' || status, session_id, id, '{{}}'::jsonb FROM kept
)
SELECT drawn.first, line.* FROM drawn
LEFT JOIN LATERAL (SELECT * FROM ({ahead}) counted(count, until) WHERE %(count)s::int = 1) line ON true
"""


def append(session_id: int, messages: Sequence[Message]) -> bool:
    """Insert new rows at the end of a session's line, in their order, and tell of each: one statement for all.

    Sets their `seq`, and the `ahead` of a single one. False when the session is deleted: nothing is written then.
    As `bulk_create` does, it calls neither `save` nor signals. Raises the errors of django.db.
    """
    same, rows = _rows(messages)
    for at, row in enumerate(rows):
        row["seq"] = at
    said: dict[str, int | str] = {
        "session": session_id, "count": len(rows), "same": _json(same), "rows": _json(rows),
        "priority": messages[0].priority if messages else Priority.NORMAL,
    }  # fmt: skip
    with kept_cursor() as cursor:
        drawn = cursor.execute(_append_statement(), said, prepare=True).fetchone()
    if drawn is None:
        return False
    for at, message in enumerate(messages):
        message.seq, message.ahead = drawn[0] + at, None if drawn[1] is None else Ahead(*drawn[1:])
        message._state.adding, message._state.db = False, connection.alias
    return True


def ahead(message: Message) -> Ahead:
    """What stands before this one in its line; past 200 messages the count is an upper bound.

    Raises the errors of django.db.
    """
    with kept_cursor() as cursor:
        row = cursor.execute(_AHEAD.format(seq="%(seq)s::bigint"), _place(message), prepare=True).fetchone()
    return Ahead(*row) if row else Ahead(0, None)


def recipients_until(message: Message, wait_ms: int, now: datetime) -> datetime | None:
    """Until when it waits at least where each recipient is written to every `wait_ms`, by those up to it.

    None when it stands in no line. Raises the errors of django.db.
    """
    asked = _place(message) | {"wait_ms": wait_ms, "now": now}
    with kept_cursor() as cursor:
        row = cursor.execute(_RECIPIENTS, asked, prepare=True).fetchone()
    return row[0] if row else None


@cache
def _columns() -> list[tuple[str, str]]:
    """The attributes of a message with their columns."""
    return [(field.attname, str(field.column)) for field in Message._meta.concrete_fields]


@cache
def _append_statement() -> str:
    columns, values = columns_of_new(seq="drawn.first + new.seq")
    return _APPEND.format(columns=columns, values=values, rows=_ROWS, ahead=_AHEAD.format(seq="drawn.first"))


def columns_of_new(**given: str) -> tuple[str, str]:
    """The columns of an INSERT of messages, and what it writes into them: what is given, else that of a row `new`."""
    values = {column: f'new."{column}"' for _, column in _columns()} | given
    return ", ".join(f'"{column}"' for column in values), ", ".join(values.values())


@cache
def row_of_new() -> str:
    """A new message of nobody as JSON, by its columns."""
    return _json({column: blank_values()[name] for name, column in _columns()})


def _place(message: Message) -> dict[str, int]:
    return {"session": message.session_id, "priority": message.priority, "seq": message.seq}


def _rows(messages: Sequence[Message]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first of the messages by its columns, and of each message what differs from it."""
    if not messages:
        return {}, []
    first = vars(messages[0])
    same = [(name, column, first[name]) for name, column in _columns()]
    rows = [
        {
            column: value
            for name, column, usual in same
            # To Python, `{"a": 1}` equals `{"a": True}`: JSON that says anything is never taken for another.
            if (value := values[name]) is not usual and (value != usual or (value and isinstance(value, (dict, list))))
        }
        for values in map(vars, messages)
    ]
    return {column: usual for _, column, usual in same}, rows


def _json(values: object) -> str:
    return json.dumps(values, default=str)
