"""Even shares: each worker takes as much of what is due as makes its part of all that is in flight the same."""

import pytest
from redis.client import PubSub

from sessions_app.queues import keys
from tests.redis_lab import Lab, heard


def test_a_worker_alone_takes_all(lab: Lab) -> None:
    lab.due_in(**{f"s{number}": -number for number in range(10)})
    assert len(lab.claim_as("a").sessions) == 10


def test_two_workers_take_half_each(lab: Lab) -> None:
    lab.load("b", 0)
    lab.due_in(**{f"s{number}": -number for number in range(10)})
    assert len(lab.claim_as("a").sessions) == 5
    assert len(lab.claim_as("b").sessions) == 5


def test_what_is_in_flight_counts(lab: Lab) -> None:
    lab.load("b", 8)
    lab.load("a", 0)
    lab.due_in(s1=0, s2=0)
    assert lab.claim_as("b", in_flight=8).sessions == []
    assert len(lab.claim_as("a").sessions) == 2


def test_a_worker_that_leaves_something_calls_the_others_and_looks_again_soon(lab: Lab, wakes: PubSub) -> None:
    lab.load("b", 0)
    lab.due_in(s1=0, s2=0)
    claim = lab.claim_as("a", in_flight=4)
    assert (claim.sessions, claim.next_due_ms, claim.others_wait) == ([], 20, True)
    # The first may be the confirmation of the subscription, which is passed over.
    heard = wakes.get_message(timeout=5) or wakes.get_message(timeout=5)
    # With its name, so that it does not wake itself.
    assert heard is not None
    assert heard["data"] == b"a"


# Also one that spoke in the future: a Redis that took over may have a clock that is behind.
@pytest.mark.parametrize("seconds_ago", [4, 100, -4, -100])
def test_a_worker_that_is_silent_has_no_share(lab: Lab, seconds_ago: float) -> None:
    lab.load("dead", 0, seconds_ago=seconds_ago)
    lab.due_in(**{f"s{number}": -number for number in range(10)})
    assert len(lab.claim_as("a").sessions) == 10
    assert lab.client.hexists(keys.LOADS, "dead") == (abs(seconds_ago) < 60)


def test_a_worker_without_room_has_no_share(lab: Lab) -> None:
    lab.load("small", 1, room=0)
    lab.due_in(**{f"s{number}": -number for number in range(10)})
    assert len(lab.claim_as("a").sessions) == 10


def test_those_that_leave_something_call_the_others_once_in_a_while_only(lab: Lab, wakes: PubSub) -> None:
    lab.load("b", 0)
    lab.due_in(s1=0, s2=0)
    lab.client.set(keys.CALLED, "", px=60_000)
    claims = [lab.claim_as("a", in_flight=40) for _ in range(5)]
    assert all(claim.sessions == [] and claim.others_wait for claim in claims)
    assert heard(lab, wakes) == 0


def test_garbage_among_the_loads_is_dropped(lab: Lab) -> None:
    lab.client.hset(keys.LOADS, mapping={"x": "many", "y": ""})
    lab.due_in(s=0)
    assert len(lab.claim_as("a").sessions) == 1
    assert set(lab.client.hgetall(keys.LOADS)) == {b"a"}


def test_a_worker_that_ends_leaves_its_share(lab: Lab) -> None:
    lab._call(lambda queues: queues.claim(1), "a")
    assert not lab.client.exists(keys.LOADS)


def test_one_that_only_looks_is_no_worker(lab: Lab) -> None:
    lab.claim(0)
    assert not lab.client.exists(keys.LOADS)
