"""The queues in Redis are RQ's own: an unmodified rq lists and reads them, in the order in which messages are sent."""

import subprocess
import sys
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import redis
from django.conf import settings
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from sessions_app.models import Message, Priority, Status, new_id
from sessions_app.queues import inspect, keys, mirror
from sessions_app.queues.jobs import job_fields
from sessions_app.services import messages
from tests.factories import ACTOR, PHONE, become, is_due, job_ids, line, make_session, submit
from tests.processes import PROJECT
from tests.round_trips import round_trips

pytestmark = pytest.mark.django_db(transaction=True)

HIGH: dict[str, Any] = {"priority": Priority.HIGH}


def rq_queue(name: str, client: redis.Redis) -> Queue:
    return Queue(f"wa:{name}", connection=client, serializer=JSONSerializer)


def fetch(message: Message, client: redis.Redis) -> Job:
    return Job.fetch(str(message.pk), connection=client, serializer=JSONSerializer)


# RQ reads it


def test_rq_lists_the_jobs_in_order(redis_client: redis.Redis) -> None:
    made = submit(make_session(), "one", "two", "three")
    queue = rq_queue("alpha", redis_client)
    assert queue.job_ids == [str(message.pk) for message in made]
    assert (queue.count, len(queue)) == (3, 3)
    assert [job.id for job in queue.jobs] == queue.job_ids


def test_rq_reads_a_job_and_finds_the_content_in_it(redis_client: redis.Redis) -> None:
    session = make_session("test-session")
    (message,) = submit(session, "¿Qué tal, ñandú? 🦤", client_ref="ref-7", metadata={"kept": "in the row"})
    job = fetch(message, redis_client)
    assert list(job.args) == [str(message.pk)]
    assert job.kwargs == {
        "to": PHONE, "type": "text", "text": "¿Qué tal, ñandú? 🦤", "client_ref": "ref-7", "seq": 1,
    }  # fmt: skip
    assert job.func_name == "sessions_app.jobs.send_message"
    assert job.origin == "wa:test-session"
    assert job.get_status() == JobStatus.QUEUED
    assert job.timeout == 180
    assert job.created_at is not None
    assert job.created_at.utctimetuple()[:6] == message.created_at.utctimetuple()[:6]
    assert job.enqueued_at is not None
    assert abs(job.enqueued_at - job.created_at) < timedelta(seconds=1)
    assert (job.started_at, job.ended_at, job.worker_name, job.meta) == (None, None, None, {})


def test_rq_can_call_the_function_that_a_job_names(redis_client: redis.Redis) -> None:
    (message,) = submit(make_session(), "one")
    redis_client.delete(keys.DUE)
    fetch(message, redis_client).perform()
    assert redis_client.zscore(keys.DUE, "alpha") is not None


@pytest.mark.parametrize("length", [10, 3000])
def test_rq_reads_a_short_text_as_it_stands_and_a_long_one_packed(redis_client: redis.Redis, length: int) -> None:
    text = "á" * length
    (message,) = submit(make_session(), text)
    assert fetch(message, redis_client).kwargs["text"] == text
    assert len(redis_client.hget(keys.job_key(message.pk), "data")) < 1000


def test_a_job_says_nothing_of_its_content_outside_its_data(redis_client: redis.Redis) -> None:
    (message,) = submit(make_session(), "a secret")
    fields = redis_client.hgetall(keys.job_key(message.pk))
    data = fields.pop(b"data")
    assert b"a secret" in data
    assert not any(b"secret" in value or PHONE.encode() in value for value in fields.values())
    assert fetch(message, redis_client).description == f"message {message.pk}"


def test_a_job_has_the_fields_to_which_rq_itself_would_give_a_value(redis_client: redis.Redis) -> None:
    (message,) = submit(make_session(), "one")
    ours = {name.decode() for name in redis_client.hgetall(keys.job_key(message.pk))}
    job = rq_queue("theirs", redis_client).enqueue("sessions_app.jobs.send_message", "x", job_timeout=180)
    theirs = {name.decode() for name, value in redis_client.hgetall(job.key).items() if value}
    # What is not there is read as its default.
    assert theirs - ours <= {"allow_dependency_failures", "enqueue_at_front", "number_of_retries", "queue_position"}
    assert ours <= theirs


