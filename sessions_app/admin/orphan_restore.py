"""The page that restores: choose where to and which, see what will happen, then do it, if that is still so."""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from sessions_app.admin import words
from sessions_app.admin.base import APP, actor_of
from sessions_app.admin.orphan_page import state_badge
from sessions_app.admin.orphan_wish import AGES, Wish
from sessions_app.admin.session_orphans import tell_adopted
from sessions_app.exceptions import Conflict, InvalidInput, QueueUnavailable, SessionExists, SessionNotFound
from sessions_app.models import OPEN, UNRESOLVED, DesiredState, Hold, Message, Orphan, OrphanState, Session
from sessions_app.models.session import SESSION_NAME
from sessions_app.services import orphans, tasks
from sessions_app.services.orphans import OrphanChanged, Preview
from sessions_app.services.orphans.confirmed import Done, restore_confirmed, transports_on_the_spot
from sessions_app.transports import registry

if TYPE_CHECKING:
    from sessions_app.admin.orphans import OrphanAdmin

_OFFERED = 500


@dataclass(frozen=True, slots=True)
class Foresight:
    """What will happen, in words, and what to think of before one says yes."""

    sentences: list[str]
    warnings: list[str]
    count: int


def restore_view(admin: "OrphanAdmin", request: HttpRequest, orphan: Orphan) -> HttpResponse:
    """Ask, show what will happen, act on a POST that says yes to it."""
    source = request.POST if request.method == "POST" else request.GET
    existing = Session.objects.alive().select_related("dispatch").filter(name=orphan.session_name).first()
    is_name = bool(re.fullmatch(SESSION_NAME.regex, orphan.session_name))
    may_add = request.user.has_perm(f"{APP}.add_session")
    transports = transports_on_the_spot()
    can_have_own_name = existing is not None or (is_name and may_add and bool(transports))
    wish = Wish.of(source, orphan, can_have_own_name=can_have_own_name)
    problem = ""
    if request.method == "POST":
        problem, where = _restore(admin, request, orphan, wish)
        if not problem:
            return HttpResponseRedirect(where)
        orphan.refresh_from_db()
    back = reverse(f"admin:{APP}_orphan_change", args=[orphan.pk])
    context: dict[str, Any] = {
        "title": _("Restore %s") % Truncator(orphan.queue).chars(60),
        "orphan": orphan, "badge": state_badge(orphan), "back": back, "wish": wish, "problem": problem,
        "is_waiting": orphan.state in UNRESOLVED, "existing": existing, "is_name": is_name,
        "can_have_own_name": can_have_own_name, "ages": _ages(wish),
        "add_url": _add_url(orphan) if existing is None and is_name and may_add and not _is_only_one() else "",
        "transports": [] if existing or _is_only_one() else [(name, _(title)) for name, title in transports],
        "names": list(Session.objects.alive().order_by("name").values_list("name", flat=True)[:_OFFERED]),
    }  # fmt: skip
    try:
        context["total"] = orphans.waiting([orphan])[0]
        if "preview" in source and context["is_waiting"]:
            context |= _foreseen(orphan, wish, existing, context["total"])
    except QueueUnavailable:
        context |= {"total": orphan.messages, "is_redis_away": True}
    return admin.render(request, "orphan/restore.html", context)


def _foreseen(orphan: Orphan, wish: Wish, existing: Session | None, total: int) -> dict[str, Any]:
    """The part of the page that says what will happen, or why nothing can."""
    target = existing
    if not wish.is_own_name:
        target = Session.objects.alive().select_related("dispatch").filter(name=wish.session_name).first()
        if target is None:
            text = _("There is no session called %s.") % wish.session_name
            return {"problem": text if wish.session_name else _("Say which session they shall go into.")}
    if target is None and not wish.transport and not _is_only_one():
        return {"problem": _("Say on which transport the session is made.")}
    if orphan.state == OrphanState.DETECTED and wish.selection.indexes is not None:
        # Before they are chosen they need places that stay.
        return {"is_unplaced": True}
    preview = orphans.preview(orphan, wish.selection, with_duplicates=wish.with_duplicates)
    if preview is None:
        return {"is_too_long": True}
    sentences, warnings = list(_sentences(preview, wish, target)), list(_warnings(preview, target))
    return {"foresight": Foresight(sentences, warnings, preview.restored), "expected": total}


def _sentences(preview: Preview, wish: Wish, target: Session | None) -> Any:
    values = {"count": preview.restored, "session": wish.session_name}
    if target is None and preview.restored:
        yield _("A session called %(session)s is made now.") % values
    if preview.restored:
        waiting = Message.objects.filter(session=target, status__in=OPEN).count() if target else 0
        text = ngettext(
            "%(count)d message goes into the line of %(session)s and is sent.",
            "%(count)d messages go into the line of %(session)s, in their old order, and are sent.",
            preview.restored,
        )
        yield text % values
        yield from _times(preview)
        if waiting:
            yield (
                ngettext(
                    "%d message waits there already and goes first.",
                    "%d messages wait there already and go first.",
                    waiting,
                )
                % waiting
            )
    else:
        yield _("Nothing is restored.")
    if preview.oldest_at and preview.newest_at:
        yield _("The oldest is of %(oldest)s, the newest of %(newest)s.") % {
            "oldest": words.exact(preview.oldest_at), "newest": words.exact(preview.newest_at),
        }  # fmt: skip
    for count, text in (
        (preview.duplicates, ngettext(
            "%d was sent already, or waits in a line, and stays in the orphan.",
            "%d were sent already, or wait in a line, and stay in the orphan.", preview.duplicates,
        )),
        (preview.unreadable, ngettext(
            "%d cannot be read and stays in the orphan.", "%d cannot be read and stay in the orphan.",
            preview.unreadable,
        )),
        (preview.others, ngettext(
            "%d was not chosen and stays in the orphan.", "%d were not chosen and stay in the orphan.", preview.others,
        )),
    ):  # fmt: skip
        if count:
            yield text % count
    if preview.restored + preview.duplicates + preview.unreadable + preview.others > tasks.LARGE:
        yield _("It is done in the background.")


