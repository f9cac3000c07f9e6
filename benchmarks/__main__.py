"""`python -m benchmarks`: choose, run, print, keep."""

import argparse
import ast
import importlib
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.report import BenchmarkError
from benchmarks.stores import Stores

_CASES = sorted(path for path in Path(__file__).with_name("cases").glob("*.py") if path.stem != "__init__")


def main() -> int:
    """Run the chosen benchmarks; return 1 if one could not be measured. A missed target is shown, not an error."""
    known = {path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0] for path in _CASES}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure waqueue and its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (default 3)")
    parser.add_argument("--quick", action="store_true", help="one short round")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"there is no benchmark {unknown[0]}: it is one of {', '.join(known)}")
    if len(arguments.names) == 1:
        return _run(arguments.names[0], 1 if arguments.quick else arguments.rounds, arguments.quick)
    print("\n".join(f"{name:<18} {known[name]}" for name in arguments.names or known))
    # Each in a process of its own, with new servers.
    options = ["--rounds", str(arguments.rounds), *(["--quick"] if arguments.quick else [])]
    codes = [subprocess.call([sys.executable, "-m", "benchmarks", name, *options]) for name in arguments.names or known]
    return max(codes)


def _run(name: str, rounds: int, quick: bool) -> int:
    print(f"\n{name}: measuring", flush=True)
    # A terminated run clears up as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Stores() as stores:
            # Only now are there settings for what it imports.
            result = importlib.import_module(f"benchmarks.cases.{name}").run(stores, rounds=rounds, quick=quick)
    except BenchmarkError as error:
        print(f"\n{name} could not be measured: {error}")
        return 1
    result.show()
    print(f"kept in {result.keep()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
