"""`manage.py replay_incident`: load the incident that waqueue was born from into Redis, to watch what happens now."""

import json
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from redis.exceptions import RedisError

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Session
from sessions_app.queues import inspect
from sessions_app.queues.lists import load
from sessions_app.transports.loopback import LoopbackTransport

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
        try:
            _check(prefix, [name.removeprefix("queue:") for name in incident["lists"]])
        except QueueUnavailable as error:
            raise CommandError(f"{error.detail}. Nothing was loaded") from error
        except DatabaseError as error:
            why = (str(error).strip() or repr(error)).splitlines()[0]
            raise CommandError(f"PostgreSQL could not be asked: {why}") from error
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


def _check(prefix: str, names: list[str]) -> None:
    """Refuse where what is loaded would be lost, land in another's Redis, or reach real phones."""
    if not prefix:
        raise CommandError(
            "WAQUEUE_LEGACY_PREFIX is empty, so no list of the old service is looked for: set it, for instance to "
            "queue:, for waqueue as well as for this command"
        )
    inspect.meta()
    real = Session.objects.alive().filter(name__in=names).exclude(transport=LoopbackTransport.name)
    if found := sorted(real.values_list("name", flat=True)):
        raise CommandError(
            f"the session {', '.join(found)} is not on loopback, and would send the incident's messages to real "
            "phones: replay it on a waqueue without that session, or delete it first"
        )


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
