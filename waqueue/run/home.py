"""WAQUEUE_HOME: the folder that keeps everything that a run must find again."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from waqueue.embedded.system import hold_lock, keep_secret, write_private

from .configuration import RunError, home_of

_ENVIRONMENT = "environment"
_PUBLISHED = ("DATABASE_URL", "REDIS_URL", "WAQUEUE_SECRET_KEY")


class Home:
    """The folder, locked for this run, with the secrets in it: files that only their owner reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_file = path / "waqueue.lock"

    def open(self) -> None:
        """Make the folder if need be, close it to others, and lock it against a second run."""
        try:
            self._make()
            lock = hold_lock(self._lock_file)
        except OSError as error:
            raise RunError(
                f"WAQUEUE_HOME cannot be {self.path} ({error.strerror}): choose a folder that you may write to"
            ) from error
        if lock is None:
            raise RunError(f"another `make run` uses {self.path}: stop that one, or set WAQUEUE_HOME to another folder")

    def secret_key(self) -> str:
        """Return the key that signs sessions and seals secrets, made once."""
        return keep_secret(self.path / "secret-key", n_bytes=48)

    def credential(self, name: str) -> str | None:
        """Return a kept credential, or None if it has not been made yet."""
        path = self.path / name
        return path.read_text(encoding="utf-8").strip() if path.exists() else None

    def keep_credential(self, name: str, value: str) -> None:
        """Keep a credential for the next runs."""
        write_private(self.path / name, f"{value}\n")

    def forget_credentials(self, *names: str) -> None:
        """Drop credentials whose database is gone."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def publish(self, environ: Mapping[str, str]) -> None:
        """Let commands that are given beside this run find its stores: see `environment_of_run`."""
        write_private(self.path / _ENVIRONMENT, json.dumps({name: environ[name] for name in _PUBLISHED}))

    def withdraw(self) -> None:
        """There is nothing to be found any more."""
        (self.path / _ENVIRONMENT).unlink(missing_ok=True)

    def _make(self) -> None:
        # As root, PostgreSQL runs under another account and has to walk through; it can list nothing then, and
        # every file and folder inside is closed by its own mode.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        if not self.path.exists():
            self.path.mkdir(mode=mode, parents=True)
            self.path.chmod(mode)
            return
        info = self.path.stat()
        is_ours = self._lock_file.exists() or not any(self.path.iterdir())
        if is_ours and info.st_uid == os.geteuid() and not info.st_mode & stat.S_ISVTX:
            self.path.chmod(mode)
        elif info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            # A folder of somebody's own: its mode is not ours to change, but others could exchange our files there.
            raise RunError(f"others may write to WAQUEUE_HOME {self.path}: run chmod go-w on it, or choose another one")


def environment_of_run(environ: Mapping[str, str]) -> dict[str, str]:
    """What `environ` lacks to use the stores of the `make run` of this WAQUEUE_HOME; nothing when none runs.

    Nor when it names stores itself: those of two places are never mixed.
    """
    file = home_of(environ) / _ENVIRONMENT
    if environ.get("DATABASE_URL") or environ.get("REDIS_URL") or not file.exists():
        return {}
    published = json.loads(file.read_text(encoding="utf-8"))
    return {name: value for name, value in published.items() if not environ.get(name)}
