"""What tests of secrets share: a session with secrets, and its settings as its transport would get them."""

from typing import Any

from cryptography.fernet import Fernet

from sessions_app.models import Session
from sessions_app.transports.waha import WahaTransport
from tests.factories import make_session

KEY = "sesame-0f-the-engine"
HOOK = "sesame-0f-the-hook"
CONFIG = {"base_url": "http://127.0.0.1:1", "api_key": KEY, "webhook_secret": HOOK}


def make_waha(name: str = "school", **config: Any) -> Session:
    """Make a session on WAHA, with two secrets."""
    return make_session(name, transport="waha", config=CONFIG | config)


def opened(session: Session | None = None) -> dict[str, Any]:
    """The settings as the transport would get them now."""
    session = session or Session.objects.get(name="school")
    session.refresh_from_db()
    return WahaTransport.open_config(session.config)


def new_key() -> str:
    """A key for WAQUEUE_ENCRYPTION_KEYS."""
    return Fernet.generate_key().decode()
