"""What somebody wants restored, and where to, as the page of it passes it from question to question."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.http import QueryDict
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from sessions_app.models import Orphan
from sessions_app.services.orphans import Selection

# How young: hours, in the order in which they are offered.
AGES = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "3d": timedelta(days=3), "7d": timedelta(days=7)}
_MOST = 1000


def indexes_of(source: QueryDict) -> tuple[int, ...]:
    """The places that were chosen on the page of the orphan."""
    asked = [text for value in source.getlist("index") for text in value.split(",")]
    valid = {int(text) for text in asked if text.isascii() and text.isdigit() and len(text) < 10}
    return tuple(sorted(valid))[:_MOST]


@dataclass(frozen=True, slots=True)
class Wish:
    """Where to, which messages, and whether those that were sent already, too."""

    is_own_name: bool
    session_name: str
    # On which the session is made, if it has to be.
    transport: str
    which: str
    age: str
    since: datetime | None
    indexes: tuple[int, ...]
    with_duplicates: bool

    @classmethod
    def of(cls, source: QueryDict, orphan: Orphan, *, can_have_own_name: bool) -> "Wish":
        """What was asked for. How young is counted from the question on: the answer to it means the same messages."""
        indexes = indexes_of(source)
        which = source.get("which", "chosen" if indexes else "all")
        if which == "chosen" and not indexes:
            which = "all"
        age = source.get("age", "24h") if source.get("age", "24h") in AGES else "24h"
        is_own_name = source.get("to", "own" if can_have_own_name else "other") == "own" and can_have_own_name
        other = source.get("session", "").strip().replace("\0", "")
        return cls(
            is_own_name=is_own_name,
            session_name=orphan.session_name if is_own_name else other,
            transport=source.get("transport", "") if is_own_name else "",
            which=which if which in ("all", "younger", "chosen") else "all",
            age=age,
            since=_time(source.get("since", "")) or timezone.now() - AGES[age] if which == "younger" else None,
            indexes=indexes,
            with_duplicates=source.get("duplicates") == "on",
        )

    @property
    def selection(self) -> Selection:
        """The messages, as the services want it."""
        return Selection(newer_than=self.since, indexes=self.indexes if self.which == "chosen" else None)

    @property
    def hidden(self) -> list[tuple[str, Any]]:
        """The same as fields of a form."""
        pairs = [("to", "own" if self.is_own_name else "other"), ("which", self.which), ("age", self.age)]
        if not self.is_own_name:
            pairs.append(("session", self.session_name))
        if self.transport:
            pairs.append(("transport", self.transport))
        if self.since is not None:
            pairs.append(("since", self.since.isoformat()))
        if self.indexes:
            pairs.append(("index", ",".join(str(index) for index in self.indexes)))
        if self.with_duplicates:
            pairs.append(("duplicates", "on"))
        return pairs


def _time(text: str) -> datetime | None:
    try:
        at = parse_datetime(text)
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None
