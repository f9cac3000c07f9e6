"""What an engine said, fit for logs and rows: without what was sent, without keys, with phones masked.

Engines echo: an error may hold the request's whole body.
"""

import re
from collections.abc import Sequence

from waqueue.logs import mask_phone

_PHONE = re.compile(r"\+?\d{5,}")
_LONGEST = 200
# Whoever shares so many characters in a row with what was sent is taken for a part of it.
_SHARED = 12
_SHORTEST = 4


def redact(said: str, private: Sequence[str]) -> str:
    """`said` in one short line, phones masked; empty when it holds any of `private`, or a piece of one of them."""
    line = " ".join(said.split())
    if any(_holds(line, secret) or _holds(line, " ".join(secret.split())) for secret in private):
        return ""
    masked = _PHONE.sub(lambda found: mask_phone(found[0]), line)
    return masked if len(masked) <= _LONGEST else f"{masked[: _LONGEST - 1]}…"


def _holds(line: str, secret: str) -> bool:
    if len(secret) < _SHORTEST:
        return False
    length = min(_SHARED, len(secret))
    return any(line[start : start + length] in secret for start in range(len(line) - length + 1))
