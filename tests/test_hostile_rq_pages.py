"""RQ's own pages, where strangers wrote into its static queue: none of it runs, and no page is a server error."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.contrib import admin
from django.core.management import call_command
from django.urls import NoReverseMatch, reverse
from django_rq.models import Dashboard

from tests import hostile_lab
from tests.admin_lab import boss, text_of
from tests.hostile_lab import jobs, leave_jobs

pytestmark = [pytest.mark.django_db, pytest.mark.fault(26), pytest.mark.fault(34)]

# As RQ writes down a worker: this one is at a job that strangers made.
WORKER = {
    "birth": "2026-01-02T03:04:05.000006Z", "last_heartbeat": "2026-01-02T03:04:05.000006Z", "queues": "default",
    "state": "busy", "pid": "1", "hostname": "h", "version": "2.12.0", "python_version": "3.11",
}  # fmt: skip


def names() -> list[str]:
    """The names of all of its pages."""
    found = {url.name for url in admin.site._registry[Dashboard].get_urls() if url.name}
    return sorted(name for name in found if not name.startswith("django_rq_dashboard"))


def addresses(job_ids: list[bytes], workers: list[str]) -> Iterator[str]:
    """Every page, of every job and every worker."""
    ids = [job_id.decode("latin-1") for job_id in job_ids]
    for name in names():
        for arguments in (
            {}, {"queue_index": 0}, {"scheduler_index": 0}, {"connection_index": 0, "scheduler_name": "x"},
            *({"queue_index": 0, "key": worker} for worker in workers),
            *({"queue_index": 0, "job_id": job_id} for job_id in ids),
            *({"queue_index": 0, "job_id": job_id, "result_id": "1-1"} for job_id in ids),
        ):  # fmt: skip
            try:
                yield reverse(f"admin:{name}", kwargs=arguments)
            except NoReverseMatch:
                continue


def register(client: redis.Redis, job_ids: list[bytes]) -> None:
    """Have RQ take them for jobs that began, failed, ended and wait; what began is long overdue."""
    for job_id in job_ids:
        client.zadd("rq:wip:default", {job_id + b":an-execution": 1})
        for registry in ("finished", "failed", "deferred", "scheduled"):
            client.zadd(f"rq:{registry}:default", {job_id: time.time() + 1000})


def leave_everything(client: redis.Redis, ran: Path, shape: str) -> tuple[list[bytes], list[str]]:
    """Put hostile jobs into the static queue or its registries, and have workers be at them."""
    ids = leave_jobs(client, "default", ran)
    texts = [job_id for job_id in ids if job_id.isascii() and len(job_id) < 100]
    if shape == "registries":
        client.delete("rq:queue:default")
        register(client, texts)
    elif shape != "all":
        # One alone: it is the first and the last of the queue, and nothing before it fails.
        client.delete("rq:queue:default")
        client.rpush("rq:queue:default", shape.encode("latin-1"))
        register(client, [shape.encode("latin-1")])
    workers = []
    for number, job_id in enumerate(texts):
        key = f"rq:worker:{number}"
        client.hset(key, mapping=WORKER | {"current_job": job_id})
        client.sadd("rq:workers", key)
        client.sadd("rq:workers:default", key)
        workers.append(key)
    return ids, workers


SHAPES = ["all", "registries", *(job_id.decode("latin-1") for job_id in hostile_lab.jobs(Path("x")))]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: ascii(shape[:30]))
def test_no_page_of_rq_runs_what_stands_in_redis_or_fails(shape: str, redis_client: redis.Redis, ran: Path) -> None:
    ids, workers = leave_everything(redis_client, ran, shape)
    client = boss()
    client.raise_request_exception = False
    answers = {url: client.get(url) for url in addresses(ids, workers)}
    assert len(answers) > 100
    for url, response in answers.items():
        assert response.status_code in (200, 302, 404, 405, 422), url
        assert "<script>alert" not in response.content.decode(), url
    assert reverse("admin:django_rq_home") in answers


def test_a_job_that_is_looked_at_shows_its_pickle_as_bytes(redis_client: redis.Redis, ran: Path) -> None:
    leave_everything(redis_client, ran, "all")
    url = reverse("admin:django_rq_job_detail", kwargs={"queue_index": 0, "job_id": "pickled-in-meta"})
    seen = boss().get(url).content.decode()
    assert f"touch {ran}" in seen and "\\x80\\x04" in seen
    url = reverse("admin:django_rq_job_detail", kwargs={"queue_index": 0, "job_id": "names-os-system"})
    assert "os.system" in text_of(boss().get(url))
    redis_client.lpush("rq:queue:default", b"\xff")
    failed = boss().get(reverse("admin:django_rq_jobs", kwargs={"queue_index": 0}))
    assert failed.status_code == 422
    assert "None of it was run." in failed.content.decode()


@pytest.mark.parametrize("shape", ["all", "registries"])
def test_no_act_of_rq_runs_what_stands_in_redis_or_fails(shape: str, redis_client: redis.Redis, ran: Path) -> None:
    ids, workers = leave_everything(redis_client, ran, shape)
    client = boss()
    client.raise_request_exception = False
    chosen = {"_selected_action": [job_id.decode("latin-1") for job_id in ids], "job_ids": ["pickled-in-meta", "huge"]}
    for url in addresses(ids, workers):
        for act in ("requeue", "delete", "stop"):
            response = client.post(url, {**chosen, "action": act, "confirmed": "yes", "next_url": "/admin/"})
            assert response.status_code in (200, 302, 404, 405, 422), url
    assert not redis_client.exists("rq:queue:default"), "the queue was emptied"


def test_the_commands_of_rq_run_nothing_of_it(redis_client: redis.Redis, ran: Path) -> None:
    for shape in SHAPES:
        leave_everything(redis_client, ran, shape)
        # Each page's own numbers; it may stop at what cannot be read.
        with contextlib.suppress(Exception):
            call_command("rqstats")
        redis_client.flushdb()


def test_the_numbers_of_rq_are_shown_beside_a_job_that_would_run_code(
    redis_client: redis.Redis, ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enqueued = {b"enqueued_at": b"2026-01-02T03:04:05.000006Z"}
    for job_id, fields in list(jobs(ran).items())[:4]:
        redis_client.hset(b"rq:job:" + job_id, mapping=(fields or {}) | enqueued)  # type: ignore[arg-type]
        redis_client.rpush("rq:queue:default", job_id)
    call_command("rqstats")
    assert re.search(r"\| default +\| +4 \|", capsys.readouterr().out)
