"""`python -m benchmarks.acts NAME [ARGUMENT ...]`: one act of reconciliation in a process of its own, weighed."""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import Run
from benchmarks.stores import Stores


def measure(stores: Stores, name: str, *arguments: object) -> Run:
    """Run an act; return how long it took and how many messages it says it was about, with its peak memory."""
    process = stores.run([sys.executable, "-m", "benchmarks.acts", name, *map(str, arguments)])
    process.wait(900)
    found = json.loads(process.log.read_text().splitlines()[-1])
    return Run(found.pop("messages"), found.pop("seconds"), found)


def _compare() -> int:
    from sessions_app.models import Message
    from sessions_app.reconciliation.compare import compare
    from sessions_app.reconciliation.report import Report

    report = Report()
    compare(report)
    if report.findings:
        raise SystemExit(f"there is nothing to be found, but {report.counts} was")
    return int(Message.objects.open().count())


def _reconcile() -> int:
    from sessions_app.models import ReconciliationOutcome, Trigger
    from sessions_app.reconciliation.run import reconcile

    run = reconcile(Trigger.COMMAND)
    if run is None or run.outcome != ReconciliationOutcome.REPAIRED:
        raise SystemExit(f"not everything was put right: {run and run.outcome}")
    return int(run.findings.count())


def _rebuild() -> int:
    from sessions_app.queues import inspect
    from sessions_app.queues.connection import upkeep_client
    from sessions_app.reconciliation.rebuild import rebuild

    # As patient as a worker: Redis may still be emptying itself.
    return rebuild(inspect.establish_generation(client=upkeep_client())) or 0


def _archive(orphan_id: str) -> int:
    from sessions_app.models import Orphan
    from sessions_app.services import orphans

    return int(orphans.archive(Orphan.objects.get(pk=orphan_id)).messages)


def _restore(orphan_id: str, session_name: str) -> int:
    from sessions_app.models import Orphan, Session
    from sessions_app.services import orphans

    session = Session.objects.get(name=session_name)
    return orphans.restore(Orphan.objects.get(pk=orphan_id), session, actor=_actor()).restored


def _purge(orphan_id: str, expected: str) -> int:
    from sessions_app.models import Orphan
    from sessions_app.services import orphans

    return orphans.purge(Orphan.objects.get(pk=orphan_id), expected=int(expected), actor=_actor())


def _actor() -> Any:
    from sessions_app.services.audit import Actor

    return Actor.command("benchmarks")


_ACTS: dict[str, Callable[..., int]] = {
    "compare": _compare, "reconcile": _reconcile, "rebuild": _rebuild,
    "archive": _archive, "restore": _restore, "purge": _purge,
}  # fmt: skip


def _peak_mb() -> float:
    """The most memory that this process ever had: `getrusage` would tell of its parent's too."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    """Do the act that the command line names and print what it took."""
    import django

    django.setup()
    from django.db import connection

    from benchmarks import transports
    from waqueue.garbage import collect_seldom

    transports.register()
    connection.ensure_connection()
    # As every process of waqueue that does these.
    collect_seldom()
    begin, cpu = time.monotonic(), time.process_time()
    messages = _ACTS[sys.argv[1]](*sys.argv[2:])
    print(
        json.dumps({
            "messages": messages, "seconds": time.monotonic() - begin, "cpu_s": time.process_time() - cpu,
            "memory_peak_mb": _peak_mb(),
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