def test_rq_reads_what_is_not_there_as_it_reads_what_it_wrote_as_empty(redis_client: redis.Redis) -> None:
    (message,) = submit(make_session(), "one")
    theirs = rq_queue("theirs", redis_client).enqueue("sessions_app.jobs.send_message", "x", job_timeout=180)
    empty = [name.decode() for name, value in redis_client.hgetall(theirs.key).items() if not value]
    ours, theirs = (
        fetch(message, redis_client),
        Job.fetch(theirs.id, connection=redis_client, serializer=JSONSerializer),
    )
    assert {"started_at", "ended_at", "worker_name", "last_heartbeat"} <= set(empty)
    for name in empty:
        attribute = f"_{name}" if name.endswith("callback_name") else name
        assert getattr(ours, attribute) == getattr(theirs, attribute), name


def test_rq_lists_the_queues(redis_client: redis.Redis) -> None:
    for name in ("alpha", "beta"):
        submit(make_session(name), "one", "two")
    assert {queue.name: queue.count for queue in Queue.all(connection=redis_client)} == {"wa:alpha": 2, "wa:beta": 2}
    assert inspect.session_queue_names() == {"alpha", "beta"}
    assert inspect.depths(["beta", "alpha", "gamma"]) == [2, 2, 0]


def test_rq_info_shows_the_queues() -> None:
    submit(make_session("alpha"), "one", "two")
    submit(make_session("beta"), *["text"] * 11)
    info = subprocess.run(
        [sys.executable, "-m", "rq.cli", "info", "--raw", "--url", settings.REDIS_URL],
        capture_output=True, text=True, timeout=60, cwd=PROJECT,
    )  # fmt: skip
    assert info.returncode == 0, info.stderr
    assert "queue wa:alpha 2" in info.stdout
    assert "queue wa:beta 11" in info.stdout


# In order


def test_many_are_put_in_order(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, *["text"] * 450)
    submit(session, *["text"] * 3)
    assert job_ids(redis_client, "alpha") == line(session)
    assert len(line(session)) == 453


def test_high_priority_stands_before_normal_and_behind_what_is_high_already(redis_client: redis.Redis) -> None:
    session = make_session()
    normal = submit(session, "one", "two")
    high = submit(session, "a", "b", "c", **HIGH)
    last = submit(session, "d", **HIGH) + submit(session, "three")
    expected = [*high, last[0], *normal, last[1]]
    assert job_ids(redis_client, "alpha") == line(session) == [str(message.pk) for message in expected]


def test_high_and_normal_of_one_submit_stand_each_at_their_place(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "first", "second")
    drafts = [messages.Draft(to=PHONE, text=str(at), priority=Priority(at % 2)) for at in range(10)]
    messages.submit(session, drafts)
    assert job_ids(redis_client, "alpha") == line(session)
    texts = {str(message.pk): message.text for message in Message.objects.all()}
    assert [texts[job] for job in job_ids(redis_client, "alpha")] == [
        "0", "2", "4", "6", "8", "first", "second", "1", "3", "5", "7", "9",
    ]  # fmt: skip


def test_many_of_high_priority_are_put_in_order(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "normal")
    submit(session, *["high"] * 450, **HIGH)
    assert job_ids(redis_client, "alpha") == line(session)


def test_high_priority_alone_makes_a_queue(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "a", "b", **HIGH)
    assert job_ids(redis_client, "alpha") == line(session)


def test_a_message_behind_one_in_flight_stands_behind_it(redis_client: redis.Redis) -> None:
    session = make_session()
    (first,) = submit(session, "first", **HIGH)
    become(first, Status.SENDING)
    submit(session, "normal")
    submit(session, "second", **HIGH)
    assert job_ids(redis_client, "alpha") == line(session)


