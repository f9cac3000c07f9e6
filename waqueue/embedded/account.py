"""The OS account that PostgreSQL runs under when we are root, which it refuses to be, and the folders it can reach."""

import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .system import ServerError, spawn

NAME = "waqueue-postgres"


@dataclass(frozen=True)
class Account:
    """An unprivileged account to run a program as."""

    uid: int
    gid: int

    def popen_arguments(self) -> dict[str, Any]:
        """Return what makes `subprocess` run a program as this account, with no other groups of ours."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def choose_account(data_dir: Path) -> Account | None:
    """Return the account to run PostgreSQL as: None for our own, and as root the data's owner or one made for it."""
    if os.geteuid() != 0:
        return None
    if data_dir.exists() and (owner := data_dir.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    return _own_account()


def _own_account() -> Account:
    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        _make_account()
        entry = pwd.getpwnam(NAME)
    return Account(entry.pw_uid, entry.pw_gid)


def _make_account() -> None:
    program = shutil.which("useradd")
    advice = f"make an account named {NAME}, run as an ordinary user, or set DATABASE_URL"
    if program is None:
        raise ServerError(f"PostgreSQL refuses to run as root and there is no useradd to make it an account: {advice}")
    options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/false"]
    process = spawn([program, *options, NAME], when_parent_dies=signal.SIGTERM, stderr=subprocess.PIPE)
    _, complaint = process.communicate()
    # 9: two that started at the same moment both wanted it, and the other one made it.
    if process.returncode not in (0, 9):
        reason = (complaint.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise ServerError(f"PostgreSQL refuses to run as root and making it an account failed ({reason}): {advice}")


def folder_elsewhere(folder: Path) -> Path:
    """Make and return a folder that every account can walk to, for data whose own folder an account cannot reach.

    Its name comes from the folder's path, so the same home finds the same data again.
    """
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    for place in (Path("/var/lib/waqueue") / name, Path("/var/tmp") / f"waqueue-{name}"):  # noqa: S108 - checked below
        try:
            place.mkdir(parents=True, exist_ok=True)
            info = place.lstat()
        except OSError:
            continue
        # In a folder that all may write to, somebody else could have been there first.
        if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid():
            place.chmod(0o711)
            return place
    raise ServerError(
        "neither /var/lib nor /var/tmp takes the data of PostgreSQL: free some space, or set DATABASE_URL"
    )
