"""A Redis that drops keys, forgets or is full is told of: by `check --deploy` and on the front page."""

import socket
import time

import pytest
import redis
from django.conf import settings
from django.core import checks

from sessions_app.exceptions import QueueUnavailable
from sessions_app.queues import durability
from sessions_app.queues.connection import web_client
from sessions_app.queues.durability import Weakness, weaknesses
from tests.admin_lab import boss, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.fault(36)]


def said(*, deploy: bool = True) -> list[str | None]:
    """What the checks say of Redis."""
    found = checks.run_checks(include_deployment_checks=deploy)
    return [one.id for one in found if "Redis" in one.msg]


def test_a_redis_that_is_set_up_as_it_should_be_is_no_matter(kept_redis: redis.Redis) -> None:
    assert weaknesses() == []
    assert said() == []


@pytest.mark.parametrize(
    ("changes", "weakness", "number", "shown"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, Weakness.EVICTS, "waqueue.W003", "Redis drops keys when it is full"),
        ({"appendonly": "no"}, Weakness.FORGETS, "waqueue.W004", "Redis keeps nothing on disk"),
        ({"maxmemory": "1kb"}, Weakness.FULL, "waqueue.W002", "Redis is full"),
    ],
)
def test_one_that_is_not_is_told_of_by_the_check_and_on_the_front_page(
    changes: dict[str, str], weakness: Weakness, number: str, shown: str, kept_redis: redis.Redis
) -> None:
    for name, value in changes.items():
        kept_redis.config_set(name, value)
    assert weaknesses() == [weakness]
    assert said() == [number]
    assert said(deploy=False) == []
    seen = text_of(boss().get("/admin/"))
    assert shown in seen and "Needs attention" in seen


def test_snapshots_are_enough_to_be_kept(kept_redis: redis.Redis) -> None:
    kept_redis.config_set("appendonly", "no")
    kept_redis.config_set("save", "3600 1")
    assert weaknesses() == []


def test_where_config_is_forbidden_what_can_be_known_is_said_and_nothing_else(kept_redis: redis.Redis) -> None:
    kept_redis.config_set("appendonly", "no")
    kept_redis.acl_setuser("default", enabled=True, commands=["-config"])
    assert weaknesses() == []
    kept_redis.acl_setuser("default", enabled=True, commands=["-info"])
    assert weaknesses() == []


def test_a_check_of_a_deployment_whose_redis_is_away_says_nothing_and_waits_for_nothing(
    kept_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setattr(settings, "REDIS_URL", f"redis://127.0.0.1:{mute.getsockname()[1]}/0")
        web_client.cache_clear()
        began = time.monotonic()
        assert said() == []
        assert time.monotonic() - began < 3
        with pytest.raises(QueueUnavailable):
            durability.weaknesses()
