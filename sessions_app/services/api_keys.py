"""API keys: create and revoke them. Each act leaves its audit entry."""

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from sessions_app.exceptions import InvalidInput
from sessions_app.models import ApiKey, Scope, Session
from sessions_app.services import audit
from sessions_app.services.audit import Actor

_NAME_LENGTH = 100


def create(
    *, name: str, scopes: list[str], session_names: list[str], expires_at: datetime | None, actor: Actor
) -> tuple[ApiKey, str]:
    """Return a new key and its plain text, which nobody can read again.

    Without `session_names` it may touch all sessions, with them only those: a session that is made later under the
    name of a deleted one is another session. Raises InvalidInput naming `name`, `scopes`, `sessions` or `expires_at`.
    """
    name = name.strip()
    errors = _errors(name, scopes, expires_at)
    with transaction.atomic():
        sessions = list(Session.objects.alive().filter(name__in=[each for each in session_names if "\0" not in each]))
        if unknown := sorted(set(session_names) - {session.name for session in sessions}):
            errors.append(
                {"field": "sessions", "message": f"there is no session named {', '.join(map(repr, unknown))}"}
            )
        if errors:
            raise InvalidInput(errors)
        key, plain = ApiKey.build(name, sorted(set(scopes)))
        key.expires_at = expires_at
        key.is_limited = bool(sessions)
        key.save(force_insert=True)
        key.sessions.set(sessions)
        audit.record(
            actor,
            "create API key",
            str(key),
            scopes=key.scopes,
            sessions=sorted(session.name for session in sessions),
            expires_at=expires_at and expires_at.isoformat(),
        )
    return key, plain


def revoke(key: ApiKey, *, actor: Actor) -> ApiKey:
    """End a key for good, from its next request on. One that is revoked already stays as it is."""
    with transaction.atomic():
        if ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()):
            audit.record(actor, "revoke API key", str(key))
    key.refresh_from_db()
    return key


def _errors(name: str, scopes: list[str], expires_at: datetime | None) -> list[dict[str, str]]:
    errors = []
    if not (1 <= len(name) <= _NAME_LENGTH and name.isprintable()):
        errors.append({"field": "name", "message": f"has to be 1 to {_NAME_LENGTH} printable characters"})
    elif ApiKey.objects.valid().filter(name=name).exists():
        errors.append(
            {"field": "name", "message": f"there is a valid key named {name!r}: revoke it, or take another name"}
        )
    unknown = sorted(set(scopes) - set(Scope.values))
    if unknown or not scopes:
        what = f"{', '.join(map(repr, unknown))} is none" if unknown else "at least one is needed"
        errors.append({"field": "scopes", "message": f"{what}; the scopes are: {', '.join(Scope.values)}"})
    if expires_at is not None and expires_at <= timezone.now():
        errors.append({"field": "expires_at", "message": "has to be in the future"})
    return errors
