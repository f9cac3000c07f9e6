"""The fault matrix: which tests prove which row of the table in docs/guarantees.md, and how they ended.

As a plugin (`-p tests.fault_matrix`, also with xdist) it prints the matrix with its verdicts after the tests, and fails
the run when a row is broken or has no test. `python -m tests.fault_matrix` writes the links of the table anew.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
GUARANTEES = TESTS.parent / "docs" / "guarantees.md"
# What stands in the place of links where the thing itself has yet to be built.
LATER = "not yet covered"

_LINE = re.compile(
    r"^\| (?P<number>\d+[a-z]?) \| (?P<breaks>.+?) \| (?P<holds>.+?) \| (?P<proof>.*?) ?\|$", re.MULTILINE
)
_MARK = re.compile(r"""mark\.fault\(["']?(\w+)["']?\)""")
_LINK = re.compile(r"\]\(([^)]+)\)")
_PROPERTY = "fault"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    number: str
    breaks: str
    proof: str

    @property
    def is_later(self) -> bool:
        """Whether nothing can prove it yet."""
        return self.proof == LATER

    @property
    def links(self) -> list[str]:
        """Where its proofs are, as seen from the table."""
        return _LINK.findall(self.proof)


def rows() -> list[Row]:
    """The table, in its order."""
    found = _LINE.finditer(GUARANTEES.read_text("utf-8"))
    return [Row(line["number"], line["breaks"], line["proof"]) for line in found]


def marked() -> dict[str, list[str]]:
    """For each row that a test bears as its mark, the files with such tests, as seen from the table."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for number in sorted(set(_MARK.findall(path.read_text("utf-8")))):
            files[number].append(f"../{path.relative_to(TESTS.parent)}")
    return files


def linked(files: list[str]) -> str:
    """These files as the table shows them."""
    return ", ".join(f"[{_title(file)}]({file})" for file in files)


def _title(file: str) -> str:
    return file.removeprefix("../tests/").removesuffix(".py").replace("test_", "")


def write_links() -> None:
    """Have the table point to the files that prove its rows."""
    proofs = marked()

    def renewed(line: re.Match[str]) -> str:
        proof = line["proof"] if line["proof"] == LATER else linked(proofs.get(line["number"], []))
        return f"| {line['number']} | {line['breaks']} | {line['holds']} | {proof} |"

    GUARANTEES.write_text(_LINE.sub(renewed, GUARANTEES.read_text("utf-8")), "utf-8")


class Matrix:
    """How the tests of each row ended."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def count(self, report: pytest.TestReport) -> None:
        """Take in what became of a test, or of its setting up and clearing away."""
        for name, number in report.user_properties:
            if name == _PROPERTY:
                self.failed[str(number)] += report.failed
                self.passed[str(number)] += report.passed and report.when == "call"

    def verdict(self, row: Row) -> str:
        """What is to be said of a row. One whose tests were all skipped has no proof."""
        if self.failed[row.number]:
            return "BROKEN"
        if self.passed[row.number]:
            return "holds"
        return "later" if row.is_later else "no test"

    @property
    def is_whole(self) -> bool:
        """Whether every row holds that can."""
        return all(self.verdict(row) in ("holds", "later") for row in rows())

    def lines(self) -> Iterator[str]:
        """The matrix, one line a row."""
        table = rows()
        width = max(len(row.breaks) for row in table)
        yield f"{'row':>4}  {'what breaks':<{width}}  tests  verdict"
        for row in table:
            count = self.passed[row.number] + self.failed[row.number]
            yield f"{row.number:>4}  {row.breaks:<{width}}  {count:>5}  {self.verdict(row)}"


_matrix = pytest.StashKey[Matrix]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin with nothing proven."""
    config.stash[_matrix] = Matrix()
    config.pluginmanager.register(_Counting(config.stash[_matrix]))


class _Counting:
    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._matrix.count(report)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each report say which rows it is of: with xdist, the process that counts has never seen the test."""
    for item in items:
        numbers = {str(mark.args[0]) for mark in item.iter_markers("fault")}
        item.user_properties += [(_PROPERTY, number) for number in sorted(numbers)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run also for a row without a test."""
    is_controller = not hasattr(session.config, "workerinput")
    if is_controller and session.exitstatus == pytest.ExitCode.OK and not session.config.stash[_matrix].is_whole:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the matrix."""
    terminalreporter.section("fault matrix")
    for line in config.stash[_matrix].lines():
        terminalreporter.write_line(line)


if __name__ == "__main__":
    write_links()
