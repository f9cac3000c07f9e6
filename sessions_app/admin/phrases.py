"""What services wrote down in English, in the reader's language. What is not known here is shown as it stands."""

import re
from typing import Any

from django.utils.translation import gettext
from django.utils.translation import gettext_noop as _

_ID = r"[0-9a-f-]{36}"

# Patterns of whole sentences, and what they say. The names in both are the same.
_SENTENCES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.S), sentence)
    for pattern, sentence in (
        # Why an entry cannot be read.
        (r"empty", _("it is empty")),
        (r"no JSON", _("it is no JSON: cut off, or something else altogether")),
        (r"JSON, but no object", _("it is JSON, but no message")),
        (r"JSON, but no call of RQ", _("it is JSON, but no job of RQ")),
        (r"no phone", _("it names no phone")),
        (r"no text", _("it has no text")),
        (r"no file", _("it has no file")),
        (r"no template", _("it has no template")),
        (r"its template cannot be kept", _("its template cannot be kept: too deep, or with numbers that are none")),
        (r"(?P<phone>.*) is no phone", _("%(phone)s is no phone")),
        (r"(?P<size>\d+) bytes are too large for a message", _("%(size)s bytes are too many for a message")),
        (r"its content is gone: only the id is left", _("its content is gone: only its id is left")),
        (r"its data is too large or damaged", _("its data is too large or damaged")),
        (r"its data is no JSON \(a pickle is never loaded\)", _("its data is a pickle, which is never loaded")),
        # What a reconciliation did.
        (r"archived", _("archived")),
        (r"adopted", _("adopted by its session")),
        (r"purged", _("purged by policy")),
        (r"put right", _("put right")),
        (r"rebuilt", _("queues rebuilt")),
        (r"signalled", _("looked at again")),
        (r"forgotten", _("name forgotten")),
        (r"set aside", _("set aside")),
        (r"made uncertain", _("messages made uncertain")),
        (r"no orphan any more", _("no orphan any more")),
        (r"failed", _("not put right")),
        (r"closed", _("orphan closed")),
        (r"deleted again", _("deleted once more")),
        # Its details.
        (rf"orphan {_ID}", _("kept in an orphan")),
        (r"left in Redis for a person to decide", _("left in Redis: a person decides")),
        (
            rf"left in Redis for a person to decide: orphan {_ID}",
            _("left in Redis: a person decides"),
        ),
        (
            rf"(?P<count>\d+) messages into (?P<session>\S+), (?P<left>\d+) wait for a person: orphan {_ID}",
            _("given to %(session)s: %(count)s, waiting for a person: %(left)s"),
        ),
        (r"it was archived before: orphan " + _ID, _("it came back with an old Redis, and is kept in an orphan")),
        (r"another process rebuilt the queues", _("another process rebuilt the queues")),
        (r"another process is rebuilding the queues", _("another process is rebuilding the queues")),
        (r"it left Redis by other hands", _("it left Redis by other hands")),
        (r"no list: left alone", _("it is no list, and was left alone")),
        (r"an archiving that was begun", _("an archiving that was begun and not finished")),
        (r"a renamed list that no row knows", _("a list set aside of which nothing is written down")),
        (r"nothing in it was without a row", _("all of its messages were known already")),
        (r"Redis was wiped, restarted or failed over", _("Redis was wiped, restarted or replaced")),
        (
            r"attempts up to (?P<mark>\d+) were made in a later database",
            _("Redis knows of attempts up to number %(mark)s, this database does not"),
        ),
        (r"this Redis belongs to the waqueue database .*", _("nothing in it was touched")),
        (r"the session '(?P<session>.*)' exists now: its queue is no orphan", _("the session %(session)s exists now")),
        # What became of an orphan, and of a long act.
        (r"(?P<count>\d+) messages restored to (?P<session>.*)", _("restored to %(session)s: %(count)s")),
        (r"(?P<count>\d+) messages purged", _("purged: %(count)s")),
        (r"(?P<count>\d+) purged", _("purged: %(count)s")),
        (
            r"(?P<count>\d+) restored to (?P<session>.*), (?P<left>\d+) left",
            _("restored to %(session)s: %(count)s, left in the orphan: %(left)s"),
        ),
        (r"restore (?P<queue>.*) to (?P<session>.*)", _("Restore %(queue)s to %(session)s")),
        (r"purge (?P<queue>.*)", _("Purge %(queue)s")),
        (
            r"this orphan is \w+: there is nothing to (?:purge|restore)",
            _("the orphan was resolved already"),
        ),
        (r"it failed unexpectedly: (?P<error>\w+)", _("it failed unexpectedly: %(error)s")),
        (r"the session '(?P<session>.*)' was deleted", _("the session %(session)s was deleted")),
    )
)  # fmt: skip
_ORPHAN = re.compile(rf"orphan (?P<orphan>{_ID})\Z")


def said(text: str) -> str:
    """One sentence in the reader's language."""
    for pattern, sentence in _SENTENCES:
        if found := pattern.fullmatch(text):
            return gettext(sentence) % found.groupdict()
    return text


def said_in_turn(text: str) -> str:
    """Sentences with semicolons between them, each by itself."""
    return "; ".join(said(part) for part in text.split("; "))


def orphan_in(text: str) -> Any:
    """The id of the orphan that a detail speaks of, if it does."""
    found = _ORPHAN.search(text)
    return found["orphan"] if found else None
