"""Ages as people write them: 90m, 24h, 7d, always, ask."""

import re
from datetime import timedelta

from django.core.exceptions import ImproperlyConfigured

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def parse_age(variable: str, text: str) -> timedelta | None:
    """`text` as a duration; `always` is the longest there is, `ask` is None.

    Raises ImproperlyConfigured that names `variable`.
    """
    if text == "ask":
        return None
    if text == "always":
        return timedelta.max
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        raise ImproperlyConfigured(f"{variable} is {text!r}: write an age like 90m, 24h or 7d, or always, or ask")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
