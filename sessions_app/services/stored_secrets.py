"""The secrets that stand in PostgreSQL, sealed anew with the newest key."""

from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from sessions_app.models import Session
from sessions_app.services import audit
from sessions_app.services.audit import Actor
from sessions_app.transports import registry
from sessions_app.transports.sealing import is_sealed, keyring

_CHUNK = 500


@dataclass(slots=True)
class Rotation:
    """What a rotation found: secrets that it sealed anew, those that need nothing, and those that no key opens."""

    rotated: int = 0
    current: int = 0
    # As `session: setting`; a deleted session's name may stand there too.
    unreadable: list[str] = field(default_factory=list)


def rotate(*, actor: Actor, dry_run: bool = False) -> Rotation:
    """Seal every secret with the newest key, also those of deleted sessions and those that stand in the open.

    Each session by itself, so that it may be stopped at any moment and begun again. With `dry_run` only count.
    """
    found = Rotation()
    for seen in Session.objects.order_by("pk").iterator(_CHUNK):
        if not any(_is_secret(seen, name) for name in seen.config):
            continue
        with transaction.atomic():
            session = Session.objects.select_for_update(no_key=True).get(pk=seen.pk)
            config = _resealed(session, found)
            if config != session.config and not dry_run:
                Session.objects.filter(pk=session.pk).update(config=config)
    if found.rotated and not dry_run:
        audit.record(actor, "rotate secrets", count=found.rotated)
    return found


def _is_secret(session: Session, name: str) -> bool:
    """Whether that setting is a secret: a sealed one, or text from a time at which the transport did not call it so."""
    value = session.config[name]
    known = registry.get(session.transport).secret_names if session.transport in registry.names() else frozenset()
    return is_sealed(value) or (name in known and isinstance(value, str) and value != "")


def _resealed(session: Session, found: Rotation) -> dict[str, Any]:
    """The session's settings with all secrets under the newest key; counts them."""
    config = dict(session.config)
    for name, value in session.config.items():
        if not _is_secret(session, name):
            continue
        plain = keyring().open(value) if is_sealed(value) else value
        if plain is None:
            found.unreadable.append(f"{session.name}: {name}")
        elif is_sealed(value) and keyring().is_newest(value):
            found.current += 1
        else:
            config[name] = keyring().seal(plain)
            found.rotated += 1
    return config
