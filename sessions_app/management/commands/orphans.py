"""`manage.py orphans list|show|archive|restore|purge|export`: orphans at the command line."""

import sys
import uuid
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from sessions_app.exceptions import WaqueueError
from sessions_app.models import Orphan
from sessions_app.services import orphans, sessions
from sessions_app.services.audit import Actor
from waqueue.ages import parse_age

_ACTOR = Actor.command("orphans")


class Command(BaseCommand):
    """Show, archive, restore, purge and export the queues that belong to no session."""

    help = (
        "Shows, archives, restores, purges and exports queues that belong to no session, live and archived ones alike."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True, metavar="list|show|archive|restore|purge|export")
        listing = acts.add_parser("list", help="the orphans that wait for a decision")
        listing.add_argument("--all", action="store_true", help="also those that are resolved")
        for name, text in (
            ("show", "one orphan with its messages"),
            ("archive", "copy a live orphan out of Redis into PostgreSQL"),
            ("restore", "put its messages into a session, in order"),
            ("purge", "delete its messages for good"),
            ("export", "write its messages to standard output"),
        ):
            act = acts.add_parser(name, help=text)
            act.add_argument("orphan", help="its id, or the name of its queue or session")
            if name == "show":
                act.add_argument("--limit", type=int, default=50, help="messages to show")
            if name == "restore":
                act.add_argument("--session", metavar="NAME", help="where to (default: the session of its own name)")
                act.add_argument("--create", action="store_true", help="make that session if there is none")
                act.add_argument("--with-duplicates", action="store_true", help="also what was sent already")
            if name in ("restore", "purge"):
                act.add_argument("--newer-than", metavar="AGE", help="only messages younger than 90m, 24h, 7d")
                act.add_argument("--index", type=int, nargs="+", metavar="N", help="only the messages at these places")
            if name == "purge":
                act.add_argument("--expect", type=int, required=True, metavar="N", help="how many messages that are")
            if name == "export":
                act.add_argument("--format", choices=["csv", "jsonl"], default="jsonl")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, f"_{options['act']}")(options)
        except WaqueueError as error:
            raise CommandError(error.detail) from error

    def _list(self, options: dict[str, Any]) -> None:
        found = Orphan.objects.all() if options["all"] else Orphan.objects.unresolved()
        rows = [("id", "queue", "source", "state", "messages", "unreadable", "oldest", "seen since")]
        rows += [
            (
                str(orphan.pk), orphan.queue, orphan.source, orphan.state, str(orphan.messages),
                str(orphan.unreadable), _time(orphan.oldest_at), _time(orphan.first_seen_at),
            )
            for orphan in found
        ]  # fmt: skip
        if len(rows) == 1:
            self.stdout.write("No orphan waits for a decision.")
            return
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        for row in rows:
            self.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def _show(self, options: dict[str, Any]) -> None:
        orphan = _find(options["orphan"])
        self.stdout.write(f"{orphan.queue}: {orphan.state}, {orphan.messages} messages, {orphan.reason}")
        for entry in orphans.entries(orphan, count=options["limit"]):
            notes = ["restored"] if entry.is_restored else []
            notes += ["sent already"] if entry.duplicate_of else []
            what = f"{entry.to}  {entry.text}" if entry.readable else f"unreadable ({entry.error}): {entry.raw}"
            self.stdout.write(f"{entry.index:>6}  {_time(entry.created_at):<20}  {what}  {' '.join(notes)}".rstrip())

    def _archive(self, options: dict[str, Any]) -> None:
        orphan = orphans.archive(_find(options["orphan"]), actor=_ACTOR)
        self.stdout.write(f"{orphan.queue}: {orphan.state}, {orphan.messages} messages")

    def _restore(self, options: dict[str, Any]) -> None:
        orphan = _find(options["orphan"])
        name = options["session"] or orphan.session_name
        session = sessions.create(name=name, actor=_ACTOR)[0] if options["create"] else sessions.get(name)
        orphan.refresh_from_db()
        done = orphans.restore(
            orphan, session, actor=_ACTOR, selection=_selection(options), with_duplicates=options["with_duplicates"]
        )
        self.stdout.write(
            f"{done.restored} messages restored to {done.session}; "
            f"{done.left} left, {done.duplicates} of them sent already"
        )

    def _purge(self, options: dict[str, Any]) -> None:
        orphan = _find(options["orphan"])
        count = orphans.purge(orphan, expected=options["expect"], actor=_ACTOR, selection=_selection(options))
        self.stdout.write(f"{count} messages purged")

    def _export(self, options: dict[str, Any]) -> None:
        for piece in orphans.export_rows(_find(options["orphan"]), options["format"]):
            # As it is: the stream of a command would add line ends.
            sys.stdout.write(piece)


def _find(text: str) -> Orphan:
    try:
        return orphans.get(uuid.UUID(text))
    except ValueError:
        pass
    prefix = settings.WAQUEUE_LEGACY_PREFIX
    names = {text, text.removeprefix("wa:"), text.removeprefix(prefix) if prefix else text}
    found = list(Orphan.objects.unresolved().filter(session_name__in=names)[:2])
    if not found:
        raise CommandError(f"no orphan that waits for a decision is called {text!r}: see `manage.py orphans list`")
    if len(found) > 1:
        raise CommandError(f"several orphans are called {text!r}: name one by its id from `manage.py orphans list`")
    return found[0]


def _selection(options: dict[str, Any]) -> orphans.Selection:
    newer_than = None
    if options["newer_than"]:
        age = parse_age("--newer-than", options["newer_than"])
        newer_than = timezone.now() - age if isinstance(age, timedelta) and age != timedelta.max else None
    return orphans.Selection(newer_than=newer_than, indexes=tuple(options["index"]) if options["index"] else None)


def _time(at: Any) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