def _times(preview: Preview) -> Any:
    if preview.scheduled:
        text = ngettext(
            "%d of them is scheduled for a time that lies ahead, and is sent then.",
            "%d of them are scheduled for a time that lies ahead, and are sent then.",
            preview.scheduled,
        )
        yield text % preview.scheduled
    if preview.expired:
        text = ngettext(
            "%d of them has expired: it is not sent, and is shown as expired.",
            "%d of them have expired: they are not sent, and are shown as expired.",
            preview.expired,
        )
        yield text % preview.expired
    if preview.uncertain:
        text = ngettext(
            "%d of them has expired, but an earlier attempt may have arrived: it is not sent again, and is shown as "
            "uncertain.",
            "%d of them have expired, but an earlier attempt may have arrived: they are not sent again, and are shown "
            "as uncertain.",
            preview.uncertain,
        )
        yield text % preview.uncertain


def _warnings(preview: Preview, target: Session | None) -> Any:
    young: timedelta | None = settings.WAQUEUE_RESTORE_MAX_AGE
    limit = timedelta(days=1) if young is None or young == timedelta.max else young
    if preview.oldest_at and preview.restored and timezone.now() - preview.oldest_at > limit:
        yield _("Some of them are old. Whoever gets them will take them for new: are they still true?")
    if target is None:
        return
    if target.desired_state != DesiredState.ACTIVE:
        yield _("The session %s is paused or stopped: they wait there until somebody resumes it.") % target.name
    elif target.dispatch.hold != Hold.NONE:
        yield _("The session %s is held: they wait there until it goes on.") % target.name


def _restore(admin: "OrphanAdmin", request: HttpRequest, orphan: Orphan, wish: Wish) -> tuple[str, str]:
    """Do it; return why it was not done, or where to go then."""
    expected = request.POST.get("expected", "")
    if not (expected.isascii() and expected.isdigit() and len(expected) < 12):
        return _("Look at what will happen first."), ""
    try:
        done = restore_confirmed(
            orphan, session_name=wish.session_name, expected=int(expected), selection=wish.selection,
            create=wish.is_own_name and request.user.has_perm(f"{APP}.add_session"), transport=wish.transport or None,
            with_duplicates=wish.with_duplicates, actor=actor_of(request),
        )  # fmt: skip
    except OrphanChanged as error:
        text = _(
            "There were %(before)s messages when you looked, and there are %(now)s now. Nothing was restored. "
            "Look again at what will happen."
        )
        return text % {"before": expected, "now": error.extra["messages"]}, ""
    except QueueUnavailable:
        return _("Redis cannot be reached, or is not this waqueue's. Nothing was restored."), ""
    except SessionNotFound:
        return _("There is no session called %s.") % wish.session_name, ""
    except SessionExists:
        return _("The session %s was made meanwhile, on another transport. Nothing was restored.") % (
            wish.session_name
        ), ""
    except InvalidInput:
        return _("The session %s cannot be made so: add it first.") % wish.session_name, ""
    except Conflict:
        return _("It was not in a state to be restored any more. Nothing was restored."), ""
    _tell(admin, request, done)
    if done.task is not None:
        return "", reverse(f"admin:{APP}_backgroundtask_change", args=[done.task.pk])
    return "", reverse(f"admin:{APP}_orphan_change", args=[orphan.pk])


def _tell(admin: "OrphanAdmin", request: HttpRequest, done: Done) -> None:
    values = {"session": done.session.name}
    if done.adopted is not None:
        admin.message_user(request, _("The session %s was added.") % done.session.name, messages.SUCCESS)
        tell_adopted(request, done.adopted)
    if done.task is not None:
        admin.message_user(request, _("It is done in the background."), messages.INFO)
    elif done.restored is not None:
        text = ngettext(
            "%(count)d message was restored into %(session)s.", "%(count)d messages were restored into %(session)s.",
            done.restored.restored,
        )  # fmt: skip
        admin.message_user(request, text % {**values, "count": done.restored.restored}, messages.SUCCESS)
        if left := done.restored.left:
            text = ngettext("%d message is left in the orphan.", "%d messages are left in the orphan.", left)
            admin.message_user(request, text % left, messages.WARNING)


def _ages(wish: Wish) -> list[tuple[str, str, bool]]:
    texts = {"1h": _("an hour"), "24h": _("24 hours"), "3d": _("3 days"), "7d": _("7 days")}
    return [(age, texts[age], age == wish.age) for age in AGES]


def _is_only_one() -> bool:
    """Whether there is no choice of transports, which would be a person's to make."""
    return len(registry.names()) == 1


def _add_url(orphan: Orphan) -> str:
    """Where a session of that name is made on any transport. It leaves this orphan alone, and leads back here."""
    query = urlencode({"name": orphan.session_name, "orphan": orphan.pk})
    return f"{reverse(f'admin:{APP}_session_add')}?{query}"
