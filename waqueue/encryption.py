"""The keys of the secrets at rest, as the environment gives them."""

import base64
import binascii
from collections.abc import Sequence

from django.core.exceptions import ImproperlyConfigured

_BYTES = 32


def parse_keys(variable: str, texts: Sequence[str]) -> list[str]:
    """The keys that `texts` hold, each 32 bytes in URL-safe base64, in their order; empty ones are left out.

    Raises ImproperlyConfigured that names `variable` and the place of the key that is none, never the key.
    """
    keys = []
    for place, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            # What `openssl rand -base64 32` prints is understood too.
            key = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _BYTES:
            raise ImproperlyConfigured(
                f"{variable}: number {place} of {len(texts)} is not a key. A key is {_BYTES} random bytes in base64, "
                "as `openssl rand -base64 32` prints them; several are separated by commas, the newest first"
            )
        keys.append(base64.urlsafe_b64encode(key).decode())
    return keys