def test_what_is_retried_stands_at_its_old_place(redis_client: redis.Redis) -> None:
    session = make_session()
    made = submit(session, *"abcdef")
    for message in (made[4], made[0], made[2], made[1]):
        become(message, Status.FAILED)
        mirror.take_out("alpha", [message.pk])
    assert len(job_ids(redis_client, "alpha")) == 2
    for message in (made[2], made[0], made[4], made[1]):
        messages.retry(message.pk, actor=ACTOR)
    assert job_ids(redis_client, "alpha") == [str(message.pk) for message in made] == line(session)


# Once


def test_a_second_put_of_a_job_does_not_double_it(redis_client: redis.Redis) -> None:
    session = make_session()
    made = submit(session, "one", "two")
    entries = [mirror.Entry(message) for message in made]
    assert mirror.put("alpha", entries) == 2
    assert mirror.put("alpha", [mirror.Entry(made[1], before=str(made[0].pk))]) == 2
    assert job_ids(redis_client, "alpha") == [str(message.pk) for message in made]


def test_what_is_taken_out_is_gone_and_the_rest_stays(redis_client: redis.Redis) -> None:
    made = submit(make_session(), *["text"] * 450)
    mirror.take_out("alpha", [message.pk for message in made[:440]])
    assert job_ids(redis_client, "alpha") == [str(message.pk) for message in made[440:]]
    assert not redis_client.exists(*(keys.job_key(message.pk) for message in made[:440]))
    assert redis_client.exists(*(keys.job_key(message.pk) for message in made[440:])) == 10
    mirror.take_out("alpha", [message.pk for message in made])
    assert not redis_client.exists(keys.queue_key("alpha"))


@pytest.mark.parametrize("way", ["in order", "backwards", "shuffled", "twice", "with strangers"])
@pytest.mark.parametrize("chosen", ["one part", "every third", "two parts"])
def test_many_are_taken_out_of_the_middle_of_a_queue(way: str, chosen: str, redis_client: redis.Redis) -> None:
    made = [str(message.pk) for message in submit(make_session(), *["text"] * 900)]
    parts = {"one part": made[300:720], "every third": made[100:800:3], "two parts": made[50:210] + made[500:660]}
    picked = parts[chosen]
    asked = {
        "in order": picked, "backwards": picked[::-1], "shuffled": Random(7).sample(picked, len(picked)),
        "twice": picked + picked, "with strangers": [str(new_id()), *picked, str(new_id())],
    }[way]  # fmt: skip
    mirror.take_out("alpha", asked)
    assert job_ids(redis_client, "alpha") == [job for job in made if job not in set(picked)]
    assert not redis_client.exists(*(keys.job_key(job) for job in picked))


def test_those_of_many_sessions_are_taken_out_in_few_round_trips(quiet_redis: redis.Redis) -> None:
    made = {name: submit(make_session(name), *["text"] * count) for name, count in (("a", 3), ("b", 450), ("c", 2))}
    quiet_redis.set(keys.queue_key("d"), "somebody's")
    gone = {"a": made["a"][:2], "b": made["b"][:440], "c": made["c"], "d": [], "e": []}
    ids = {name: [message.pk for message in of_session] for name, of_session in gone.items()}
    quiet_redis.script_flush()
    with round_trips() as asked:
        mirror.take_out_each({**ids, "d": [new_id()]})
    # One more where Redis does not know the script.
    assert asked.count <= 4
    for name, of_session in made.items():
        assert job_ids(quiet_redis, name) == [str(one.pk) for one in of_session if one not in gone[name]]
    assert not quiet_redis.exists(*(keys.job_key(pk) for pks in ids.values() for pk in pks))


