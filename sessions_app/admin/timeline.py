"""The time line of a message: accepted, each attempt with what the engine answered, receipts, look-ups, who acted."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from sessions_app.admin import words
from sessions_app.models import (
    Attempt,
    Event,
    EventKind,
    LookUp,
    LookUpOutcome,
    Message,
    Outcome,
    Receipt,
    ReceiptStage,
    Worker,
)

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

_TONES: dict[str, str] = {
    Outcome.SENT: words.OK,
    Outcome.RETRY: words.WARN,
    Outcome.HELD: words.WARN,
    Outcome.FAILED: words.BAD,
    Outcome.REFUSED: words.BAD,
    Outcome.UNCERTAIN: words.WARN,
    Outcome.RETURNED: words.OFF,
    "": words.BUSY,
}
_ACCEPTED = (EventKind.MESSAGE_QUEUED, EventKind.MESSAGE_SCHEDULED)
# The names under which events keep their details; others are shown as they are.
_NAMES: dict[str, "StrOrPromise"] = {
    "act": gettext_lazy("act"),
    "cancelled": gettext_lazy("messages cancelled"),
    "count": gettext_lazy("how many"),
    "desired_state": gettext_lazy("desired state"),
    "error": gettext_lazy("error"),
    "fields": gettext_lazy("changed"),
    "hold": gettext_lazy("held"),
    "orphaned": gettext_lazy("messages kept as an orphan"),
    "reason": gettext_lazy("why"),
    "receipt": gettext_lazy("receipt"),
    "resolved_as": gettext_lazy("resolved as"),
    "source": gettext_lazy("source"),
    "uncertain": gettext_lazy("messages made uncertain"),
    "worker": gettext_lazy("worker"),
}
# Said elsewhere in the entry, or of no use to a person.
_UNSAID = frozenset({"by", "attempt"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: when, what, by whom, and what else there is to say, as names and values."""

    at: datetime
    title: str
    by: str = ""
    tone: str = ""
    mark: str = ""
    facts: list[tuple[str, Any]] = field(default_factory=list)
    message_id: uuid.UUID | None = None

    @property
    def when(self) -> Any:
        """How long ago."""
        return words.moment(self.at)

    @property
    def exactly(self) -> str:
        """The time itself."""
        return words.exact(self.at, seconds=True)

    @property
    def badge(self) -> Any:
        """Its outcome in a colour, if it has one."""
        return words.badge(self.tone, self.mark) if self.mark else ""


def of_message(message: Message, *, readable: bool) -> list[Entry]:
    """Everything that is known of a message, oldest first. Five queries, whatever there is."""
    attempts = list(Attempt.objects.filter(message=message).order_by("token"))
    events = list(Event.objects.filter(message=message).order_by("pk"))
    names = dict(Worker.objects.filter(pk__in={a.worker_id for a in attempts}).values_list("pk", "name"))
    entries = [of_event(event, readable=readable) for event in events]
    entries += [
        _of_attempt(attempt, names.get(attempt.worker_id, str(attempt.worker_id)), readable=readable)
        for attempt in attempts
    ]
    if not any(event.kind in _ACCEPTED for event in events):
        entries.append(Entry(message.created_at, _("Accepted")))
    entries += [_of_receipt(receipt, readable=readable) for receipt in Receipt.objects.filter(message=message)]
    asked = LookUp.objects.filter(message=message, asked_at__isnull=False)
    entries += [_of_look_up(look_up, readable=readable) for look_up in asked]
    return sorted(entries, key=lambda entry: entry.at)


def of_event(event: Event, *, readable: bool) -> Entry:
    """An event in words."""
    data = event.data if isinstance(event.data, dict) else {}
    facts = [
        (str(capfirst(_NAMES.get(name, str(name).replace("_", " ")))), words.unphoned(_plain(value), readable=readable))
        for name, value in data.items()
        if name not in _UNSAID
    ]
    return Entry(
        event.created_at, capfirst(event.get_kind_display()), by=str(data.get("by", "")), facts=facts,
        message_id=event.message_id,
    )  # fmt: skip


def _of_attempt(attempt: Attempt, worker: str, *, readable: bool) -> Entry:
    facts: list[tuple[str, Any]] = []
    if attempt.finished_at is not None:
        seconds = max(0.0, (attempt.finished_at - attempt.fenced_at).total_seconds())
        facts.append((_("Answered after"), _("%.1f s") % seconds))
    facts += [
        (name, value)
        for name, value in (
            (_("Engine's id"), attempt.provider_id if readable else ""),
            (_("Error code"), attempt.error_code),
            (_("Engine said"), words.unphoned(attempt.error_detail, readable=readable)),
            (_("Heard too late, as evidence"), _outcome(attempt.late_outcome) if attempt.late_outcome else ""),
            (_("Worker"), worker),
        )
        if value
    ]
    mark = _outcome(attempt.outcome) if attempt.outcome else _("under way")
    title = _("Attempt %d") % attempt.number
    return Entry(attempt.fenced_at, title, tone=_TONES.get(attempt.outcome, words.OFF), mark=str(mark), facts=facts)


def _of_receipt(receipt: Receipt, *, readable: bool) -> Entry:
    facts: list[tuple[str, Any]] = [(_("Source"), receipt.get_source_display())]
    if receipt.occurred_at is not None:
        facts.append((_("By the engine's clock"), words.exact(receipt.occurred_at, seconds=True)))
    if readable:
        facts.append((_("Engine's id"), receipt.provider_id))
    tone = words.WARN if receipt.stage == ReceiptStage.FAILED else words.OK
    return Entry(receipt.received_at, _("Receipt"), tone=tone, mark=str(receipt.get_stage_display()), facts=facts)


def _of_look_up(look_up: LookUp, *, readable: bool) -> Entry:
    facts = [(_("Engine said"), words.unphoned(look_up.detail, readable=readable))] if look_up.detail else []
    tone = words.OK if look_up.outcome == LookUpOutcome.FOUND else words.OFF
    return Entry(
        look_up.asked_at or look_up.due_at, _("Look-up %d") % look_up.number, tone=tone,
        mark=str(look_up.get_outcome_display()), facts=facts,
    )  # fmt: skip


def _outcome(value: str) -> str:
    return str(Outcome(value).label) if value in Outcome.values else value


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(entry) for entry in value)
    return str(value)
