"""The Lua scripts, read once from `lua/`. Everything that must be atomic in Redis is one of them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its text, and the SHA-1 by which Redis knows it once loaded."""

    text: str
    sha: str


def _load(name: str) -> Script:
    text = (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


PUT = _load("put")
SIGNAL = _load("signal")
CLAIM = _load("claim")
GIVE_BACK = _load("give_back")
TAKE_OUT = _load("take_out")
TAKE_OUT_AT = _load("take_out_at")
RENAME_AWAY = _load("rename_away")
SWAP = _load("swap")
FORGET_NAME = _load("forget_name")
DROP_JOBS = _load("drop_jobs")
READ_JOBS = _load("read_jobs")
FIRST_ENTRY = _load("first_entry")
