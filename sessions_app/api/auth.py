"""Whose key it is, what it may do, and which sessions it sees."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from sessions_app.api.problems import ApiError, Problem
from sessions_app.api.schemas.fields import is_session_name
from sessions_app.exceptions import BatchNotFound, MessageNotFound, SessionNotFound
from sessions_app.models import ApiKey, Batch, Message, Scope, Session
from sessions_app.models.api_key import digest, looks_like_a_key
from sessions_app.models.finder import Finder
from sessions_app.services.audit import Actor

# A key in use is written at most so often: its row must not become the busiest of all.
_USED_EVERY = timedelta(minutes=1)

# What every request asks.
_key_of = Finder(ApiKey, "found.secret_digest = %s")
_living_session = Finder(Session, "found.name = %s AND found.deleted_at IS NULL", beside="dispatch")


@dataclass(frozen=True)
class Caller:
    """An API key that was checked. A session that it may not touch is, to it, one that does not exist."""

    key: ApiKey

    @property
    def actor(self) -> Actor:
        """Return who acts, for events and audit."""
        return Actor.from_key(self.key)

    @cached_property
    def session_ids(self) -> frozenset[int] | None:
        """Return the rows that the key is limited to; None for all."""
        if not self.key.is_limited:
            return None
        return frozenset(self.key.sessions.values_list("pk", flat=True))

    def sessions(self) -> QuerySet[Session]:
        """Return the living sessions that the key sees, with their dispatch rows."""
        living = Session.objects.alive().select_related("dispatch")
        return living if self.session_ids is None else living.filter(pk__in=self.session_ids)

    def session(self, name: str) -> Session:
        """Return a living session that the key sees. Raises SessionNotFound."""
        found = _living_session(name) if is_session_name(name) else None
        if found is None or not (self.session_ids is None or found.pk in self.session_ids):
            raise SessionNotFound(f"there is no session named {name!r}: create it first")
        return found

    def messages(self) -> QuerySet[Message]:
        """Return the messages that the key sees, those of deleted sessions among them."""
        everyones = Message.objects.all()
        return everyones if self.session_ids is None else everyones.filter(session__in=self.session_ids)

    def message(self, message_id: str) -> uuid.UUID:
        """Return the id of a message that the key sees. Raises MessageNotFound."""
        try:
            wanted = uuid.UUID(message_id)
        except ValueError:
            raise MessageNotFound(f"there is no message {message_id!r}: an id is a UUID") from None
        if not self.messages().filter(pk=wanted).exists():
            raise MessageNotFound(f"there is no message {wanted}")
        return wanted

    def batches(self) -> QuerySet[Batch]:
        """Return the batches of the sessions that the key sees, those of deleted ones among them."""
        everyones = Batch.objects.all()
        return everyones if self.session_ids is None else everyones.filter(session__in=self.session_ids)

    def batch(self, batch_id: str) -> uuid.UUID:
        """Return the id of a batch that the key sees. Raises BatchNotFound."""
        try:
            wanted = uuid.UUID(batch_id)
        except ValueError:
            raise BatchNotFound(f"there is no batch {batch_id!r}: an id is a UUID") from None
        if not self.batches().filter(pk=wanted).exists():
            raise BatchNotFound(f"there is no batch {wanted}")
        return wanted

    def rows_named(self, name: str) -> list[int]:
        """Return the rows of the sessions that have or had this name. Raises SessionNotFound when there is none."""
        named = Session.objects.filter(name=name)
        if self.session_ids is not None:
            named = named.filter(pk__in=self.session_ids)
        found = list(named.values_list("pk", flat=True))
        if not found:
            raise SessionNotFound(f"there is no session named {name!r}")
        return found


class ApiRequest(HttpRequest):
    """A request whose key was checked."""

    auth: Caller


class KeyAuth:
    """Lets a request in whose key is valid and has `scope`. Raises ApiError with 401 or 403.

    The scopes stand beside each other, none holds another: a key that only creates sessions need not read messages.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def __call__(self, request: HttpRequest) -> Caller:
        """Return who asks."""
        plain = _given_key(request)
        if not plain:
            raise _unauthorized("A key is needed: Authorization: Bearer <key>, or X-Api-Key: <key>.")
        key = _key_of(digest(plain)) if looks_like_a_key(plain) else None
        if key is None:
            raise _unauthorized("This is no key of this waqueue.", is_invalid=True)
        now = timezone.now()
        if key.revoked_at is not None:
            raise _unauthorized("This key was revoked.", is_invalid=True)
        if key.expires_at is not None and key.expires_at <= now:
            raise _unauthorized("This key has expired.", is_invalid=True)
        if self.scope not in key.scopes:
            raise _missing_scope(key, self.scope)
        _touch(key, now)
        return Caller(key)


def needs(scope: Scope) -> Callable[[HttpRequest], Caller]:
    """Return the guard of an operation."""
    return KeyAuth(scope)


def _given_key(request: HttpRequest) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    # A proxy may have used Authorization for itself.
    return request.headers.get("X-Api-Key", "").strip()


def _unauthorized(detail: str, *, is_invalid: bool = False) -> ApiError:
    challenge = 'Bearer realm="waqueue"' + (', error="invalid_token"' if is_invalid else "")
    return ApiError(Problem.of_status(401, detail, WWW_Authenticate=challenge))


def _missing_scope(key: ApiKey, scope: Scope) -> ApiError:
    has = ", ".join(key.scopes) or "none"
    detail = f"This needs a key with the scope {scope.value!r}; this one has: {has}."
    return ApiError(
        Problem(status=403, code="missing_scope", title="Forbidden", detail=detail, extra={"scope": scope.value})
    )


def _touch(key: ApiKey, now: datetime) -> None:
    if key.last_used_at is None or key.last_used_at < now - _USED_EVERY:
        stale = Q(last_used_at=None) | Q(last_used_at__lt=now - _USED_EVERY)
        ApiKey.objects.filter(stale, pk=key.pk).update(last_used_at=now)
