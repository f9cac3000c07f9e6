"""Who acts, and the entry that an act leaves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sessions_app.models import ApiKey, AuditEntry

if TYPE_CHECKING:
    from django.contrib.auth.models import User

_TARGET = 200


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever asks for an act: a person in the admin, an API key, or an operator's command."""

    label: str
    user: "User | None" = None

    @classmethod
    def from_user(cls, user: Any) -> "Actor":
        """A person in the admin."""
        return cls(user.get_username(), user)

    @classmethod
    def from_key(cls, key: ApiKey) -> "Actor":
        """A client of the API."""
        return cls(f"key {key}")

    @classmethod
    def command(cls, name: str) -> "Actor":
        """An operator at the command line."""
        return cls(f"command {name}")


def record(actor: Actor, action: str, target: str = "", *, count: int = 1, **data: Any) -> None:
    """Write the audit entry of an act, in the transaction of the act."""
    # A queue that others made may be called by more than fits.
    shown = target if len(target) <= _TARGET else f"{target[: _TARGET - 1]}…"
    AuditEntry.objects.create(user=actor.user, actor=actor.label, action=action, target=shown, count=count, data=data)
