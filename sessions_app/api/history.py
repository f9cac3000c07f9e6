"""What happened to a message: attempts, receipts, look-ups and events, as one story."""

from sessions_app.api.schemas.messages import HistoryItem
from sessions_app.models import Attempt, LookUp, Message, Receipt, Worker

# The one has a member of its own; the other is the attempt's token, and the attempt is an item of its own.
_SHOWN_ELSEWHERE = ("by", "attempt")


def history_of(message: Message) -> list[HistoryItem]:
    """Return it oldest first, in a constant number of queries."""
    attempts = list(Attempt.objects.filter(message=message).order_by("token"))
    workers = Worker.objects.in_bulk({attempt.worker_id for attempt in attempts})
    items = [
        HistoryItem(
            at=event.created_at,
            what=event.kind,
            by=event.data.get("by"),
            detail=_words({name: value for name, value in event.data.items() if name not in _SHOWN_ELSEWHERE}),
        )
        for event in message.events.order_by("id")
    ]
    for attempt in attempts:
        worker = workers.get(attempt.worker_id)
        by = f"worker {worker.name if worker else attempt.worker_id}"
        number = f"attempt {attempt.number}"
        items.append(HistoryItem(at=attempt.fenced_at, what="attempt.began", by=by, detail=number))
        if attempt.finished_at is not None:
            result = ", ".join(filter(None, (attempt.provider_id, attempt.error_code, attempt.error_detail)))
            items.append(
                HistoryItem(
                    at=attempt.finished_at,
                    what=f"attempt.{attempt.outcome or 'ended'}",
                    by=by,
                    detail=f"{number}: {result}" if result else number,
                )
            )
        if attempt.late_outcome:
            items.append(
                HistoryItem(
                    at=attempt.finished_at or attempt.fenced_at,
                    what="attempt.heard_too_late",
                    by=by,
                    detail=f"{number}: {attempt.late_outcome}",
                )
            )
    for receipt in Receipt.objects.filter(message=message).order_by("pk"):
        told = f"the engine says {receipt.occurred_at.isoformat()}" if receipt.occurred_at else ""
        detail = ", ".join(filter(None, (receipt.provider_id, told)))
        items.append(
            HistoryItem(at=receipt.received_at, what=f"receipt.{receipt.stage}", by=receipt.source, detail=detail)
        )
    for look_up in LookUp.objects.filter(message=message, asked_at__isnull=False).order_by("pk"):
        detail = f"look-up {look_up.number}" + (f": {look_up.detail}" if look_up.detail else "")
        at = look_up.asked_at or look_up.due_at
        items.append(HistoryItem(at=at, what=f"look_up.{look_up.outcome}", by=None, detail=detail))
    return sorted(items, key=lambda item: item.at)


def _words(data: dict[str, object]) -> str | None:
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in data.items()) or None
