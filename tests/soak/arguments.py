"""What the soak's command is given, and how to give it the same once more."""

import argparse
import secrets
from collections.abc import Sequence
from pathlib import Path

_SESSIONS = 200
_SETTLE_SECONDS = 240.0


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read them from the command line, or from `words`."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Soak, count, and say what was broken.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the monkey is let loose (default: 10)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="of a run that is to be repeated")
    parser.add_argument("--sessions", type=int, default=_SESSIONS)
    parser.add_argument(
        "--settle-seconds", type=float, default=_SETTLE_SECONDS, help="how long to wait afterwards for all to end"
    )
    parser.add_argument("--folder", type=Path, help="for logs and summary.json (default: var/soak-<seed>)")
    return parser.parse_args(words)


def again(given: argparse.Namespace) -> str:
    """The command of the same soak: all that the plan, the traffic or the verdict depends on, to the last digit."""
    words = [f"--minutes {_digits(given.minutes)} --seed {given.seed}"]
    if given.sessions != _SESSIONS:
        words.append(f"--sessions {given.sessions}")
    if given.settle_seconds != _SETTLE_SECONDS:
        words.append(f"--settle-seconds {_digits(given.settle_seconds)}")
    return f'make soak SOAK_ARGS="{" ".join(words)}"'


def _digits(number: float) -> str:
    return repr(number).removesuffix(".0")
