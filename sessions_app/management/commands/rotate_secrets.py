"""`manage.py rotate_secrets`: encrypt the secrets of all sessions with the newest key."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError

from sessions_app.exceptions import primary_message
from sessions_app.services import stored_secrets
from sessions_app.services.audit import Actor


class Command(BaseCommand):
    """Rotate, and say by the exit code whether every secret is under the newest key now."""

    help = (
        "Encrypts the secrets of all sessions with the first of WAQUEUE_ENCRYPTION_KEYS; may be repeated. "
        "Exit code 0: all of them are; 1: some cannot be read with the keys that are set, or need it with --dry-run; "
        "2: PostgreSQL could not be asked."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what may be given."""
        parser.add_argument("--dry-run", action="store_true", help="only say how many there are")

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate them, and print how many."""
        dry_run = options["dry_run"]
        try:
            found = stored_secrets.rotate(actor=Actor.command("rotate_secrets"), dry_run=dry_run)
        except DatabaseError as error:
            raise CommandError(f"PostgreSQL could not be asked: {primary_message(error)}", returncode=2) from error
        done = "to encrypt anew" if dry_run else "encrypted anew"
        self.stdout.write(
            f"Secrets {done}: {found.rotated}; under the newest key already: {found.current}; "
            f"unreadable: {len(found.unreadable)}."
        )
        for one in found.unreadable:
            self.stderr.write(f"{one} cannot be read with the keys that are set")
        if found.unreadable or (dry_run and found.rotated):
            sys.exit(1)