def test_those_that_stand_far_from_each_other_in_one_of_them_are_taken_out_too(redis_client: redis.Redis) -> None:
    there = {name: [str(new_id()) for _ in range(count)] for name, count in (("a", 60_000), ("b", 100))}
    wanted = {name: jobs[len(jobs) // 6 :: len(jobs) // 10] for name, jobs in there.items()}
    for name, jobs in there.items():
        redis_client.rpush(keys.queue_key(name), *jobs)
        redis_client.mset({keys.job_key(job): "" for job in wanted[name]})
    mirror.take_out_each(wanted)
    for name, jobs in there.items():
        assert job_ids(redis_client, name) == [job for job in jobs if job not in wanted[name]]


@pytest.mark.parametrize("step", [1, -1])
def test_those_that_stand_together_are_looked_for_once(step: int, quiet_redis: redis.Redis) -> None:
    made = [message.pk for message in submit(make_session(), *["text"] * 1000)]
    quiet_redis.config_resetstat()
    mirror.take_out("alpha", made[400:800][::step])
    calls = quiet_redis.info("commandstats")
    assert calls["cmdstat_lpos"]["calls"] == calls["cmdstat_lrem"]["calls"] == 2


def test_of_a_job_that_stands_twice_in_its_queue_one_is_taken_out(redis_client: redis.Redis) -> None:
    one, two = (str(message.pk) for message in submit(make_session(), "one", "two"))
    redis_client.rpush(keys.queue_key("alpha"), one)
    mirror.take_out("alpha", [one])
    assert job_ids(redis_client, "alpha") == [two, one]


@pytest.mark.parametrize("count", [1, 199, 201, 5000])
def test_a_put_and_a_take_out_need_few_round_trips_however_many_there_are(
    count: int, redis_client: redis.Redis
) -> None:
    session = make_session()
    made = submit(session, *["text"] * count)
    redis_client.flushdb()
    with round_trips() as asked:
        mirror.put("alpha", [mirror.Entry(message) for message in made])
    # One more where Redis does not know the script.
    assert asked.count <= (2 if count < 200 else 5)
    assert job_ids(redis_client, "alpha") == line(session)
    with round_trips() as asked:
        mirror.take_out("alpha", [message.pk for message in made])
    assert asked.count <= 3
    assert job_ids(redis_client, "alpha") == []


def test_many_that_stand_before_others_go_in_smaller_calls_the_longer_the_line_is(quiet_redis: redis.Redis) -> None:
    session = make_session()
    submit(session, *["high"] * 3000, **HIGH)
    submit(session, *["normal"] * 1000)
    quiet_redis.config_resetstat()
    submit(session, *["high"] * 600, **HIGH)
    assert quiet_redis.info("commandstats")["cmdstat_evalsha"]["calls"] > 600 // 60
    assert job_ids(quiet_redis, "alpha") == line(session)


def test_a_job_whose_predecessor_is_unknown_goes_to_the_end(redis_client: redis.Redis) -> None:
    (one,) = submit(make_session(), "one")
    two = Message(session=one.session, recipient=PHONE, seq=2, created_at=one.created_at)
    mirror.put("alpha", [mirror.Entry(two, before="nobody")])
    assert job_ids(redis_client, "alpha") == [str(one.pk), str(two.pk)]


@pytest.mark.fault(26)
def test_a_key_that_is_no_list_is_left_alone_and_its_session_is_looked_at(redis_client: redis.Redis) -> None:
    session = make_session()
    redis_client.set(keys.queue_key("alpha"), "somebody's")
    (message,) = submit(session, "one")
    assert redis_client.get(keys.queue_key("alpha")) == b"somebody's"
    assert not redis_client.exists(keys.job_key(message.pk))
    assert is_due(redis_client, "alpha")
    mirror.take_out("alpha", [message.pk])
    assert mirror.job_ids("alpha", client=redis_client) is None
    assert inspect.depths(["alpha"]) == [0]


def test_the_fields_of_a_job_come_in_pairs_of_text() -> None:
    (message,) = submit(make_session(), "one")
    fields = job_fields("alpha", message)
    assert len(fields) % 2 == 0
    assert all(isinstance(value, str) for value in fields[::2])
    assert all(isinstance(value, (str, bytes)) for value in fields)
