"""What the page of one message says."""

from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from sessions_app.admin import words
from sessions_app.admin.base import APP, VIEW_BATCH, VIEW_ORPHAN
from sessions_app.admin.timeline import Entry, of_message
from sessions_app.exceptions import Poison
from sessions_app.models import OPEN, Message, MessageType, Priority, Status
from sessions_app.services import messages as service


class MessagePage:
    """One message, read for the person who looks."""

    def __init__(self, request: HttpRequest, message: Message) -> None:
        self.message = message
        self.may_read = words.may_read(request)
        self.may_see_orphans = request.user.has_perm(VIEW_ORPHAN)
        self.may_see_batches = request.user.has_perm(VIEW_BATCH)
        self.badge = words.status_badge(message)
        self.recipient = words.phone(message.recipient, readable=self.may_read)

    @property
    def advice(self) -> str:
        """What a person should know or do about a message in this status."""
        message = self.message
        texts = {
            Status.UNCERTAIN: _(
                "Nobody knows whether it arrived: the attempt ended without an answer that says so. "
                "Look into WhatsApp on the phone, then say what became of it. Nothing is sent until you do."
            ),
            Status.FAILED: _("It was not sent. Mend the cause, then retry it."),
            Status.EXPIRED: _("Its time ran out before it could be sent. Retry it to send it all the same."),
            Status.SENDING: _("It is on its way just now."),
            Status.ORPHANED: _("Its session is gone. It waits in an orphan."),
        }
        if message.status == Status.QUEUED and message.session.deleted_at is None:
            return self._waiting()
        if message.status == Status.UNCERTAIN and message.error_class == Poison.code:
            text = _(
                "It is set aside: each process that was sending it died. Nobody knows whether it arrived. "
                "Look into WhatsApp on the phone, then say what became of it. If you send it again, it is tried alone."
            )
        else:
            text = texts.get(Status(message.status), "")
        return f"{text} {self._deaths()}".strip()

    def _deaths(self) -> str:
        """What a person should know before it is sent again."""
        deaths = self.message.deaths
        if not deaths or self.message.status not in (Status.UNCERTAIN, Status.FAILED, Status.EXPIRED):
            return ""
        text = ngettext(
            "Its worker died %d time while it was being sent.",
            "Its worker died %d times while it was being sent.",
            deaths,
        )
        return text % deaths

    def _waiting(self) -> str:
        now = timezone.now()
        place, at = service.outlook(self.message, now)
        text = _("It is number %d in the line of its session.") % place
        if (again := self.message.next_attempt_at) and again > now:
            return text + " " + _("Its next attempt is at %s.") % words.exact(again)
        if at:
            return text + " " + _("It goes at about %s at the earliest.") % words.exact(at)
        return text + " " + _("Its session does not send just now.")

    @property
    def facts(self) -> Iterator[tuple[str, Any]]:
        """Names and values, as they stand."""
        message = self.message
        yield _("Type"), MessageType(message.type).label
        if message.priority != Priority.NORMAL:
            yield _("Priority"), Priority(message.priority).label
        yield _("Attempts"), _("%(made)d of %(most)d") % {"made": message.attempts, "most": message.max_attempts}
        if message.resends:
            yield _("Sent again"), message.resends
        yield _("Accepted"), words.exact(message.created_at)
        for name, at in (
            (_("Scheduled for"), message.scheduled_at),
            (_("Expires"), message.expires_at if message.status in (*OPEN, Status.SCHEDULED) else None),
            (_("Sent"), message.sent_at),
            (_("Delivered"), message.delivered_at),
            (_("Read"), message.read_at),
            (_("Failed"), message.failed_at),
        ):
            if at is not None:
                yield name, words.exact(at)
        if message.error_detail or message.error_code:
            detail = words.unphoned(message.error_detail, readable=self.may_read)
            yield _("Last error"), " · ".join(part for part in (message.error_code, detail) if part)
        if message.provider_id and self.may_read:
            yield _("Engine's id"), message.provider_id
        if message.client_ref:
            yield _("Client reference"), message.client_ref
        if message.orphan_id and self.may_see_orphans:
            where = reverse(f"admin:{APP}_orphan_change", args=[message.orphan_id])
            yield _("Orphan"), format_html('<a href="{}">{}</a>', where, _("see the orphan"))
        if message.batch_id and self.may_see_batches:
            where = reverse(f"admin:{APP}_batch_change", args=[message.batch_id])
            yield _("Batch"), format_html('<a href="{}">{}</a>', where, message.batch_id)
        elif message.batch_id:
            yield _("Batch"), message.batch_id
        yield _("Message id"), message.pk

    @property
    def content(self) -> list[tuple[str, str]]:
        """What is sent, by part. Only for those who may read it."""
        message = self.message
        parts = (
            (_("Text"), message.text),
            (_("Caption"), message.caption),
            (_("File name"), message.filename),
            (_("File address"), message.media_url),
            (_("Template"), str(message.template) if message.template else ""),
        )
        return [(name, text) for name, text in parts if text]

    @cached_property
    def timeline(self) -> list[Entry]:
        """All that happened to it, oldest first."""
        return of_message(self.message, readable=self.may_read)
