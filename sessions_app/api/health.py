"""What a load balancer asks: is the process alive, and can it accept messages."""

from functools import cache

from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest
from ninja import Router

from sessions_app.api.problems import ApiError, Problem
from sessions_app.api.schemas.health import Alive, Ready
from sessions_app.api.schemas.problems import ProblemOut
from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Worker
from sessions_app.queues import durability, inspect

router = Router(tags=["Operations"])


@router.get("/livez", auth=None, response=Alive, summary="Is the process alive?", operation_id="livez")
def livez(request: HttpRequest) -> Alive:
    """Answer, and touch nothing."""
    return Alive()


@router.get(
    "/readyz",
    auth=None,
    response={200: Ready, 503: ProblemOut},
    exclude_none=True,
    summary="Are messages accepted?",
    description="503 when PostgreSQL cannot be reached or migrations are missing: no message is accepted. `degraded` "
    "when messages are accepted and wait: Redis is away or full, or no worker is alive.",
    operation_id="readyz",
)
def readyz(request: HttpRequest) -> Ready:
    """Say whether messages are accepted, and whether they are sent."""
    if missing := _missing_migrations():
        names = ", ".join(missing)
        raise ApiError(
            Problem.of_status(
                503, f"Migrations are missing: {names}. Run `python manage.py migrate`.", code="migrations_missing"
            )
        )
    reasons = []
    if trouble := _trouble_with_redis():
        reasons.append(f"{trouble}: messages are kept and wait")
    if not Worker.objects.alive().exists():
        reasons.append("no worker is alive: messages are kept and wait")
    return Ready(status="degraded" if reasons else "ok", reasons=reasons or None)


def _trouble_with_redis() -> str:
    try:
        # First: one whose disk is full refuses a PING, too.
        if durability.Weakness.FULL in durability.weaknesses():
            return "Redis is full"
    except QueueUnavailable:
        return "Redis cannot be reached"
    return "" if inspect.is_reachable() else "Redis cannot be reached"


def _missing_migrations() -> list[str]:
    applied = MigrationRecorder(connection).applied_migrations()
    return [f"{app}.{name}" for app, name in _migrations() if (app, name) not in applied]


@cache
def _migrations() -> tuple[tuple[str, str], ...]:
    """Return the migrations that this code comes with. They are files, which do not change while it runs."""
    return tuple(sorted(MigrationLoader(None).disk_migrations))
