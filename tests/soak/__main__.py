"""The soak's command: soak, count, and say by the exit code whether every promise was kept."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import wait_until
from tests.soak import aftermath, arguments, check, logs, plan, report
from tests.soak.client import Web
from tests.soak.engine import KEY, Engine
from tests.soak.facts import Facts
from tests.soak.monkey import Monkey
from tests.soak.person import Person
from tests.soak.stage import SEND_SECONDS, Stage
from tests.soak.traffic import Traffic

_POLICIES = ("hold", "hold_session", "resend", "hold", "resend", "hold")
# A cap that no soak reaches, or all would wait for an hour: what is looked at is whether everything counts towards it.
_UNREACHED = {"hourly_cap": 100_000}
_PACES = (
    {"min_interval_ms": 200, "max_interval_ms": 400},
    {"min_interval_ms": 300, "max_interval_ms": 1000, "per_recipient_ms": 3000} | _UNREACHED,
    {"per_recipient_ms": 3000} | _UNREACHED,
)
_LAST_ANSWERS_SECONDS = 60.0


@dataclass
class Log:
    """Lines with the time since the start, on the terminal and in a file."""

    path: Path
    start: float = field(default_factory=time.monotonic)

    def __call__(self, line: str) -> None:
        """Write a line."""
        print(f"{time.monotonic() - self.start:6.1f}  {line}", flush=True)
        with self.path.open("a") as file:
            file.write(f"{time.time():.3f}  {line}\n")


def main() -> int:
    """Run one soak."""
    given = arguments.parse()
    folder: Path = given.folder or Path("var") / f"soak-{given.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.log"), *folder.glob("*.json")):
        old.unlink()
    say = Log(folder / "soak.log")
    say(f"soak of {given.minutes:g} minutes, seed {given.seed}, logs in {folder}")
    # What a shell has set for a real waqueue must not reach this one.
    for name in [name for name in os.environ if name.startswith("WAQUEUE_") and not name.startswith("WAQUEUE_TEST_")]:
        del os.environ[name]
    # A terminated run clears up as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    counts, is_kept, missing = _soak(given, folder, say)
    (folder / "summary.json").write_text(json.dumps(counts, indent=2) + "\n")
    for line in report.table(counts):
        say(line)
    code, verdict = report.verdict(is_kept, missing, arguments.again(given))
    say(f"seed {given.seed}: {verdict}")
    return code


def _soak(given: argparse.Namespace, folder: Path, say: Log) -> tuple[dict[str, object], bool, list[str]]:
    seconds = given.minutes * 60
    acts = plan.make(given.seed, seconds)
    names = [f"s{number:03d}" for number in range(given.sessions)]
    policies = {name: _POLICIES[at % len(_POLICIES)] for at, name in enumerate(names)}
    # WAHA's own pace is a minute a message: most go without any, some of those that have less to send with one.
    paced = [at for at in range(len(names)) if at > len(names) / 6 and at % 5 == 4]
    paces = {names[at]: _PACES[at % len(_PACES)] for at in paced}
    engine = Engine(given.seed)
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(engine.stop)
        engine.start(names)
        stage = Stage(folder, plan.WORKERS)
        at_the_end.callback(stage.close)
        web = Web(stage.port, stage.start())
        wait_until(web.is_up, 60, "the web server answers")
        _make_sessions(web, engine, policies, paces)
        traffic, person = Traffic(web, names, given.seed), Person(web, engine, policies, given.seed)
        monkey = Monkey(stage, engine, [names[at :: plan.GROUPS] for at in range(plan.GROUPS)], say)
        traffic.start()
        person.start()
        say(f"{len(names)} sessions, {plan.WORKERS} workers; the monkey has {len(acts)} acts in mind")
        monkey.follow(acts, seconds)
        say("the monkey stops; everything is healed")
        monkey.heal()
        wait_until(web.is_up, 60, "the web server answers")
        monkey.plant()
        person.pause_no_more()
        remains = traffic.stop(_LAST_ANSWERS_SECONDS)
        say(f"traffic has stopped: {dict(traffic.counts)}; the person: {dict(person.counts)}")
        remains += aftermath.wait_until_quiet(stage, given.settle_seconds, say)
        remains += person.stop()
        remains += aftermath.read_remains(stage, monkey)
        remains += aftermath.end_processes(stage)
        remains += logs.faults(folder)
        facts = Facts(
            SEND_SECONDS, list(traffic.promises), list(engine.entries), aftermath.read_rows(stage), policies,
            _least(paces, "min_interval_ms"), _least(paces, "per_recipient_ms"), aftermath.read_counted(stage),
            person.resent, person.given_up, person.retried, person.pauses, remains,
            traffic.cancelled, monkey.at, monkey.effects,
        )  # fmt: skip
        found = check.violations(facts)
        for line in report.details(facts, found):
            say(line)
        told = {"traffic": dict(traffic.counts), "person": dict(person.counts), "acts": monkey.done}
        counts = {"seed": given.seed, "minutes": given.minutes} | told | report.summary(facts, found)
        return counts, not found, check.missing(facts)


def _make_sessions(web: Web, engine: Engine, policies: dict[str, str], paces: dict[str, dict[str, int]]) -> None:
    for name, policy in policies.items():
        reply = web.call(
            "POST",
            "/sessions",
            {
                "name": name,
                "transport": "waha",
                "config": {"base_url": engine.url, "api_key": KEY},
                "pacing": {"min_interval_ms": 0, "max_interval_ms": 0, "daily_cap": 0} | paces.get(name, {}),
                "on_uncertain": policy,
            },
        )
        assert reply.status == 201, reply


def _least(paces: dict[str, dict[str, int]], which: str) -> dict[str, float]:
    """How long each session that has such a pace waits at least, in seconds."""
    return {name: pace[which] / 1000 for name, pace in paces.items() if which in pace}


if __name__ == "__main__":
    sys.exit(main())
