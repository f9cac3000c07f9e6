"""Configuration errors that `manage.py check` finds before the first message does."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import Error as DatabaseError
from django.db import connection

from sessions_app.exceptions import QueueUnavailable
from sessions_app.queues import durability
from sessions_app.queues.durability import Weakness


@register()
def check_region(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """The default region has to be one that phone numbers know."""
    import phonenumbers

    region = settings.WAQUEUE_DEFAULT_REGION
    if region and region not in phonenumbers.SUPPORTED_REGIONS:
        return [
            Error(
                f"WAQUEUE_DEFAULT_REGION is {region!r}, which is no region of phone numbers.",
                hint="Take the two letters of a country, like PE or ES, or leave it empty.",
                id="waqueue.E001",
            )
        ]
    return []


@register(Tags.security, deploy=True)
def check_public_url(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """Without a public address nothing tells Django whether people come by https."""
    if not settings.PUBLIC_URL:
        return [
            Warning(
                "WAQUEUE_PUBLIC_URL is not set, so cookies, redirects and HSTS assume plain HTTP.",
                hint="Set it to the address by which people reach the admin, like https://waqueue.example.org",
                id="waqueue.W001",
            )
        ]
    return []


_REDIS = {
    Weakness.FULL: (
        "Redis refuses what is new: its memory or its disk is full.",
        "Messages are still accepted and sent, but the queues in Redis fall behind: give it room.",
        "waqueue.W002",
    ),
    Weakness.EVICTS: (
        "Redis drops keys when its memory is full.",
        "Set `maxmemory-policy noeviction`: what it refuses is noticed, what it drops is not.",
        "waqueue.W003",
    ),
    Weakness.FORGETS: (
        "Redis keeps nothing on disk.",
        "Set `appendonly yes`: each restart of an empty Redis costs a rebuild of all queues.",
        "waqueue.W004",
    ),
}


@register(Tags.caches, deploy=True)
def check_redis(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """How Redis is set up, where it can be asked: it may not be there yet when a deployment is checked."""
    try:
        found = durability.weaknesses()
    except QueueUnavailable:
        return []
    return [Warning(what, hint=hint, id=number) for what, hint, number in (_REDIS[weakness] for weakness in found)]


@register(Tags.database, deploy=True)
def check_postgresql(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """A PostgreSQL that does not wait for the disk loses what was promised when its machine fails."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW fsync")
            (fsync,) = cursor.fetchone()
    except DatabaseError:
        return []
    if fsync == "on":
        return []
    return [
        Warning(
            "PostgreSQL does not wait for its disk (`fsync = off`).",
            hint="Set `fsync = on`: after a crash of its machine, accepted messages are gone or sent twice.",
            id="waqueue.W005",
        )
    ]
