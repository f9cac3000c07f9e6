"""Webhooks as WAHA sends them: signed, with an event's id, and again when nobody answered."""

import hashlib
import hmac
import http.client
import json
import time
import uuid
from datetime import timedelta
from typing import Any

from django.utils import timezone

from sessions_app.models import Message, Receipt, Session, Status
from sessions_app.services.pacing import Pacing
from sessions_app.transports.waha import WahaTransport
from tests.api_client import Answer, ApiClient
from tests.factories import become, make_session, submit
from tests.waha_lab import HOOK, KEY

ACKS = {"failed": -1, "accepted": 0, "sent": 1, "delivered": 2, "read": 3}
_CHAT = "51930246633@c.us"


def waha_session(name: str = "school", base_url: str = "http://127.0.0.1:9", **options: Any) -> Session:
    """Make a session on WAHA that takes webhooks, without WAHA's pace."""
    secret = options.pop("webhook_secret", HOOK)
    config = {"base_url": base_url, "api_key": KEY, "webhook_secret": secret}
    return make_session(name, transport="waha", config=config, pacing=Pacing(), **options)


def waha_message(**options: Any) -> Message:
    """Make a queued message of such a session."""
    return submit(waha_session(**options), "Hola")[0]


def bare(message: Message) -> str:
    """The id that WAHA was given for it."""
    return WahaTransport.client_id(message.pk)


def event(kind: str, payload: Any, *, session: str = "school", age_s: float = 0, **fields: Any) -> bytes:
    """The body of a webhook."""
    document = {
        "id": f"evt_{uuid.uuid4().hex}", "timestamp": int((time.time() - age_s) * 1000), "event": kind,
        "session": session, "metadata": {}, "me": {"id": "5511999990001@c.us"}, "payload": payload, "engine": "GOWS",
    } | fields  # fmt: skip
    return json.dumps(document).encode()


def ack(which: Message | str, stage: str, **fields: Any) -> bytes:
    """The body of a receipt for a message, or for an id."""
    provider_id = which if isinstance(which, str) else bare(which)
    payload = {
        "id": f"true_{_CHAT}_{provider_id}", "from": _CHAT, "fromMe": True, "ack": ACKS[stage],
        "ackName": stage.upper(),
    }  # fmt: skip
    return event("message.ack", payload, **fields)


def signature(body: bytes, secret: str = HOOK) -> str:
    """What WAHA writes into X-Webhook-Hmac."""
    return hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()


def post(body: bytes, *, session: str = "school", signed: str | None = None) -> Answer:
    """Send a webhook as WAHA does, with the right signature unless another is given."""
    given = signature(body) if signed is None else signed
    headers = {"X_Webhook_Hmac": given, "X_Webhook_Hmac_Algorithm": "sha512"} if given else {}
    return ApiClient(plain="").call("POST", f"/whatsapp/hooks/{session}", body, **headers)


def post_over_http(port: int, body: bytes, *, session: str = "school", signed: str | None = None) -> int:
    """The same to a web process, over real HTTP and without a key; return the status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        headers = {"Content-Type": "application/json", "X-Webhook-Hmac-Algorithm": "sha512"}
        headers["X-Webhook-Hmac"] = signature(body) if signed is None else signed
        connection.request("POST", f"/whatsapp/hooks/{session}", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def tell(which: Message | str, *stages: str, **fields: Any) -> list[int]:
    """Send receipts one after another, and return how many were new each time."""
    answers = [post(ack(which, stage, **fields)) for stage in stages]
    assert {answer.status for answer in answers} <= {200}, answers
    return [answer["receipts"] for answer in answers]


def sent(message: Message, provider_id: str = "") -> Message:
    """Have it accepted by WAHA, with our id unless it gave another."""
    return become(message, Status.SENT, sent_at=timezone.now(), provider_id=provider_id or bare(message), token=1)


def have_waited(seconds: float = 10) -> None:
    """Let all receipts that wait have waited for so long."""
    Receipt.objects.exclude(next_look_at=None).update(
        next_look_at=timezone.now() - timedelta(seconds=1), received_at=timezone.now() - timedelta(seconds=seconds)
    )
