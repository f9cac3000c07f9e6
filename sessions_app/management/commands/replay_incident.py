"""`manage.py replay_incident`: load the incident that waqueue was born from into Redis, to watch what happens now."""

import json
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from redis.exceptions import RedisError

from sessions_app.queues.lists import load

_INCIDENT = Path(__file__).resolve().parents[2] / "fixtures" / "incident.json"
_DAY_MS = 24 * 3600 * 1000


class Command(BaseCommand):
    """Put 15 + 9 stuck messages, and some broken ones, where the old service had them."""

    help = (
        "Loads the lists of the incident into Redis: 15 messages of the session default, 9 of a session that does not "
        "exist, 5 entries of which none can be read, a queue with an odd name, and a key that is no queue."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--dates",
            choices=["yesterday", "original"],
            default="yesterday",
            help="when the messages were handed in: yesterday at this time plus an hour (young), or as they were",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        incident = json.loads(_INCIDENT.read_text(encoding="utf-8"))
        prefix = settings.WAQUEUE_LEGACY_PREFIX
        shift = 0
        if options["dates"] == "yesterday":
            shift = int(time.time() * 1000) - _DAY_MS + 3600 * 1000 - _oldest(incident["lists"])
        lists = {
            _bytes(name.replace("queue:", prefix, 1)): [_bytes(_shifted(entry, shift)) for entry in entries]
            for name, entries in incident["lists"].items()
        }
        strings = {
            _bytes(name.replace("queue:", prefix, 1)): _bytes(value) for name, value in incident["strings"].items()
        }
        try:
            taken = load(lists, strings)
        except RedisError as error:
            raise CommandError(f"Redis cannot be reached: {error}") from error
        if taken:
            raise CommandError(
                f"{', '.join(taken)} is there already: nothing was loaded. Have it reconciled or purged first"
            )
        for name, entries in lists.items():
            self.stdout.write(f"{name.decode('utf-8', 'backslashreplace')}: {len(entries)} entries")
        self.stdout.write("Loaded. Start waqueue again, or run `manage.py reconcile_queues`, and look at the orphans.")


def _oldest(lists: dict[str, list[str]]) -> int:
    times = [time for entries in lists.values() for entry in entries if (time := _created_at(entry)) is not None]
    return min(times)


def _created_at(entry: str) -> int | None:
    try:
        return int(json.loads(entry)["createdAt"])
    except (ValueError, KeyError, TypeError):
        return None


def _shifted(entry: str, shift: int) -> str:
    created_at = _created_at(entry)
    if created_at is None or not shift:
        return entry
    return json.dumps(json.loads(entry) | {"createdAt": created_at + shift}, ensure_ascii=False)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
