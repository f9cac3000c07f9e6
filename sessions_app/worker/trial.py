"""The child process in which suspects are tried, one after another: what a message kills here is nothing but this.

It reads flights from its standard input and writes what came of each to its standard output, as JSON lines. The first
line says that it is ready: who dies before that was killed by no message.
"""

import asyncio
import json
import os
import signal
import sys
import uuid
from dataclasses import fields
from typing import Any, TextIO

from django.db import Error as DatabaseError
from django.db import close_old_connections, connection

from sessions_app.models import Hold, Outcome, Status
from sessions_app.worker.fence import CONTENT
from sessions_app.worker.outcomes import Flight, Settlement, returned
from sessions_app.worker.sender import Sender

# What the worker starts.
PROGRAM = "import django; django.setup(); from sessions_app.worker.trial import main; main()"
READY = "ready\n"

_FLIGHT = (
    "token", "session_id", "session_name", "transport", "on_uncertain", "attempts", "max_attempts", "has_more",
    "fenced_at", "deadline", "observed_state", "config", "deaths", "is_doubted",
)  # fmt: skip
_SETTLEMENT = tuple(field.name for field in fields(Settlement) if field.name != "flight")


def main() -> None:
    """Try whatever comes in, until nothing more can come."""
    answers = os.fdopen(os.dup(1), "w")
    # Whatever else is printed belongs into the log.
    os.dup2(2, 1)
    for number in (signal.SIGTERM, signal.SIGINT):
        # The worker decides when this ends. A death that somebody else caused would be blamed on the message.
        signal.signal(number, signal.SIG_IGN)
    with asyncio.Runner() as runner:
        sender = Sender()
        _say(answers, READY)
        for line in sys.stdin:
            flight = _flight(line)
            settlement = _read(flight) or runner.run(sender.send(flight))
            _say(answers, json.dumps({name: getattr(settlement, name) for name in _SETTLEMENT}) + "\n")
        runner.run(sender.close())


def asked(flight: Flight) -> bytes:
    """A flight as this program reads it."""
    values = {name: getattr(flight, name) for name in _FLIGHT} | {"message_id": str(flight.message_id)}
    return json.dumps(values).encode() + b"\n"


def answered(flight: Flight, line: bytes) -> Settlement:
    """What this program wrote of a flight."""
    values: dict[str, Any] = json.loads(line)
    values |= {
        "outcome": Outcome(values["outcome"]), "status": Status(values["status"]), "hold": Hold(values["hold"])
    }  # fmt: skip
    return Settlement(flight, **values)


def _flight(line: str) -> Flight:
    values = json.loads(line)
    return Flight(**values | {"message_id": uuid.UUID(values["message_id"])})


def _read(flight: Flight) -> Settlement | None:
    """Read what is to be sent; the settlement instead when that cannot be done."""
    try:
        close_old_connections()
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {CONTENT} FROM wa_message m WHERE m.id = %s",  # noqa: S608 (a statement of ours)
                [flight.message_id],
            )
            row = cursor.fetchone()
    except DatabaseError as error:
        return returned(flight, f"it could not be read: {type(error).__name__}", wait_ms=5000)
    if row is None:
        return returned(flight, "it could not be found", wait_ms=5000)
    flight.content = json.loads(row[0]) if isinstance(row[0], str) else row[0]
    return None


def _say(answers: TextIO, line: str) -> None:
    answers.write(line)
    answers.flush()
