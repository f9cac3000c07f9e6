"""`manage.py reconcile_queues`: hold Redis against PostgreSQL, and put it right."""

import json
import sys
from argparse import ArgumentParser
from typing import Any, NoReturn

from django.core.management.base import BaseCommand

from sessions_app.exceptions import primary_message
from sessions_app.models import NOTES, Reconciliation, ReconciliationOutcome, Trigger
from sessions_app.reconciliation.repair import Policy
from sessions_app.reconciliation.run import AlreadyRunning, UnknownName, reconcile

_HEADS = ("found", "queue", "session", "messages", "done", "details")


class Command(BaseCommand):
    """Print what was found and done, and say by the exit code whether anything is left."""

    help = (
        "Compares the queues in Redis with the sessions and messages in PostgreSQL and puts them right. "
        "Exit code 0: nothing found, or everything repaired; 1: findings left, or found with --dry-run; "
        "2: could not run."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would be found")
        parser.add_argument(
            "--policy",
            choices=[policy.value for policy in Policy],
            help="what to do with queues of no session: leave them, copy them into PostgreSQL, or delete them for good "
            "(default: the settings WAQUEUE_ORPHAN_POLICY and WAQUEUE_LEGACY_POLICY)",
        )
        parser.add_argument("--session", metavar="NAME", help="look only at what bears this name")
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            run = reconcile(
                Trigger.COMMAND,
                dry_run=options["dry_run"],
                policy=Policy(options["policy"]) if options["policy"] else None,
                session_name=options["session"],
            )
        except (AlreadyRunning, UnknownName) as reason:
            self._give_up(str(reason))
        except Exception as error:
            if options["traceback"]:
                raise
            self._give_up(primary_message(error))
        if run is None:
            return
        if options["format"] == "json":
            self._print_json(run)
        else:
            self._print_table(run)
        found = run.findings.exclude(kind__in=NOTES).exists()
        left = run.outcome == ReconciliationOutcome.FINDINGS
        if found if run.dry_run else left:
            sys.exit(1)

    def _give_up(self, why: str) -> NoReturn:
        self.stderr.write(f"reconciliation could not run: {why}")
        sys.exit(2)

    def _print_table(self, run: Reconciliation) -> None:
        if run.session_name:
            self.stdout.write(f"Looked only at what is called {run.session_name}.")
        rows = [
            (finding.kind, finding.queue, finding.session, str(finding.messages), finding.action or "-", finding.detail)
            for finding in run.findings.all()
        ]
        if not rows:
            self.stdout.write("Nothing found: Redis is as PostgreSQL says.")
            return
        widths = [max(len(row[at]) for row in [_HEADS, *rows]) for at in range(len(_HEADS))]
        for row in [_HEADS, *rows]:
            self.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def _print_json(self, run: Reconciliation) -> None:
        fields = ("kind", "queue", "session", "messages", "action", "detail")
        document = {
            "id": run.pk,
            "dry_run": run.dry_run,
            "session": run.session_name or None,
            "outcome": run.outcome,
            "counts": run.counts,
            "findings": [{name: getattr(finding, name) for name in fields} for finding in run.findings.all()],
        }
        self.stdout.write(json.dumps(document, indent=2, ensure_ascii=False))
