"""What a rebuild leaves behind that was killed in the middle: contents of messages that nobody would ever look at."""

import pytest
import redis

from sessions_app.models import Message, Session, Status
from sessions_app.queues import keys, lists, replacement
from sessions_app.queues.connection import upkeep_client
from sessions_app.queues.replacement import Replacements
from tests.factories import become, job_ids, line, make_session, submit
from tests.reconciliation_lab import in_order, run

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.fault(9)]


def break_off(session: Session, client: redis.Redis, *, seconds_ago: int = 120) -> list[Message]:
    """Write the new list of a session, have its first message be sent meanwhile, and stop before the swap."""
    made = list(Message.objects.filter(session=session).in_order())
    Replacements([session.name], upkeep_client()).add([(session.name, message) for message in made])
    become(made[0], Status.SENT)
    for key in leftovers(client):
        client.expire(key, client.ttl(key) - seconds_ago)
    # Its settle came before the contents were written.
    client.lrem(keys.queue_key(session.name), 1, str(made[0].pk))
    return made


def leftovers(client: redis.Redis) -> list[bytes]:
    return list(client.scan_iter(replacement.PREFIX + b"*"))


def contents(client: redis.Redis) -> set[str]:
    return {key.decode() for key in client.scan_iter("rq:job:*")}


def test_the_contents_of_what_was_sent_meanwhile_go_and_those_of_what_waits_stay(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "one", "two", "three")
    in_order()
    sent, *waiting = break_off(session, redis_client)
    assert leftovers(redis_client) and keys.job_key(sent.pk) in contents(redis_client)
    run(dry_run=True)
    assert leftovers(redis_client) and keys.job_key(sent.pk) in contents(redis_client)
    assert run().counts == {}
    assert not leftovers(redis_client)
    assert contents(redis_client) == {keys.job_key(message.pk) for message in waiting}
    assert job_ids(redis_client, "alpha") == line(session)


def test_a_list_of_any_length_is_let_go_in_parts(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, *["text"] * (lists.CHUNK + 1))
    in_order()
    made = break_off(session, redis_client)
    become(made[-1], Status.SENT)
    redis_client.lrem(keys.queue_key("alpha"), 1, str(made[-1].pk))
    run()
    assert not leftovers(redis_client)
    assert len(contents(redis_client)) == lists.CHUNK - 1


def test_a_list_to_which_somebody_added_just_now_is_left_alone(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "one", "two")
    in_order()
    made = break_off(session, redis_client, seconds_ago=5)
    run()
    assert leftovers(redis_client) and keys.job_key(made[0].pk) in contents(redis_client)


def test_a_key_of_that_name_that_is_no_list_is_left_alone_and_said(redis_client: redis.Redis) -> None:
    in_order()
    redis_client.hset(replacement.PREFIX + b"x", "a", "b")
    assert run().counts == {"foreign_key": 1}
    assert leftovers(redis_client) == [replacement.PREFIX + b"x"]
