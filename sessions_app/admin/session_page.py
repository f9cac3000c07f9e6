"""What the page of one session says, and what the page that deletes it counts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from sessions_app.admin import reasons, words
from sessions_app.admin.base import APP, VIEW_ORPHAN
from sessions_app.admin.timeline import Entry, of_event
from sessions_app.models import UNSENT, Event, InFlight, Message, Orphan, Session
from sessions_app.services import queue_overview
from sessions_app.transports import registry

_LAST_MESSAGES = 10
_LAST_EVENTS = 15
_ORPHANS = 5


@dataclass(frozen=True, slots=True)
class Deletion:
    """What deleting a session would touch, counted now."""

    unsent: int
    in_flight: int


def deletion(session: Session) -> Deletion:
    """Count what is not sent yet and what is on its way."""
    return Deletion(
        unsent=Message.objects.filter(session=session, status__in=UNSENT).count(),
        in_flight=InFlight.objects.filter(session=session).count(),
    )


class SessionPage:
    """One session, read for the person who looks. Each part is read when the template comes to it."""

    def __init__(self, request: HttpRequest, session: Session) -> None:
        self.request = request
        self.session = session
        self.badge = words.session_badge(session)
        self.may_see_messages = request.user.has_perm(f"{APP}.view_message")
        self.may_see_orphans = request.user.has_perm(VIEW_ORPHAN)
        self.may_see_events = request.user.has_perm(f"{APP}.view_event")

    @cached_property
    def queue(self) -> queue_overview.QueueView:
        """Its queue as it is now."""
        return queue_overview.views([self.session])[0]

    @cached_property
    def reasons(self) -> list[str]:
        """Why it does not send."""
        return reasons.why_not_sending(self.session, self.queue, readable=words.may_read(self.request))

    @property
    def summary(self) -> str:
        """What there is to send, and until when."""
        depth = self.queue.depth
        if self.session.deleted_at is not None:
            return ""
        if not depth:
            return _("Nothing waits to be sent.")
        waiting = ngettext("%d message waits.", "%d messages wait.", depth) % depth
        if done := self.queue.estimated_done_at:
            return waiting + " " + _("At its present pace the last one goes at %s at the earliest.") % words.exact(done)
        return waiting

    @property
    def facts(self) -> Iterator[tuple[str, Any]]:
        """Names and values, as they stand."""
        session, queue, dispatch = self.session, self.queue, self.session.dispatch
        yield _("Transport"), _(dict(registry.choices()).get(session.transport, session.transport))
        if session.phone:
            yield _("Phone"), session.phone
        yield _("Wanted"), session.get_desired_state_display()
        yield _("Engine says"), session.get_observed_state_display()
        yield _("Waiting"), queue.depth
        yield _("In flight"), queue.in_flight
        yield _("Oldest waits since"), words.moment(queue.oldest_queued_at)
        yield _("Last sent"), words.moment(dispatch.last_sent_at, empty=_("never"))
        yield _("Added"), words.moment(session.created_at)
        if session.deleted_at is not None:
            yield _("Deleted"), words.moment(session.deleted_at)

    @property
    def settings(self) -> Iterator[tuple[str, Any]]:
        """Pace, policy and the transport's settings, without secrets."""
        session = self.session
        low, high = session.min_interval_ms, session.max_interval_ms
        yield _("Wait between messages"), _("none") if not high else _("%(low)s to %(high)s ms") % {
            "low": low, "high": high
        }  # fmt: skip
        yield _("Wait per recipient"), f"{session.per_recipient_ms} ms" if session.per_recipient_ms else _("none")
        yield _("Hourly cap"), session.hourly_cap or _("no limit")
        yield _("Daily cap"), session.daily_cap or _("no limit")
        if session.quiet_start is not None and session.quiet_end is not None:
            yield _("Quiet hours"), f"{session.quiet_start:%H:%M}–{session.quiet_end:%H:%M} {session.quiet_tz or 'UTC'}"
        else:
            yield _("Quiet hours"), _("none")
        yield _("When uncertain"), session.get_on_uncertain_display()
        if session.transport in registry.names():
            for name, value in registry.get(session.transport).public_config(session.config).items():
                yield capfirst(name.replace("_", " ")), "-" if value in ("", None) else value

    @property
    def orphans(self) -> list[Orphan]:
        """Those that bear its name and wait for a decision."""
        if not self.may_see_orphans or self.session.deleted_at is not None:
            return []
        return list(Orphan.objects.unresolved().filter(session_name=self.session.name)[:_ORPHANS])

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The newest ones."""
        readable = words.may_read(self.request)
        newest = Message.objects.filter(session=self.session).order_by("-pk")[:_LAST_MESSAGES]
        return [
            {
                "pk": message.pk,
                "status": words.status_badge(message),
                "to": words.phone(message.recipient, readable=readable),
                "text": words.content(message.content(), readable=readable),
                "at": words.moment(message.created_at),
            }
            for message in newest
        ]

    @property
    def events(self) -> list[Entry]:
        """The newest ones."""
        newest = Event.objects.filter(session=self.session).order_by("-pk")[:_LAST_EVENTS]
        readable = words.may_read(self.request)
        return [of_event(event, readable=readable) for event in newest]
