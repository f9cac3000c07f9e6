"""Redis says when a session is looked at: what is claimed, given back, signalled and put changes due times just so."""

from collections.abc import Callable

import pytest
import redis
from django.utils import timezone
from redis.client import PubSub
from rq.suspension import resume, suspend

from sessions_app.models import Message
from sessions_app.queues import inspect, keys, mirror
from sessions_app.queues.dispatch import SettledJob
from tests.redis_lab import OURS, Lab, heard

FAR = 60_000


# Claim


def test_a_claim_takes_due_sessions_oldest_first_up_to_its_limit(lab: Lab) -> None:
    lab.due_in(young=-1000, oldest=-3000, middle=-2000, later=FAR)
    assert [session.name for session in lab.claim(2).sessions] == ["oldest", "middle"]
    assert [session.name for session in lab.claim(2).sessions] == ["young"]
    assert lab.claim(2).sessions == []


def test_a_claim_leaves_its_sessions_due_again_by_themselves(lab: Lab) -> None:
    lab.due_in(alpha=-1000)
    before = lab.now()
    session = lab.claim_one()
    after = lab.now()
    assert before + 15_000 <= (lab.client.zscore(keys.DUE, "alpha") or 0) <= after + 15_000
    assert (session.version, session.generation) == (1, lab.meta("generation"))
    assert lab.version("alpha") == 1


@pytest.mark.parametrize(("delays", "expected"), [({}, None), ({"a": FAR}, FAR), ({"a": -5000}, 15_000)])
def test_a_claim_tells_when_to_look_again(lab: Lab, delays: dict[str, int], expected: int | None) -> None:
    lab.due_in(**delays)
    next_due = lab.claim().next_due_ms
    if expected is None:
        assert next_due is None
    else:
        assert next_due is not None
        assert expected - 5000 < next_due <= expected


def test_a_claim_that_leaves_some_that_are_due_says_so(lab: Lab) -> None:
    lab.due_in(a=-2, b=-1)
    assert lab.claim(1).next_due_ms == 0


def test_while_rq_is_suspended_nothing_is_claimed(lab: Lab) -> None:
    lab.due_in(alpha=-1000)
    suspend(lab.client)
    claim = lab.claim()
    assert (claim.is_suspended, claim.sessions, claim.next_due_ms) == (True, [], 0)
    assert lab.version("alpha") == 0
    resume(lab.client)
    claim = lab.claim()
    assert (claim.is_suspended, [session.name for session in claim.sessions]) == (False, ["alpha"])


def test_what_cannot_be_a_name_is_dropped_and_keeps_nobody_from_his_turn(lab: Lab) -> None:
    garbage = [b"", b" ", b"a b", b"\xff\xfe", b"-a", b"a" * 65, b"a\n", b"../a", "ñ".encode()]
    now = lab.now()
    lab.client.zadd(keys.DUE, dict.fromkeys(garbage, now - 5000) | {"alpha": now - 1000, "a" * 64: now - 999})
    assert [session.name for session in lab.claim().sessions] == ["alpha", "a" * 64]
    assert sorted(lab.client.zrange(keys.DUE, 0, -1)) == [b"a" * 64, b"alpha"]
    assert sorted(lab.client.hkeys(keys.VERSIONS)) == [b"a" * 64, b"alpha"]


def test_redis_that_lost_the_scripts_learns_them_again(quiet_redis: redis.Redis) -> None:
    lab = Lab(quiet_redis)
    lab.due_in(alpha=-1000)
    lab.client.script_flush()
    assert lab.claim_one().name == "alpha"


# Generations


def test_the_generation_stays_while_redis_is_the_same(lab: Lab) -> None:
    first = lab.claim()
    assert lab.claim().generation == first.generation
    assert (lab.meta("deployment"), lab.meta("generation")) == (OURS, first.generation)


def test_a_wiped_redis_is_another_generation(lab: Lab) -> None:
    first = lab.claim().generation
    lab.client.flushdb()
    assert lab.claim().generation != first
    assert lab.meta("deployment") == OURS


