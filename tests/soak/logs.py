"""What must never be in the logs, whatever was broken: an outage is told in one line, and by workers as a warning."""

import re
from pathlib import Path

_TRACEBACK = re.compile(r"^Traceback \(.*\n(?:(?:[ \t].*)?\n)*(?P<what>.*)", re.MULTILINE)
_FAULTS: dict[str, tuple[str, re.Pattern[str]]] = {
    "tracebacks": ("*.log", _TRACEBACK),
    "errors": ("worker-*.log", re.compile(r"^\S+ \[(?:error|critical) *\] (?P<what>.*)", re.MULTILINE)),
    # What PostgreSQL is away for is answered with 503, and logged as an error too.
    "answers with 500": ("web.log", re.compile(r"request_finished (?P<what>.*\bcode=500\b.*)")),
    # Gunicorn starts others in the place of those that end by themselves, and says only this.
    "ends of web processes": (
        "web.log", re.compile(r"(?P<what>WORKER TIMEOUT.*|Worker \(pid:\d+\) (?:was sent|exited with).*)")
    ),
}  # fmt: skip


def faults(folder: Path) -> list[str]:
    """Each kind of fault in each log, how many there are, and the first of them."""
    found = []
    for what, (pattern, sought) in _FAULTS.items():
        for log in sorted(folder.glob(pattern)):
            all_of_them = list(sought.finditer(log.read_text("utf-8", "replace")))
            if log.name != "soak.log" and all_of_them:
                found.append(f"{log.name}: {len(all_of_them)} {what}, the first: {all_of_them[0]['what']}")
    return found
