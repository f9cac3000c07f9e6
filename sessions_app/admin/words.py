"""States, ages and phones as people read them. Every colour comes with its word."""

import re
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import gettext as _

from sessions_app.admin.base import VIEW_CONTENT
from sessions_app.models import DesiredState, Hold, Message, ObservedState, Session, Status
from waqueue.logs import mask_phone

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

# Engines put phones into their ids and errors.
_PHONE = re.compile(r"\+?\d{7,}")

OK, BUSY, WARN, BAD, OFF = "ok", "busy", "warn", "bad", "off"

_STATUS_TONES: dict[str, str] = {
    Status.SCHEDULED: OFF,
    Status.QUEUED: BUSY,
    Status.SENDING: BUSY,
    Status.SENT: OK,
    Status.DELIVERED: OK,
    Status.READ: OK,
    Status.FAILED: BAD,
    Status.UNCERTAIN: WARN,
    Status.CANCELLED: OFF,
    Status.EXPIRED: OFF,
    Status.ORPHANED: WARN,
}


def badge(tone: str, text: "StrOrPromise") -> SafeString:
    """A word in a colour."""
    return format_html('<span class="wa-badge wa-{}">{}</span>', tone, text)


def moment(at: datetime | None, *, empty: "StrOrPromise" = "-") -> SafeString:
    """How long ago or from now, with the exact time when pointed at."""
    if at is None:
        return format_html("{}", empty)
    now = timezone.now()
    if abs((now - at).total_seconds()) < 60:
        words = _("just now") if at <= now else _("in a moment")
    elif at < now:
        words = _("%(time)s ago") % {"time": timesince(at, now, depth=1)}
    else:
        words = _("in %(time)s") % {"time": timeuntil(at, now, depth=1)}
    local = timezone.localtime(at)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', local.isoformat(timespec="seconds"), exact(at), words
    )


def exact(at: datetime, *, seconds: bool = False) -> str:
    """Date and time in the site's own time zone, by a clock of 24 hours."""
    return date_format(timezone.localtime(at), "j M Y, H:i:s" if seconds else "j M Y, H:i")


def message_tail(key: uuid.UUID | None, *, linked: bool) -> SafeString:
    """A message by the end of its id: ids begin with the time, so that those of one minute look alike."""
    if key is None:
        return format_html("{}", "-")
    tail = f"…{str(key)[-8:]}"
    if not linked:
        return format_html('<span title="{}">{}</span>', key, tail)
    return format_html(
        '<a href="{}" title="{}">{}</a>', reverse("admin:sessions_app_message_change", args=[key]), key, tail
    )


def status_badge(message: Message) -> SafeString:
    """A message's status."""
    return badge(_STATUS_TONES[message.status], message.get_status_display())


def session_badge(session: Session) -> SafeString:
    """A session's state in one word: what people want comes before what the engine says."""
    if session.deleted_at is not None:
        return badge(OFF, _("deleted"))
    if session.desired_state == DesiredState.STOPPED:
        return badge(OFF, _("stopped"))
    if session.desired_state == DesiredState.PAUSED:
        return badge(WARN, _("paused"))
    if session.dispatch.hold != Hold.NONE:
        return badge(BAD, _("held"))
    tone = OK if session.observed_state == ObservedState.WORKING else WARN
    return badge(tone, session.get_observed_state_display())


def may_read(request: HttpRequest) -> bool:
    """Whether this person may read recipients and contents."""
    return request.user.has_perm(VIEW_CONTENT)


def phone(number: str, *, readable: bool) -> str:
    """A recipient, masked for whoever may not read it."""
    return number if readable else mask_phone(number)


def unphoned(text: str, *, readable: bool) -> str:
    """What an engine said; for whoever may not read recipients without the phones in it."""
    return text if readable else _PHONE.sub(lambda found: mask_phone(found[0]), text)


def content(fields: dict[str, Any], *, readable: bool, length: int = 60) -> SafeString:
    """What a message says, shortened; its kind alone for whoever may not read it."""
    if not readable:
        return format_html('<span class="wa-quiet">{}</span>', _("hidden"))
    text = fields.get("text") or fields.get("caption") or fields.get("filename") or fields.get("media_url") or ""
    if not text and (template := fields.get("template")):
        text = str(template.get("name", "")) if isinstance(template, dict) else ""
    short = Truncator(" ".join(str(text).split())).chars(length)
    kind = fields.get("type", "text")
    return format_html("{}", short) if kind == "text" else format_html("[{}] {}", kind, short)
