"""Recipients: accepted as people type them, kept in E.164 where they have a country code."""

import re

import phonenumbers
from django.conf import settings

from sessions_app.exceptions import InvalidInput

# With the invisible marks that address books put around a number, and that come along when it is copied.
_SEPARATORS = re.compile(r"[\s().\-/\u00a0\u2010-\u2015\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]+")
_MIN_DIGITS, _MAX_DIGITS = 5, 15


def normalise(phone: str, *, field: str = "to") -> str:
    """Return `phone` as `+` and digits if it names a country, else as digits alone.

    A number without a plus is read in the default region if there is one, else as an international number if it is a
    valid one, else it is kept as it is: WhatsApp knows numbers that no numbering plan does, so nothing is refused
    for being "invalid". Raises InvalidInput when it does not hold 5 to 15 digits.
    """
    compact = _SEPARATORS.sub("", phone)
    if compact.startswith("00"):
        compact = f"+{compact[2:]}"
    digits = compact.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and _MIN_DIGITS <= len(digits) <= _MAX_DIGITS):
        raise InvalidInput(
            [{"field": field, "message": "a phone has 5 to 15 digits, with a country code if it has one: +51930246633"}]
        )
    if compact.startswith("+"):
        return compact
    region = settings.WAQUEUE_DEFAULT_REGION
    if region and (parsed := _parse(digits, region)) is not None and phonenumbers.is_possible_number(parsed):
        return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    if (parsed := _parse(f"+{digits}", None)) is not None and phonenumbers.is_valid_number(parsed):
        return f"+{digits}"
    return digits


def _parse(phone: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(phone, region)
    except phonenumbers.NumberParseException:
        return None
