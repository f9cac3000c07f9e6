"""Why a session does not send, in words: what keeps it from sending now, and what one does about it."""

from collections.abc import Iterator
from datetime import datetime

from django.utils import timezone
from django.utils.translation import gettext as _

from sessions_app.admin import words
from sessions_app.models import DesiredState, Hold, Message, ObservedState, Session, Status, Worker
from sessions_app.services.queue_overview import QueueView


def why_not_sending(session: Session, queue: QueueView, *, readable: bool) -> list[str]:
    """Every cause that holds now, the one to be mended first in front; empty when it sends or has nothing to send."""
    return [words.unphoned(cause, readable=readable) for cause in _causes(session, queue, timezone.now())]


def _causes(session: Session, queue: QueueView, now: datetime) -> Iterator[str]:
    if session.deleted_at is not None:
        yield _("It was deleted. Its history is kept.")
        return
    if session.desired_state == DesiredState.STOPPED:
        yield _("Somebody stopped it. Start it to go on.")
    elif session.desired_state == DesiredState.PAUSED:
        yield _("Somebody paused it. What it is given waits, in order, until it is resumed.")
    yield from _hold(session)
    if session.desired_state != DesiredState.ACTIVE or session.dispatch.hold != Hold.NONE:
        return
    if session.observed_state != ObservedState.WORKING:
        state, why = session.get_observed_state_display(), session.observed_reason
        yield _("Its engine says: %(state)s.") % {"state": f"{state} ({why})" if why else state}
    if not queue.depth:
        return
    if not Worker.objects.alive().exists():
        yield _("No worker is running, so nothing is sent by any session. Start one: python manage.py rqworker")
    dispatch = session.dispatch
    if dispatch.quiet_from and dispatch.quiet_until and dispatch.quiet_from <= now < dispatch.quiet_until:
        yield _("These are its quiet hours. It goes on at %(time)s.") % {"time": words.exact(dispatch.quiet_until)}
    elif dispatch.next_send_at and dispatch.next_send_at > now:
        yield _("It keeps its pace. The next message goes at %(time)s.") % {"time": words.exact(dispatch.next_send_at)}
    if first := _waiting_head(session, now):
        yield _("Its first message waits for another attempt, at %(time)s. The others wait behind it.") % {
            "time": words.exact(first)
        }


def _hold(session: Session) -> Iterator[str]:
    helps = {
        Hold.NOT_CONNECTED: _("It is not connected to WhatsApp. It is tried again by itself, and no attempt is lost."),
        Hold.DOUBT: _(
            "Two messages in a row ended uncertain, so the way to its engine may be broken. "
            "It goes on by itself once the engine answers, or when somebody resumes it."
        ),
        Hold.UNCERTAIN: _(
            "A message is uncertain, and this session waits for a person then. Say what became of that message."
        ),
        Hold.REFUSED: _("Its engine refuses it: mend the cause there, then resume it."),
    }
    hold = session.dispatch.hold
    if hold == Hold.NONE:
        return
    yield helps[Hold(hold)]
    if session.dispatch.hold_reason:
        yield _("The engine said: %(reason)s") % {"reason": session.dispatch.hold_reason}


def _waiting_head(session: Session, now: datetime) -> datetime | None:
    """When the first message of the line may be tried again, if it has to wait for that."""
    head = (
        Message.objects.open()
        .filter(session=session)
        .order_by("priority", "seq")
        .values_list("status", "next_attempt_at")
        .first()
    )
    if head is None or head[0] != Status.QUEUED or head[1] is None or head[1] <= now:
        return None
    return head[1]
