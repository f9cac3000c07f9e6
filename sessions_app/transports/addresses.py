"""The addresses of engines, as people type them."""

from urllib.parse import urlsplit

from django.utils.translation import gettext_noop as _
from yarl import URL

_LONGEST = 500
_WRITTEN = _("has to be an address without spaces, like http://127.0.0.1:3000")
_KIND = _("has to begin with http:// or https:// and to name a host, like http://127.0.0.1:3000")
_CREDENTIALS = _("must not hold a user or a password: a key has a field of its own")
_QUERY = _("has to end before any ? or #")


def clean_base_url(text: str) -> str:
    """`text` without a slash at its end. Raises ValueError that says what does not fit, without repeating it.

    Engines may well be on this machine or beside it: no address is refused for being private.
    """
    if len(text) > _LONGEST or not text.isprintable() or " " in text.strip() or "\\" in text:
        raise ValueError(_WRITTEN)
    try:
        parts = urlsplit(text.strip())
        has_port = parts.port is None or parts.port > 0
        # What it cannot make out would fail with every message.
        URL(text.strip()).origin()
    except ValueError:
        raise ValueError(_WRITTEN) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
        raise ValueError(_KIND)
    if parts.username is not None or parts.password is not None:
        raise ValueError(_CREDENTIALS)
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError(_QUERY)
    return text.strip().rstrip("/")