def test_a_restarted_redis_is_another_generation_with_the_old_mark_and_due_times(lab: Lab) -> None:
    first = lab.claim().generation
    lab.give_back(mark=7)
    lab.due_in(alpha=FAR)
    # As the data of another process, read back at its start.
    lab.client.hset(keys.META, "run_id", "another")
    claim = lab.claim()
    assert claim.generation != first
    assert claim.mark == 7
    assert lab.meta("run_id") == lab.client.info("server")["run_id"]
    assert lab.delay("alpha") is not None
    assert lab.claim().generation == claim.generation


# Give back


@pytest.mark.parametrize("delay", [0, 1, 2500, 3_600_000])
def test_a_session_given_back_is_due_after_its_delay(lab: Lab, delay: int) -> None:
    lab.due_in(alpha=-1000)
    session = lab.claim_one()
    before = lab.now()
    lab.give_back((session, delay))
    assert before + delay <= (lab.client.zscore(keys.DUE, "alpha") or 0) <= lab.now() + delay
    assert lab.version("alpha") == 1


def test_a_session_given_back_for_good_is_not_due(lab: Lab) -> None:
    lab.due_in(alpha=-1000)
    lab.give_back((lab.claim_one(), None))
    assert lab.delay("alpha") is None
    assert lab.claim().sessions == []


@pytest.mark.parametrize("delay", [None, FAR])
def test_a_session_that_was_signalled_meanwhile_is_looked_at_once_more(
    lab: Lab, delay: int | None, wakes: PubSub
) -> None:
    lab.due_in(alpha=-1000)
    session = lab.claim_one()
    lab.signal("alpha")
    assert lab.is_due("alpha")
    lab.give_back((session, delay))
    assert lab.is_due("alpha")
    assert lab.version("alpha") == 3
    assert heard(lab, wakes) == 2
    assert lab.claim_one().name == "alpha"


def test_a_session_that_was_claimed_meanwhile_is_looked_at_once_more(lab: Lab) -> None:
    lab.due_in(alpha=-1000)
    first = lab.claim_one()
    lab.due_in(alpha=-1000)
    second = lab.claim_one()
    lab.give_back((first, None))
    assert lab.is_due("alpha")
    lab.give_back((second, None))
    assert lab.is_due("alpha")
    lab.give_back((lab.claim_one(), None))
    assert lab.delay("alpha") is None


def test_a_session_of_an_older_generation_is_looked_at_once_more(lab: Lab) -> None:
    lab.due_in(alpha=-1000)
    session = lab.claim_one()
    lab.client.flushdb()
    lab.claim()
    # The version is the same again, by chance.
    lab.client.hset(keys.VERSIONS, "alpha", session.version)
    lab.give_back((session, None))
    assert lab.is_due("alpha")


def test_an_overtaken_session_keeps_an_earlier_due_time(lab: Lab) -> None:
    lab.due_in(alpha=-1000)
    session = lab.claim_one()
    lab.signal("alpha")
    lab.due_in(alpha=-9000)
    lab.give_back((session, 0))
    assert (lab.delay("alpha") or 0) <= -9000


def test_several_are_given_back_at_once_each_in_its_own_way(lab: Lab, wakes: PubSub) -> None:
    lab.due_in(a=-3, b=-2, c=-1)
    a, b, c = lab.claim().sessions
    lab.signal("b")
    lab.give_back((a, None), (b, FAR), (c, FAR))
    assert lab.delay("a") is None
    assert lab.is_due("b")
    assert (lab.delay("c") or 0) > FAR - 5000
    assert heard(lab, wakes) == 2


def test_settled_jobs_go_out_of_their_queues(lab: Lab) -> None:
    for name, job in (("a", "1"), ("a", "2"), ("b", "3")):
        lab.client.rpush(keys.queue_key(name), job)
        lab.client.hset(keys.job_key(job), "data", "x")
    lab.give_back(jobs=[SettledJob("a", "1"), SettledJob("b", "3"), SettledJob("b", "unknown")])
    assert lab.client.lrange(keys.queue_key("a"), 0, -1) == [b"2"]
    assert not lab.client.exists(keys.queue_key("b"), keys.job_key("1"), keys.job_key("3"))
    assert lab.client.exists(keys.job_key("2"))


