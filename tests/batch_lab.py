"""Batches for tests: handed in by the service or over the API, and looked at."""

from typing import Any

from sessions_app.models import Batch, BatchState, Message, Session
from sessions_app.services import batches
from sessions_app.services.messages import Draft
from tests.api_client import Answer, ApiClient
from tests.factories import ACTOR, PHONE

ALPHA = "/whatsapp/sessions/alpha/messages"
BATCH = f"{ALPHA}/batch"
BATCHES = "/whatsapp/batches"


def drafts(*texts: object, **fields: Any) -> list[Draft]:
    """One draft for each text."""
    return [Draft(to=PHONE, text=str(text), **fields) for text in texts]


def hand_in(session: Session, *texts: object, rejected: int = 0, **fields: Any) -> Batch:
    """Return a batch of one message for each text."""
    return batches.submit(session, drafts(*texts, **fields), rejected=rejected, actor=ACTOR)


def of(batch: Batch) -> list[Message]:
    """The messages of a batch, in order."""
    return list(Message.objects.filter(batch_id=batch.pk).order_by("seq"))


def counts(batch: Batch) -> dict[str, int]:
    """How many of its messages are in which status."""
    return Message.objects.counted_by_batch([batch.pk])[batch.pk]


def state(batch: Batch) -> BatchState:
    """How far it is now."""
    batch.refresh_from_db()
    return batch.state(counts(batch))


def entry(text: object = "hello", **fields: Any) -> dict[str, Any]:
    """A message as a client writes it."""
    return {"to": PHONE, "text": str(text)} | fields


def send(client: ApiClient, *entries: Any, **headers: str) -> Answer:
    """Send a batch to the session alpha."""
    return client.post(BATCH, {"messages": list(entries)}, **headers)
