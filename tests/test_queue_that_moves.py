"""A queue that is being sent from, as reconciliation sees it: jobs that are final by now stand before the line."""

import pytest
import redis

from sessions_app.models import Message, Session, Status
from sessions_app.queues import inspect, keys
from sessions_app.reconciliation.difference import Difference
from sessions_app.reconciliation.mirrors import differences
from tests.factories import become, make_session, submit

pytestmark = pytest.mark.django_db(transaction=True)

QUEUE = keys.queue_key("alpha")


def look(session: Session, client: redis.Redis) -> Difference:
    found = dict(differences([session], inspect.depths([session.name], client=client), client))
    return found.get(session, Difference())


def name(message: Message) -> bytes:
    return str(message.pk).encode()


@pytest.fixture
def moving(redis_client: redis.Redis) -> tuple[Session, list[Message]]:
    """Five messages, of which the first two were sent since the queue was read."""
    session = make_session()
    made = submit(session, *"abcde")
    for message in made[:2]:
        become(message, Status.SENT)
    return session, made


@pytest.mark.fault(17)
def test_what_was_sent_meanwhile_is_final(moving: tuple[Session, list[Message]], redis_client: redis.Redis) -> None:
    session, made = moving
    final = frozenset(map(name, made[:2]))
    assert look(session, redis_client) == Difference(final=final)
    redis_client.delete(keys.job_key(made[0].pk))
    assert look(session, redis_client) == Difference(final=final)


@pytest.mark.fault(17)
def test_a_queue_of_which_all_was_sent_has_nothing_but_final_jobs(redis_client: redis.Redis) -> None:
    session = make_session()
    made = submit(session, "a", "b")
    for message in made:
        become(message, Status.SENT)
    assert look(session, redis_client) == Difference(final=frozenset(map(name, made)))


@pytest.mark.fault(17)
def test_a_job_that_nobody_knows_is_not_taken_for_one_that_was_sent(
    moving: tuple[Session, list[Message]], redis_client: redis.Redis
) -> None:
    session, made = moving
    redis_client.lpush(QUEUE, "stranger")
    assert look(session, redis_client) == Difference(final=frozenset(map(name, made[:2])), unknown=(b"stranger",))


def test_a_job_that_stands_in_the_line_too_is_a_duplicate(
    moving: tuple[Session, list[Message]], redis_client: redis.Redis
) -> None:
    session, made = moving
    redis_client.lpush(QUEUE, name(made[3]))
    found = look(session, redis_client)
    assert (found.final, found.duplicate) == (frozenset(map(name, made[:2])), frozenset([name(made[3])]))


def test_a_job_that_was_sent_and_stands_there_twice_is_a_duplicate(
    moving: tuple[Session, list[Message]], redis_client: redis.Redis
) -> None:
    session, made = moving
    redis_client.lpush(QUEUE, name(made[0]))
    assert look(session, redis_client).duplicate == frozenset([name(made[0])])


def test_a_job_of_the_line_without_its_content_is_found_behind_what_was_sent(
    moving: tuple[Session, list[Message]], redis_client: redis.Redis
) -> None:
    session, made = moving
    redis_client.delete(keys.job_key(made[0].pk), keys.job_key(made[3].pk))
    found = look(session, redis_client)
    assert (found.final, found.without_hash) == (frozenset(map(name, made[:2])), frozenset([name(made[3])]))
