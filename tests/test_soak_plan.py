"""The plan of a soak: the same for the same seed, with each thing that can be broken in it, and nothing left broken."""

import shlex
from unittest.mock import MagicMock

import pytest
import redis

from tests.soak import arguments, plan
from tests.soak.monkey import Monkey

_ENDS = {
    "worker.kill": "worker.start",
    "worker.freeze": "worker.thaw",
    "web.kill": "web.start",
    "redis.kill": "redis.start",
    "redis.slow": "redis.fast",
    "postgres.slow": "postgres.fast",
    "postgres.kill": "postgres.start",
    "engine.disconnect": "engine.connect",
    "engine.hang": "engine.answer",
}


def test_a_seed_gives_one_plan_and_another_seed_another() -> None:
    assert plan.make(7, 120) == plan.make(7, 120)
    assert plan.make(7, 120) != plan.make(8, 120)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("minutes", [0.5, 2, 10])
def test_it_is_in_order_and_whatever_it_begins_ends_in_time(seed: int, minutes: float) -> None:
    acts = plan.make(seed, minutes * 60)
    assert acts == sorted(acts)
    assert all(0 < act.at <= minutes * 60 for act in acts)
    for begun in acts:
        if end := _ENDS.get(begun.name):
            assert any((act.name, act.target) == (end, begun.target) and act.at >= begun.at for act in acts), begun


@pytest.mark.parametrize("seed", range(20))
def test_two_minutes_hold_everything_that_the_monkey_can_do(seed: int) -> None:
    monkey = Monkey(MagicMock(), MagicMock(), [], print)
    assert {act.name for act in plan.make(seed, 120)} == monkey.knows


def test_every_worker_is_hit_sooner_or_later() -> None:
    killed = {act.target for act in plan.make(1, 600) if act.name == "worker.kill"}
    assert killed == set(range(plan.WORKERS))


@pytest.mark.parametrize(
    "words",
    [
        ["--minutes", "2", "--seed", "7"],
        ["--minutes", "0.123456789", "--seed", "7", "--sessions", "30", "--settle-seconds", "1234567.5"],
    ],
)
def test_the_command_of_a_run_makes_the_same_run(words: list[str]) -> None:
    make, soak, given = shlex.split(arguments.again(arguments.parse(words)))
    assert (make, soak) == ("make", "soak")
    assert given.removeprefix("SOAK_ARGS=").split() == words


def test_an_act_that_was_not_possible_took_no_effect() -> None:
    stage = MagicMock()
    stage.start_web.side_effect = redis.ConnectionError
    monkey = Monkey(stage, MagicMock(), [], print)
    monkey.follow([plan.Act(0, "web.kill"), plan.Act(0, "web.start")], 0)
    assert (monkey.done, monkey.effects) == (2, 1)
    began_at, ended_at = monkey.at
    assert 0 < began_at <= ended_at
