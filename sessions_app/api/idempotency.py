"""Idempotency-Key: a request that is sent again makes nothing new and gets the first answer again.

The answer is kept in the transaction of what it made, so either both are there or neither. That the first request is
still running is told by a lock of that transaction, which ends with it, whatever ends it. Redis plays no part.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any

from django.db import connection
from django.http import HttpResponse, JsonResponse
from django.utils import timezone
from ninja import Header
from pydantic import BaseModel
from pydantic import WithJsonSchema as Documented

from sessions_app.api.auth import ApiRequest
from sessions_app.api.parser import loads
from sessions_app.exceptions import IdempotencyKeyReused, InvalidInput, StillRunning
from sessions_app.models import ApiKey, IdempotencyKey
from sessions_app.services import lost_commits

KEPT = timedelta(hours=24)
HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
_MAX_LENGTH = 200
# The header as an argument of a view: only for the document, `once` reads it.
Key = Annotated[
    str | None,
    Documented({"type": "string", "minLength": 1, "maxLength": _MAX_LENGTH, "pattern": "^[ -~]+$"}),
    Header(
        default=None,
        alias=HEADER,
        description="1 to 200 printable ASCII characters that you choose for one request. Sent again with the same "
        "body within 24 hours, it makes nothing new and gets the first answer, with `Idempotency-Replayed: true`.",
    ),
]
_LAID_OUT = json.JSONEncoder(sort_keys=True).encode
# Each answer that is kept takes so many expired ones away: the table stays as small as a day is long.
_PURGED_AT_ONCE = 5


def once(
    request: ApiRequest,
    make: Callable[[], tuple[int, BaseModel]],
    *,
    said: Sequence[Any] | None = None,
    then: Callable[[], BaseModel | None] | None = None,
) -> HttpResponse:
    """Answer with the status and body that `make` returns, or with those of the first request of the same key.

    With a key, `make` runs in a transaction. Only what succeeds is kept: when `make` raises, the key is free again.
    `said` is what the body says, in parts, where the view has read it by itself.
    `then` does what must not hold that transaction up, once it is committed: the body that it returns is the answer.

    Raises InvalidInput for a key that is none, IdempotencyKeyReused when it came with another request, StillRunning.
    """
    key = request.headers.get(HEADER)
    if key is None:
        status, made = make()
        made = (then() if then is not None else None) or made
        return _answer(status, made.model_dump(mode="json"))
    if not (1 <= len(key) <= _MAX_LENGTH and all(" " <= character <= "~" for character in key)):
        message = f"has to be 1 to {_MAX_LENGTH} printable ASCII characters, like a UUID"
        raise InvalidInput([{"field": HEADER, "message": message}])
    response = _once(request.auth.key, key, _fingerprint(request, said), make)
    if then is not None and REPLAYED not in response and (finished := then()) is not None:
        body = finished.model_dump(mode="json")
        IdempotencyKey.objects.filter(api_key=request.auth.key, key=key).update(body=body)
        return _answer(response.status_code, body)
    return response


def _once(api_key: ApiKey, key: str, fingerprint: str, make: Callable[[], tuple[int, BaseModel]]) -> HttpResponse:
    with lost_commits.looked_up() as written:
        if not _try_lock(api_key, key):
            raise StillRunning
        stored = IdempotencyKey.objects.filter(api_key=api_key, key=key).first()
        if stored is not None and stored.created_at > timezone.now() - KEPT:
            if stored.fingerprint != fingerprint:
                raise IdempotencyKeyReused
            response = _answer(stored.status, stored.body)
            response.headers[REPLAYED] = "true"
            return response
        status, made = make()
        body = made.model_dump(mode="json")
        if stored is not None:
            stored.delete()
        answer = IdempotencyKey(api_key=api_key, key=key, fingerprint=fingerprint, status=status, body=body)
        answer.save(force_insert=True)
        written.append(answer)
        _purge()
    return _answer(status, body)


def _answer(status: int, body: Any) -> HttpResponse:
    return JsonResponse(body, status=status)


def _try_lock(api_key: ApiKey, key: str) -> bool:
    """Take the lock of this key until the transaction ends; say whether nobody else has it."""
    name = hashlib.sha256(f"idempotency:{api_key.pk}:{key}".encode()).digest()[:8]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [int.from_bytes(name, "big", signed=True)])
        return bool(cursor.fetchone()[0])


def _purge() -> None:
    """Delete a few expired answers. Last in its transaction, and past those that others have locked: it never waits."""
    expired = IdempotencyKey.objects.filter(created_at__lt=timezone.now() - KEPT).select_for_update(skip_locked=True)
    IdempotencyKey.objects.filter(pk__in=list(expired.values_list("pk", flat=True)[:_PURGED_AT_ONCE])).delete()


def _fingerprint(request: ApiRequest, said: Sequence[Any] | None) -> str:
    """Return what tells two requests apart: method, address, and what the body says, however it is laid out."""
    found = hashlib.sha256(f"{request.method} {request.path}\n".encode())
    if said is None:
        said = [loads(request.body)] if request.body else []
    for at, part in enumerate(said):
        found.update(("," * (at > 0) + _LAID_OUT(part)).encode())
    return found.hexdigest()
