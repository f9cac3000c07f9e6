"""`manage.py create_api_key NAME --scope read --scope send`: the key alone on standard output."""

from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.utils import timezone

from sessions_app.exceptions import InvalidInput, primary_message
from sessions_app.models import Scope
from sessions_app.services import api_keys
from sessions_app.services.audit import Actor

_LONGEST_DAYS = 36_500
_OPTIONS = {"name": "NAME", "scopes": "--scope", "sessions": "--session", "expires_at": "--expires-days"}


def _days(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= _LONGEST_DAYS:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no number of days from 1 to {_LONGEST_DAYS}")


class Command(BaseCommand):
    """Create an API key."""

    help = (
        "Create an API key and print it, and nothing else, on standard output. It is shown this once. "
        "Exit code 0: created; 1: something does not fit, and what; 2: PostgreSQL could not be asked."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Say what may be given."""
        parser.add_argument("name", metavar="NAME", help="what it is called in lists and in the audit")
        parser.add_argument(
            "--scope",
            action="append",
            default=[],
            metavar="SCOPE",
            help=f"what it may do, once for each: {', '.join(Scope.values)}; none holds another",
        )
        parser.add_argument(
            "--session", action="append", default=[], metavar="NAME", help="only these sessions, once for each"
        )
        parser.add_argument("--expires-days", type=_days, metavar="N", help="valid for so many days; else for good")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create the key, or say what does not fit."""
        days = options["expires_days"]
        try:
            _, plain = api_keys.create(
                name=options["name"],
                scopes=options["scope"],
                session_names=options["session"],
                expires_at=None if days is None else timezone.now() + timedelta(days=days),
                actor=Actor.command("create_api_key"),
            )
        except InvalidInput as error:
            lines = (f"{_OPTIONS[each['field']]}: {each['message']}" for each in error.errors)
            raise CommandError("\n".join(lines)) from None
        except DatabaseError as error:
            raise CommandError(f"PostgreSQL could not be asked: {primary_message(error)}", returncode=2) from error
        self.stdout.write(plain)
