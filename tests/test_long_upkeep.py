"""How the process ends in which very many messages are reconciled: what it has said is not written down again."""

import os
import sys
from collections.abc import Callable

import pytest

from sessions_app.exceptions import QueueUnavailable
from sessions_app.worker import long_upkeep


def _unavailable() -> None:
    raise QueueUnavailable("Redis is away")


def _wrong() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("act", [_unavailable, _wrong])
def test_what_it_has_said_itself_is_not_taken_for_its_death(
    act: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.setattr(long_upkeep, "collect_seldom", lambda: None)
    monkeypatch.setitem(long_upkeep._ACTS, "reconcile", act)
    monkeypatch.setattr(sys, "argv", ["-c", "reconcile"])
    with pytest.raises(SystemExit) as ended:
        long_upkeep.main()
    assert ended.value.code == os.EX_TEMPFAIL != 1
