"""`/livez` touches nothing; `/readyz` says what is missing, and what only waits."""

import uuid
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions_app.models import Worker
from tests.api_client import ApiClient
from tests.test_api_queues import no_redis  # noqa: F401

pytestmark = pytest.mark.django_db

NO_KEY = ""


def make_worker(silent_for: timedelta = timedelta(0), **fields: object) -> Worker:
    now = timezone.now()
    return Worker.objects.create(
        id=uuid.uuid4(), name="w", hostname="h", pid=1, concurrency=1, started_at=now, steady_since=now,
        heartbeat_at=now - silent_for, **fields,
    )  # fmt: skip


def test_livez_touches_nothing_not_even_for_a_person_who_is_logged_in() -> None:
    client = Client()
    client.force_login(User.objects.create(username="admin", is_staff=True))
    with CaptureQueriesContext(connection) as queries:
        response = client.get("/livez")
    assert (response.status_code, response.json(), len(queries)) == (200, {"status": "ok"}, 0)
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_load_balancer_asks_without_a_key_and_by_any_host(path: str) -> None:
    with override_settings(ALLOWED_HOSTS=["waqueue.example"]):
        assert ApiClient(plain=NO_KEY).get(path, Host="10.0.0.7:8000").status == 200


def test_readyz_is_ok_when_everything_is_there() -> None:
    make_worker()
    answer = ApiClient(plain=NO_KEY).get("/readyz")
    assert (answer.status, answer.body) == (200, {"status": "ok"})


@pytest.mark.parametrize("workers", [[], [{"silent_for": timedelta(seconds=16)}], [{"stopped_at": timezone.now()}]])
def test_without_a_worker_that_lives_it_is_degraded(workers: list[dict[str, object]]) -> None:
    for fields in workers:
        make_worker(**fields)  # type: ignore[arg-type]
    answer = ApiClient(plain=NO_KEY).get("/readyz")
    assert (answer.status, answer["status"]) == (200, "degraded")
    (reason,) = answer["reasons"]
    assert "worker" in reason


def test_without_redis_it_is_degraded(no_redis: None) -> None:  # noqa: F811
    make_worker()
    answer = ApiClient(plain=NO_KEY).get("/readyz")
    assert (answer.status, answer["status"]) == (200, "degraded")
    (reason,) = answer["reasons"]
    assert "Redis" in reason


def test_a_missing_migration_is_503_and_is_named() -> None:
    make_worker()
    MigrationRecorder(connection).record_unapplied("sessions_app", "0001_initial")
    answer = ApiClient(plain=NO_KEY).get("/readyz")
    assert (answer.status, answer["code"]) == (503, "migrations_missing")
    assert "sessions_app.0001_initial" in answer["detail"]
    assert "0002" not in answer["detail"]


def test_a_database_that_was_never_migrated_is_503() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_migrations RENAME TO elsewhere")
    answer = ApiClient(plain=NO_KEY).get("/readyz")
    assert (answer.status, answer["code"]) == (503, "migrations_missing")
