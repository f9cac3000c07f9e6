"""What a benchmark found: a table for people, JSON for machines."""

import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

_RESULTS = Path(__file__).resolve().parent / "results"


class BenchmarkError(Exception):
    """A benchmark could not be measured."""


@dataclass(slots=True)
class Run:
    """One measured run of one side."""

    messages: int
    seconds: float
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds


@dataclass(slots=True)
class Line:
    """One row of the table: a value of every round, and what it should be at least or at most.

    The median is judged, or with `always` each round.
    """

    what: str
    values: list[float]
    unit: str = "messages/s"
    at_least: float | None = None
    at_most: float | None = None
    always: bool = False

    @property
    def median(self) -> float:
        """The middle one of the rounds."""
        return statistics.median(self.values)

    @property
    def target(self) -> str:
        """What it should be, as text."""
        if self.at_least is not None:
            return f">= {_number(self.at_least)}"
        return f"<= {_number(self.at_most)}" if self.at_most is not None else ""

    @property
    def verdict(self) -> str:
        """Whether it is what it should be."""
        if self.at_least is None and self.at_most is None:
            return ""
        judged = self.values if self.always else [self.median]
        is_met = (self.at_least is None or min(judged) >= self.at_least) and (
            self.at_most is None or max(judged) <= self.at_most
        )
        return "met" if is_met else "MISSED"


@dataclass(slots=True)
class Result:
    """Everything that one benchmark found. `notes` say what a reader has to know, one sentence each."""

    name: str
    lines: list[Line]
    notes: list[str] = field(default_factory=list)

    def show(self) -> None:
        """Print the table."""
        rows = [("", "median", "least", "greatest", "unit", "target", "")]
        for line in self.lines:
            least, greatest = _number(min(line.values)), _number(max(line.values))
            rows.append((line.what, _number(line.median), least, greatest, line.unit, line.target, line.verdict))
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        print(f"\n{self.name}")
        for row in rows:
            cells = [cell.rjust(width) if at in (1, 2, 3) else cell.ljust(width)
                     for at, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
            print("  " + "  ".join(cells).rstrip())
        for note in self.notes:
            print(f"  - {note}")

    def keep(self) -> Path:
        """Write the JSON; return where."""
        _RESULTS.mkdir(exist_ok=True)
        path = _RESULTS / f"{self.name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        found = {
            "name": self.name,
            "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
            "lines": [
                {
                    "what": line.what, "unit": line.unit, "median": line.median, "values": line.values,
                    "target": line.target, "verdict": line.verdict,
                }
                for line in self.lines
            ],
            "notes": self.notes,
        }  # fmt: skip
        path.write_text(json.dumps(found, indent=2) + "\n")
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
