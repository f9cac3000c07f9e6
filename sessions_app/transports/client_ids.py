"""Ids of ours that look like WhatsApp Web's: `3EB0` and 18 hexadecimal digits, as whatsmeow and Baileys make them.

They are made from the message's id, and lead back to it without an index: 32 bits are of the millisecond in which the
message was made, and 40 of its random ones. The time is mixed with the rest, for ids that grow would show where they
come from.
"""

import hashlib
import re
import uuid
from datetime import datetime, timedelta

_OURS = re.compile(r"3EB0([0-9A-F]{8})([0-9A-F]{10})")
_TIME = 2**32
_REST = 2**40
# The milliseconds in a UUIDv7 stand above so many other bits.
_BELOW_TIME = 80
# Clocks of two hosts differ.
_AHEAD = timedelta(hours=1)


def client_id(message_id: uuid.UUID) -> str:
    """The id for a message."""
    rest = message_id.int % _REST
    time = (message_id.int >> _BELOW_TIME) % _TIME
    return f"3EB0{time ^ _mask(rest):08X}{rest:010X}"


def ids_around(given: str, now: datetime) -> tuple[uuid.UUID, uuid.UUID] | None:
    """All ids of the millisecond that `given` was made from, if it was made in the last 49 days; None for others."""
    found = _OURS.fullmatch(given)
    if found is None:
        return None
    time = int(found[1], 16) ^ _mask(int(found[2], 16))
    latest = int((now + _AHEAD).timestamp() * 1000)
    first = (latest - (latest - time) % _TIME) << _BELOW_TIME
    return uuid.UUID(int=first), uuid.UUID(int=first + 2**_BELOW_TIME - 1)


def _mask(rest: int) -> int:
    return int.from_bytes(hashlib.sha256(rest.to_bytes(5, "big")).digest()[:4], "big")