@pytest.mark.fault(26)
def test_a_foreign_key_in_the_place_of_a_queue_keeps_nobody_from_being_given_back(lab: Lab) -> None:
    lab.due_in(a=-2, b=-1)
    a, b = lab.claim().sessions
    lab.client.set(keys.queue_key("a"), "somebody's")
    lab.client.rpush(keys.queue_key("b"), "2")
    lab.give_back((a, None), (b, None), jobs=[SettledJob("a", "1"), SettledJob("b", "2")], mark=9)
    assert lab.client.get(keys.queue_key("a")) == b"somebody's"
    assert not lab.client.exists(keys.queue_key("b"), keys.DUE)
    assert lab.claim().mark == 9


def test_the_mark_only_rises(lab: Lab) -> None:
    marks = []
    for mark in (5, 3, 0, 12, 9, 100, 99, 2**53 - 1):
        lab.give_back(mark=mark)
        marks.append(lab.claim().mark)
    assert marks == [5, 5, 5, 12, 12, 100, 100, 2**53 - 1]


# Signal


@pytest.mark.parametrize(("delay", "is_kept"), [(FAR, False), (-9000, True)])
def test_a_signal_only_brings_a_due_time_forward(lab: Lab, delay: int, is_kept: bool) -> None:
    lab.due_in(alpha=delay)
    score = lab.client.zscore(keys.DUE, "alpha")
    lab.signal("alpha")
    assert lab.is_due("alpha")
    assert (lab.client.zscore(keys.DUE, "alpha") == score) is is_kept


def test_a_signal_makes_sessions_due_and_wakes_the_workers_once(lab: Lab, wakes: PubSub) -> None:
    lab.signal("a", "b", "c")
    assert [session.name for session in lab.claim().sessions] == ["a", "b", "c"]
    assert heard(lab, wakes) == 1
    assert lab.version("a") == 2


def test_a_signal_for_nobody_wakes_nobody(lab: Lab, wakes: PubSub) -> None:
    lab.signal()
    assert heard(lab, wakes) == 0


# Put


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int | None]:
    """Return `put(urgent=...)`: put one more job into the queue of `alpha`."""
    monkeypatch.setattr(mirror, "deployment_id", lambda: OURS)

    def act(*, urgent: bool = False) -> int | None:
        message = Message(recipient="12345", seq=1, created_at=timezone.now())
        return mirror.put("alpha", [mirror.Entry(message)], urgent=urgent)

    return act


def test_a_put_makes_its_session_due_and_wakes_the_workers(
    lab: Lab, put: Callable[..., int | None], wakes: PubSub
) -> None:
    assert put() == 1
    assert lab.is_due("alpha")
    assert heard(lab, wakes) == 1
    assert inspect.due_times(["alpha", "beta"])[1] is None


def test_a_put_leaves_a_due_time_as_it_is(lab: Lab, put: Callable[..., int | None], wakes: PubSub) -> None:
    lab.due_in(alpha=FAR)
    score = lab.client.zscore(keys.DUE, "alpha")
    assert [put(), put()] == [1, 2]
    assert lab.client.zscore(keys.DUE, "alpha") == score
    assert heard(lab, wakes) == 0


@pytest.mark.parametrize(("delay", "is_kept"), [(FAR, False), (-9000, True)])
def test_an_urgent_put_only_brings_a_due_time_forward(
    lab: Lab, put: Callable[..., int | None], delay: int, is_kept: bool
) -> None:
    lab.due_in(alpha=delay)
    score = lab.client.zscore(keys.DUE, "alpha")
    put(urgent=True)
    assert lab.is_due("alpha")
    assert (lab.client.zscore(keys.DUE, "alpha") == score) is is_kept


def test_an_urgent_put_for_a_session_that_is_not_due_makes_it_due(lab: Lab, put: Callable[..., int | None]) -> None:
    put(urgent=True)
    assert lab.claim_one().name == "alpha"


@pytest.mark.parametrize("urgent", [False, True])
def test_a_put_during_a_claim_has_the_session_looked_at_once_more(
    lab: Lab, put: Callable[..., int | None], urgent: bool
) -> None:
    put()
    session = lab.claim_one()
    put(urgent=urgent)
    lab.give_back((session, None))
    assert lab.claim_one().name == "alpha"
