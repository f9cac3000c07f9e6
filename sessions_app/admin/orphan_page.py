"""What the page of one orphan says, and the reasons and states of orphans in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from sessions_app.admin import words
from sessions_app.admin.base import APP, PURGE_ORPHAN, RESTORE_ORPHAN
from sessions_app.admin.phrases import said, said_in_turn
from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import UNRESOLVED, Orphan, OrphanSource, OrphanState, Session
from sessions_app.services import orphans
from sessions_app.services.orphans import EntryView

ENTRIES = 100
_MAX_INDEX = 2**31 - 1
_RAW = 300

_TONES: dict[str, str] = {
    OrphanState.DETECTED: words.WARN,
    OrphanState.ARCHIVED: words.WARN,
    OrphanState.RESTORED: words.OK,
    OrphanState.PURGED: words.OFF,
    OrphanState.VANISHED: words.OFF,
}


def state_badge(orphan: Orphan) -> SafeString:
    """Where it is, in a word and a colour."""
    texts = {
        OrphanState.DETECTED: _("in Redis"),
        OrphanState.ARCHIVED: _("archived"),
        OrphanState.RESTORED: _("restored"),
        OrphanState.PURGED: _("purged"),
        OrphanState.VANISHED: _("gone from Redis"),
    }
    return words.badge(_TONES[orphan.state], texts[OrphanState(orphan.state)])


def source_of(orphan: Orphan) -> str:
    """Where it comes from, in short."""
    texts = {
        OrphanSource.RQ: "RQ",
        OrphanSource.LEGACY: _("old service"),
        OrphanSource.DELETED_SESSION: _("deleted session"),
        OrphanSource.UNKNOWN_JOBS: _("jobs without a row"),
    }
    return texts[OrphanSource(orphan.source)]


def index_of(text: str) -> int:
    """A place that somebody asked for; the first one if it is none."""
    return min(int(text), _MAX_INDEX) if text.isascii() and text.isdigit() and len(text) < 12 else 0


@dataclass(frozen=True, slots=True)
class Line:
    """One message of an orphan, as this person may read it."""

    index: int
    to: str
    text: str
    raw: str
    at: SafeString
    error: str
    notes: list[SafeString]
    can_be_chosen: bool


class OrphanPage:
    """One orphan, read for the person who looks."""

    def __init__(self, request: HttpRequest, orphan: Orphan) -> None:
        self.orphan = orphan
        self.badge = state_badge(orphan)
        self.may_read = words.may_read(request)
        self.may_see_messages = request.user.has_perm(f"{APP}.view_message")
        self.start = index_of(request.GET.get("from", ""))
        self.has_redis = True
        self.is_waiting = orphan.state in UNRESOLVED
        may_restore, may_purge = request.user.has_perm(RESTORE_ORPHAN), request.user.has_perm(PURGE_ORPHAN)
        self.may_restore = may_restore and self.is_waiting
        # What stands in a list in Redis has no place that stays.
        self.may_purge_chosen = may_purge and orphan.state == OrphanState.ARCHIVED
        self.may_choose = (self.may_restore or may_purge) and orphan.state == OrphanState.ARCHIVED

    @cached_property
    def session(self) -> Session | None:
        """The living session of its name."""
        return Session.objects.alive().filter(name=self.orphan.session_name).first()

    @property
    def why(self) -> str:
        """Why it is an orphan."""
        values = {"session": self.orphan.session_name}
        if self.orphan.source == OrphanSource.DELETED_SESSION:
            by = self.orphan.reason.removeprefix("its session was deleted by ")
            text = _("The session %(session)s was deleted by %(by)s, who kept its unsent messages.")
            return text % {**values, "by": by}
        texts = {
            OrphanSource.RQ: _("Redis held a queue for a session called %(session)s, and there was no such session."),
            OrphanSource.LEGACY: _("It is a list that the old service left in Redis for %(session)s."),
            OrphanSource.UNKNOWN_JOBS: _(
                "The queue of %(session)s held jobs of which this database knows nothing: they come from a later "
                "database than this one, or somebody put them there by hand."
            ),
        }
        return texts[OrphanSource(self.orphan.source)] % values

    @property
    def advice(self) -> str:
        """What a person decides now."""
        if not self.is_waiting:
            return ""
        if self.orphan.state == OrphanState.DETECTED:
            return _(
                "Its messages are still in Redis. Nobody sends them. Archive them, restore them or purge them. To "
                "choose among them, archive them first."
            )
        return _("Its messages are kept in PostgreSQL. Nobody sends them until you restore them into a session.")

    @cached_property
    def messages(self) -> int:
        """How many messages wait in it now."""
        if not self.is_waiting:
            return self.orphan.messages
        try:
            return orphans.waiting([self.orphan])[0]
        except QueueUnavailable:
            self.has_redis = False
            return self.orphan.messages

    @property
    def facts(self) -> Iterator[tuple[str, Any]]:
        """Names and values, as they stand."""
        orphan = self.orphan
        yield _("Source"), orphan.get_source_display()
        yield _("Name of the session"), self._session_link()
        yield _("Messages waiting"), self.messages
        if orphan.state != OrphanState.DETECTED:
            yield _("Unreadable among them"), orphan.unreadable
        for name, at in (
            (_("Oldest message"), orphan.oldest_at),
            (_("Newest message"), orphan.newest_at),
            (_("Seen since"), orphan.first_seen_at),
            (_("Archived at"), orphan.archived_at),
            (_("Resolved at"), orphan.resolved_at),
        ):
            if at is not None:
                yield name, words.exact(at)
        if orphan.resolved_by:
            yield _("Decided by"), orphan.resolved_by
        if orphan.resolution:
            yield _("What was done"), said_in_turn(orphan.resolution)

    def _session_link(self) -> Any:
        if self.session is None:
            return _("%s (does not exist)") % self.orphan.session_name
        return format_html(
            '<a href="{}">{}</a>', reverse(f"admin:{APP}_session_change", args=[self.session.pk]), self.session.name
        )

    @cached_property
    def lines(self) -> list[Line]:
        """The messages of this page."""
        return [self._line(entry) for entry in self._read[0]]

    @property
    def following(self) -> int | None:
        """Where the next page begins; None on the last one."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[list[EntryView], int | None]:
        try:
            return orphans.page(self.orphan, start=self.start, count=ENTRIES)
        except QueueUnavailable:
            self.has_redis = False
            return [], None

    def _line(self, entry: EntryView) -> Line:
        readable = self.may_read
        return Line(
            index=entry.index,
            to=words.phone(entry.to, readable=readable) if entry.to else "-",
            text=Truncator(" ".join(entry.text.split())).chars(200) if readable else _("hidden"),
            raw=Truncator(entry.raw).chars(_RAW) if readable and not entry.readable else "",
            at=words.moment(entry.created_at),
            error=words.unphoned(said(entry.error), readable=readable),
            notes=list(self._notes(entry)),
            can_be_chosen=not entry.is_restored and (entry.readable or self.may_purge_chosen),
        )

    def _notes(self, entry: EntryView) -> Iterator[SafeString]:
        if entry.is_restored:
            yield format_html("{} {}", words.badge(words.OK, _("restored")), self._message(entry.message_id))
        elif entry.duplicate_of is not None:
            yield format_html("{} {}", words.badge(words.WARN, _("sent already")), self._message(entry.duplicate_of))
        if not entry.readable:
            yield words.badge(words.BAD, _("cannot be read"))

    def _message(self, key: Any) -> SafeString:
        return words.message_tail(key, linked=self.may_see_messages) if key else format_html("{}", "")
