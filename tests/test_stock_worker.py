"""A stock rq worker that is pointed at a session's queue by mistake sends nothing and loses nothing."""

import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import redis
from django.conf import settings
from django.db import connection
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from sessions_app.models import Attempt, LoopbackEntry, Message, Status
from sessions_app.queues import keys
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation.rebuild import rebuild_session
from tests.factories import is_due, job_ids, line, make_session, submit
from tests.processes import PROJECT

pytestmark = pytest.mark.django_db(transaction=True)

# As `rq worker` in a shell that has Django set up, and in one that has not: there every job fails.
WITH_DJANGO = [sys.executable, "-c", "import django; django.setup(); from rq.cli import main; main()"]
WITHOUT = [sys.executable, "-m", "rq.cli"]


@pytest.mark.parametrize("rq", [WITH_DJANGO, WITHOUT], ids=["with Django", "without"])
def test_it_sends_nothing_and_the_messages_stay_queued(rq: list[str], redis_client: redis.Redis) -> None:
    session = make_session()
    made = submit(session, "one", "two", "three")
    redis_client.delete(keys.DUE)
    name = connection.settings_dict["NAME"]
    worker = subprocess.run(
        [*rq, "worker", "--burst", "--url", settings.REDIS_URL, "--worker-class", "rq.SimpleWorker",
         "--serializer", "rq.serializers.JSONSerializer", "wa:alpha"],
        env=os.environ | {"DATABASE_URL": urlsplit(settings.DATABASE_URL)._replace(path=f"/{name}").geturl()},
        capture_output=True, text=True, timeout=60, cwd=PROJECT,
    )  # fmt: skip
    assert worker.returncode == 0, worker.stderr
    for message in made:
        assert str(message.pk) in worker.stderr
    assert job_ids(redis_client, "alpha") == []
    assert not LoopbackEntry.objects.exists()
    assert not Attempt.objects.exists()
    assert list(Message.objects.values_list("status", "attempts")) == [(Status.QUEUED, 0)] * 3
    if rq is WITH_DJANGO:
        # The job had its session looked at.
        assert "Job OK" in worker.stderr
        assert is_due(redis_client, "alpha")
    rebuild_session(session, upkeep_client())
    assert job_ids(redis_client, "alpha") == line(session)
    for message in made:
        job = Job.fetch(str(message.pk), connection=redis_client, serializer=JSONSerializer)
        assert job.get_status() == JobStatus.QUEUED
        assert job.ended_at is None
        # What the stock worker has worked off would vanish after some minutes.
        assert redis_client.ttl(job.key) == -1
