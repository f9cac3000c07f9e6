"""procrastinate on PostgreSQL alone, with a lock per session: the one peer that keeps order and is durable."""

from pathlib import Path

from benchmarks.peers import install, rows
from benchmarks.report import Run
from benchmarks.stores import Stores

_HERE = Path(__file__).resolve().parent
# As its documentation has it (docs/howto/concurrency), which advises a pool of one connection more for short jobs.
_CONCURRENCY = "30"


def measure(stores: Stores, sessions: int, each: int) -> Run:
    """Run `sessions` x `each` jobs with one worker."""
    bin_dir = install.from_pypi("procrastinate", "procrastinate==3.10.0", "psycopg[binary]==3.3.9")
    stores.reset()
    rows.make(stores, sessions * each)
    environ = {"PEER_CONCURRENCY": _CONCURRENCY}
    fill: list[str | Path] = [bin_dir / "python", "procrastinate_tasks.py", str(sessions), str(each)]
    stores.run(fill, cwd=_HERE, environ=environ).wait(300)
    stores.database.execute("VACUUM (ANALYZE)")
    argv: list[str | Path] = [bin_dir / "python", "-m", "procrastinate", "--app", "procrastinate_tasks.app", "worker"]
    options = ["--concurrency", _CONCURRENCY, "--delete-jobs", "successful"]
    worker = stores.run([*argv, *options], cwd=_HERE, environ=environ)
    run = rows.wait(stores, worker, sessions * each, 300)
    worker.kill()
    return run
