"""What `make faults` counts, on suites of a few lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Run
from tests.fault_count import BEGIN, END, FaultCount, fault_class

SUITE = """
import pytest

@pytest.mark.fault("a full disk")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_full(size):
    assert size != {bad}

@pytest.mark.fault("a lost page")
def test_lost():
    pass

@pytest.mark.fault("a missing device")
def test_missing():
    pytest.skip("no device")

def test_ordinary():
    pass
"""
CONFTEST = """
import sys
sys.path.insert(0, {root!r})
from tests.fault_count import FaultCount

def pytest_configure(config):
    config.addinivalue_line("markers", "fault(class): a fault")
    config.pluginmanager.register(FaultCount())
"""


def counted(run: Run, folder: Path, suite: str) -> tuple[int, list[str]]:
    root = str(Path(__file__).parents[1])
    (folder / "conftest.py").write_text(CONFTEST.format(root=root))
    (folder / "test_it.py").write_text(suite)
    (folder / "pytest.ini").touch()
    done = run(["-m", "pytest", "-m", "fault", "-p", "no:hypothesispytest"], module="")
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_parameter_values_are_cases_and_what_was_skipped_is_not_counted(
    run: Run, tmp_path: Path
) -> None:
    code, lines = counted(run, tmp_path, SUITE.format(bad=0))
    assert code == 0
    assert lines[-5:] == [
        "cases  failure class",
        "    3  a full disk",
        "    1  a lost page",
        "skipped: 1 of 'a missing device'",
        "2 failure classes, 4 cases, 0 failed",
    ]


def test_a_page_gets_the_table_between_its_marks(tmp_path: Path) -> None:
    page, count = tmp_path / "page.md", FaultCount()
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    count.passed.update({"b": 2, "a": 1})
    for _ in range(2):
        count.write_table(page)
        lines = page.read_text().splitlines()
        assert lines[:2] == ["before", BEGIN] and lines[-2:] == [END, "after"]
        assert [line for line in lines[2:-2] if line] == [
            "| failure class | cases |",
            "| --- | --- |",
            "| a | 1 |",
            "| b | 2 |",
            "2 failure classes, 3 cases, 0 failed",
        ]
    page.write_text("no marks")
    with pytest.raises(pytest.UsageError, match="has no lines"):
        count.write_table(page)


def test_a_failed_case_is_named_and_ends_with_an_error(run: Run, tmp_path: Path) -> None:
    code, lines = counted(run, tmp_path, SUITE.format(bad=2))
    assert code == 1
    assert "    3  a full disk  (1 FAILED)" in lines
    assert lines[-1] == "2 failure classes, 4 cases, 1 failed"


@pytest.mark.parametrize("arguments", [(), (3,), ("a", "b")])
def test_a_marker_without_one_name_is_refused(
    arguments: tuple, request: pytest.FixtureRequest
) -> None:
    request.node.add_marker(pytest.mark.fault.with_args(*arguments))
    with pytest.raises(pytest.UsageError, match=r"expected @pytest\.mark\.fault"):
        fault_class(request.node)
