"""docs/guarantees.md promises what tests prove: no row without a test, no proof that is not listed, no dead link."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fault_matrix
from tests.fault_matrix import GUARANTEES, TESTS, Matrix, Row, linked, marked, rows

ADVICE = "run `python -m tests.fault_matrix`"


def test_every_row_that_a_test_is_marked_with_stands_in_the_table_once() -> None:
    numbers = [row.number for row in rows()]
    assert len(numbers) == len(set(numbers)) > 30
    assert set(marked()) - set(numbers) == set()


def test_every_row_has_a_test_or_is_said_to_be_without() -> None:
    assert [row.number for row in rows() if row.number not in marked() and not row.is_later] == []


def test_what_is_said_to_be_without_a_test_has_none() -> None:
    assert [row.number for row in rows() if row.is_later and row.number in marked()] == []


def test_no_test_bears_the_same_mark_twice() -> None:
    borne = {test: marks for path in sorted(TESTS.rglob("test_*.py")) for test, marks in marks_of_tests(path)}
    assert sum(map(bool, borne.values())) > 100
    assert [test for test, marks in borne.items() if len(marks) != len(set(marks))] == []


def marks_of_tests(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each test of a file with the rows that it is marked with, itself or with all of its file."""
    module = ast.parse(path.read_text("utf-8"))
    of_all = [
        number
        for statement in module.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark"
        for number in fault_matrix._MARK.findall(ast.unparse(statement.value))
    ]
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            # Those of one of its parameters stand within a longer decorator.
            own = [
                found[1]
                for decorator in node.decorator_list
                if (found := fault_matrix._MARK.fullmatch(ast.unparse(decorator).removeprefix("pytest.")))
            ]
            yield f"{path.relative_to(TESTS)}::{node.name}", of_all + own


def test_each_row_links_to_the_files_that_prove_it_and_to_no_others() -> None:
    proofs = marked()
    wrong = [row.number for row in rows() if not row.is_later and row.proof != linked(proofs.get(row.number, []))]
    assert wrong == [], ADVICE


def test_no_link_leads_nowhere() -> None:
    links = fault_matrix._LINK.findall(GUARANTEES.read_text("utf-8"))
    assert [link for link in links if not (GUARANTEES.parent / link.partition("#")[0]).exists()] == []


def report(*numbers: str, outcome: str = "passed", when: str = "call") -> pytest.TestReport:
    properties = [("fault", number) for number in numbers]
    return pytest.TestReport("t", ("t", 1, "t"), {}, outcome, None, when, user_properties=properties)  # type: ignore[arg-type]


def test_the_verdict_of_a_row_is_that_of_its_worst_test() -> None:
    matrix = Matrix()
    for one in (
        report("1"), report("1", when="setup"), report("2"), report("2", "3", outcome="failed"),
        report("4", outcome="skipped"), report("5", when="setup"), report("6"),
        report("6", outcome="failed", when="teardown"),
    ):  # fmt: skip
        matrix.count(one)
    verdicts = {number: matrix.verdict(Row(number, "", "")) for number in "123456"}
    assert verdicts == {
        "1": "holds", "2": "BROKEN", "3": "BROKEN", "4": "no test", "5": "no test", "6": "BROKEN",
    }  # fmt: skip
    assert matrix.verdict(Row("7", "", "not yet covered")) == "later"
    assert not matrix.is_whole
