"""Celery on Redis with two prefork processes. It keeps no order; all messages are in one queue."""

from pathlib import Path

from benchmarks.peers import install, rows
from benchmarks.report import Run
from benchmarks.stores import Stores

_HERE = Path(__file__).resolve().parent


def measure(stores: Stores, count: int) -> Run:
    """Run `count` tasks."""
    bin_dir = install.from_pypi("celery", "celery[redis]==5.7.0", "psycopg[binary]==3.3.9")
    stores.reset()
    rows.make(stores, count)
    stores.run([bin_dir / "python", "celery_tasks.py", str(count)], cwd=_HERE).wait(300)
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    argv: list[str | Path] = [bin_dir / "celery", "-A", "celery_tasks", "worker", "--pool", "prefork"]
    worker = stores.run([*argv, "--concurrency", "2", *quiet], cwd=_HERE)
    run = rows.wait(stores, worker, count, 900)
    worker.kill()
    return run
