"""Peers in environments of their own, made at their first use."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import BenchmarkError

_FOLDER = Path(__file__).resolve().parents[1] / ".peers"


def from_pypi(name: str, *requirements: str) -> Path:
    """Return the folder of the programs of a virtual environment that holds these packages."""
    folder = _FOLDER / name
    if _is_made(folder, requirements):
        return folder / "bin"
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], name)
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements], name)
    _note(folder, requirements)
    return folder / "bin"


def from_npm(name: str, *requirements: str) -> Path:
    """Return the folder whose `node_modules` holds these packages."""
    folder = _FOLDER / name
    if not _is_made(folder, requirements):
        folder.mkdir(parents=True, exist_ok=True)
        _run(["npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(folder), *requirements], name)
        _note(folder, requirements)
    return folder


def has_node() -> bool:
    """Whether Node.js and npm are there."""
    return shutil.which("node") is not None and shutil.which("npm") is not None


def _is_made(folder: Path, requirements: Sequence[str]) -> bool:
    note = folder / "installed"
    return note.exists() and note.read_text() == "\n".join(requirements)


def _note(folder: Path, requirements: Sequence[str]) -> None:
    (folder / "installed").write_text("\n".join(requirements))


def _run(argv: Sequence[str], name: str) -> None:
    print(f"  installing {name} (once)", flush=True)
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"{name} could not be installed: {done.stderr.strip()[-500:]}")
