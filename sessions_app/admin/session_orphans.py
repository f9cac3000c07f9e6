"""What people are told of orphans when they add or delete a session."""

import uuid

from django.contrib import messages
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from sessions_app.admin.base import APP, RESTORE_ORPHAN, VIEW_ORPHAN
from sessions_app.models import Orphan, OrphanSource, Session
from sessions_app.services.orphans import Adopted
from sessions_app.services.sessions import Deleted


def left_to_choose(request: HttpRequest, name: str) -> Orphan | None:
    """The orphan from whose page somebody came to add its session: they go back there and choose among its messages."""
    try:
        key = uuid.UUID(request.GET.get("orphan", ""))
    except ValueError:
        return None
    if not request.user.has_perm(RESTORE_ORPHAN):
        return None
    return Orphan.objects.unresolved().filter(pk=key, session_name=name).first()


def tell_adopted(request: HttpRequest, adopted: Adopted) -> None:
    """Say what a new session found under its name: what it got back, and what waits for a decision."""
    if count := adopted.restored:
        text = ngettext(
            "%d message that waited under its name was put into its line and is sent.",
            "%d messages that waited under its name were put into its line and are sent.",
            count,
        )
        messages.success(request, text % count)
    for task in adopted.tasks:
        text = _("Many messages waited under its name: those that are young enough are put into its line now.")
        where = reverse(f"admin:{APP}_backgroundtask_change", args=[task.pk])
        messages.info(request, format_html('{} <a href="{}">{}</a>', text, where, _("See how far it is")))
    for orphan in adopted.waiting:
        text = ngettext(
            "%d older message under its name waits for you to decide: it is not sent by itself.",
            "%d older messages under its name wait for you to decide: they are not sent by themselves.",
            orphan.messages,
        )
        messages.warning(request, _linked(request, text % orphan.messages, orphan))


def tell_deleted(request: HttpRequest, session: Session, done: Deleted) -> None:
    """Say what became of what a deleted session had not sent."""
    if not done.orphaned:
        text = _("The session %(name)s was deleted. Messages cancelled with it: %(count)d.")
        messages.success(request, text % {"name": session.name, "count": done.cancelled})
        if count := done.uncertain:
            text = ngettext(
                "%d message was to be sent again and may have arrived before: it is uncertain now, not cancelled.",
                "%d messages were to be sent again and may have arrived before: they are uncertain now, not cancelled.",
                count,
            )
            messages.warning(request, text % count)
        return
    text = _("The session %(name)s was deleted. Messages kept as an orphan: %(count)d.")
    text %= {"name": session.name, "count": done.orphaned}
    made = Orphan.objects.filter(session_name=session.name, source=OrphanSource.DELETED_SESSION)
    orphan = made.order_by("-pk").first()
    messages.success(request, text if orphan is None else _linked(request, text, orphan))


def _linked(request: HttpRequest, text: str, orphan: Orphan) -> str:
    if not request.user.has_perm(VIEW_ORPHAN):
        return text
    where = reverse(f"admin:{APP}_orphan_change", args=[orphan.pk])
    return format_html('{} <a href="{}">{}</a>', text, where, _("See the orphan"))
