"""`manage.py orphans list|show|archive|restore|purge|export`: orphans at the command line."""

import sys
import uuid
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from django.utils import timezone

from sessions_app.exceptions import WaqueueError
from sessions_app.models import Orphan
from sessions_app.queues.entries import printable
from sessions_app.services import audit, orphans
from sessions_app.services.audit import Actor
from sessions_app.services.orphans.confirmed import restore_confirmed
from sessions_app.transports import registry
from waqueue.ages import parse_age

_ACTOR = Actor.command("orphans")


class Command(BaseCommand):
    """Show, archive, restore, purge and export the queues that belong to no session."""

    help = (
        "Shows, archives, restores, purges and exports queues that belong to no session, live and archived ones alike. "
        "Exit code 0: done; 1: not done, and why; 2: PostgreSQL could not be asked, or the arguments do not fit."
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
                act.add_argument(
                    "--transport", choices=registry.names(), help="on which it is made; needed where there are several"
                )
                act.add_argument("--with-duplicates", action="store_true", help="also what was sent already")
            if name in ("restore", "purge"):
                act.add_argument(
                    "--newer-than", type=_age, metavar="AGE", help="only messages younger than 90m, 24h, 7d"
                )
                act.add_argument(
                    "--index", type=_place, nargs="+", metavar="N",
                    help="only the messages at these places, as `show` and the export number them; archive it first",
                )  # fmt: skip
            if name == "purge":
                act.add_argument("--expect", type=int, required=True, metavar="N", help="how many messages that are")
            if name == "export":
                act.add_argument("--format", choices=["csv", "jsonl"], default="jsonl")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, f"_{options['act']}")(options)
        except WaqueueError as error:
            raise CommandError(error.detail) from error
        except DatabaseError as error:
            why = (str(error).strip() or repr(error)).splitlines()[0]
            raise CommandError(f"PostgreSQL could not be asked: {why}", returncode=2) from error

    def _list(self, options: dict[str, Any]) -> None:
        found = Orphan.objects.all() if options["all"] else Orphan.objects.unresolved()
        rows = [("id", "queue", "source", "state", "messages", "unreadable", "oldest", "seen since")]
        rows += [
            (
                str(orphan.pk), _shown(orphan.queue), orphan.source, orphan.state, str(orphan.messages),
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
        self.stdout.write(_shown(f"{orphan.queue}: {orphan.state}, {orphan.messages} messages, {orphan.reason}"))
        for entry in orphans.entries(orphan, count=options["limit"]):
            notes = ["restored"] if entry.is_restored else []
            notes += ["sent already"] if entry.duplicate_of else []
            what = f"{entry.to}  {entry.text}" if entry.readable else f"unreadable ({entry.error}): {entry.raw}"
            what = _shown(what, 10_000)
            self.stdout.write(f"{entry.index:>6}  {_time(entry.created_at):<20}  {what}  {' '.join(notes)}".rstrip())

    def _archive(self, options: dict[str, Any]) -> None:
        orphan = orphans.archive(_find(options["orphan"]), actor=_ACTOR)
        self.stdout.write(f"{_shown(orphan.queue)}: {orphan.state}, {orphan.messages} messages")

    def _restore(self, options: dict[str, Any]) -> None:
        orphan = _find(options["orphan"])
        if options["transport"] and not options["create"]:
            raise CommandError("--transport is for a session that is made: say --create too", returncode=2)
        done = restore_confirmed(
            orphan,
            session_name=options["session"] or orphan.session_name,
            create=options["create"],
            transport=options["transport"],
            actor=_ACTOR,
            selection=_selection(options),
            with_duplicates=options["with_duplicates"],
        )
        if done.task is not None:
            self.stdout.write(f"{done.task.total} messages are restored by a worker: task {done.task.pk}")
        if (restored := done.restored) is not None:
            self.stdout.write(
                f"{restored.restored} messages restored to {restored.session}; "
                f"{restored.left} left, {restored.duplicates} of them sent already"
            )

    def _purge(self, options: dict[str, Any]) -> None:
        orphan = _find(options["orphan"])
        count = orphans.purge(orphan, expected=options["expect"], actor=_ACTOR, selection=_selection(options))
        self.stdout.write(f"{count} messages purged")

    def _export(self, options: dict[str, Any]) -> None:
        orphan = _find(options["orphan"])
        count, pieces = orphans.begin_export(orphan, options["format"])
        audit.record(_ACTOR, "export orphan", orphan.queue, count=count, format=options["format"])
        for piece in pieces:
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
    newer_than = timezone.now() - options["newer_than"] if options["newer_than"] is not None else None
    return orphans.Selection(newer_than=newer_than, indexes=tuple(options["index"]) if options["index"] else None)


def _age(text: str) -> timedelta:
    try:
        age = parse_age("it", text)
    except ImproperlyConfigured:
        age = None
    # `ask` and `always` are settings, and no age.
    if age is None or age == timedelta.max:
        raise ArgumentTypeError(f"{text!r} is no age: write one like 90m, 24h or 7d, or leave it away for all")
    return age


def _place(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ArgumentTypeError(f"{text!r} is no place: they count from 0")
    return int(text)


def _shown(text: str, limit: int = 1000) -> str:
    """Text without what a terminal would act on."""
    return printable(text.encode(), limit)


def _time(at: Any) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
