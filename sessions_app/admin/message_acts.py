"""What a person may do to messages, in words, and the service behind each."""

import uuid
from collections.abc import Callable

from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from sessions_app.admin.acts import Act, Outcome
from sessions_app.admin.base import OPERATE_MESSAGE
from sessions_app.exceptions import Conflict, NotFound
from sessions_app.models import Message, Status
from sessions_app.services import messages as service
from sessions_app.services.audit import Actor

_UNCERTAIN = Q(status=Status.UNCERTAIN)
# A deleted session sends nothing: what is queued there would wait for ever.
_SENDABLE = Q(session__deleted_at=None)

RETRY = Act(
    name="retry",
    label=_("Retry"),
    permission=OPERATE_MESSAGE,
    question=ngettext_lazy("Retry %d message?", "Retry %d messages?"),
    report=ngettext_lazy("%d message was queued again.", "%d messages were queued again."),
    effect=_("What failed or expired is queued once more, at its old place in the line, with fresh attempts."),
    fits=Q(status__in=(Status.FAILED, Status.EXPIRED)) & _SENDABLE,
)
CANCEL = Act(
    name="cancel",
    label=_("Cancel"),
    permission=OPERATE_MESSAGE,
    question=ngettext_lazy("Cancel %d message?", "Cancel %d messages?"),
    report=ngettext_lazy("%d message was cancelled.", "%d messages were cancelled."),
    effect=_(
        "What is queued or scheduled is never sent. It cannot be undone. What is on its way already is not touched. "
        "What waits to be sent again because nobody knows whether it arrived becomes uncertain instead."
    ),
    fits=Q(status__in=(Status.QUEUED, Status.SCHEDULED)),
    is_grave=True,
)
ARRIVED = Act(
    name="arrived",
    label=_("It arrived"),
    permission=OPERATE_MESSAGE,
    question=ngettext_lazy("Mark %d uncertain message as sent?", "Mark %d uncertain messages as sent?"),
    report=ngettext_lazy("%d message was marked as sent.", "%d messages were marked as sent."),
    effect=_("Press it when you have seen it in WhatsApp or asked the recipient. Nothing is sent."),
    fits=_UNCERTAIN,
)
RESEND = Act(
    name="resend",
    label=_("Send again"),
    permission=OPERATE_MESSAGE,
    question=ngettext_lazy("Send %d uncertain message again?", "Send %d uncertain messages again?"),
    report=ngettext_lazy("%d message was queued to be sent again.", "%d messages were queued to be sent again."),
    effect=_("If it had arrived after all, the recipient gets it twice."),
    fits=_UNCERTAIN & _SENDABLE,
    is_grave=True,
)
GIVE_UP = Act(
    name="give-up",
    label=_("Give up"),
    permission=OPERATE_MESSAGE,
    question=ngettext_lazy("Give up %d uncertain message?", "Give up %d uncertain messages?"),
    report=ngettext_lazy("%d message was marked as failed.", "%d messages were marked as failed."),
    effect=_("It counts as failed and nothing is sent. It can still be retried later."),
    fits=_UNCERTAIN,
    is_grave=True,
)
ACTS = (RETRY, CANCEL, ARRIVED, RESEND, GIVE_UP)

_SERVICES: dict[str, Callable[[uuid.UUID, Actor], Message]] = {
    RETRY.name: lambda key, actor: service.retry(key, actor=actor),
    CANCEL.name: lambda key, actor: service.cancel(key, actor=actor),
    ARRIVED.name: lambda key, actor: service.resolve(key, outcome="sent", actor=actor),
    RESEND.name: lambda key, actor: service.resolve(key, outcome="resend", actor=actor),
    GIVE_UP.name: lambda key, actor: service.resolve(key, outcome="failed", actor=actor),
}


def perform(act: Act, keys: list[uuid.UUID], actor: Actor) -> Outcome:
    """Do it to each message by itself: one that has changed meanwhile holds up no other."""
    done = doubted = 0
    for key in keys:
        try:
            message = _SERVICES[act.name](key, actor)
        except (Conflict, NotFound):
            continue
        if message.status == Status.UNCERTAIN:
            doubted += 1
        else:
            done += 1
    return Outcome(done, len(keys) - done - doubted, doubted)
