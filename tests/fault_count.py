"""Counts the faults that the suite injects: `@pytest.mark.fault("class")`, shown by `make faults`.

A class is one way of failing, such as "a full disk"; the values of a parametrised test are cases
of it. What was skipped counts neither as a case nor towards a class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PROPERTY = "fault"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def fault_class(item: pytest.Item) -> str | None:
    """The class that a test is marked with, None for a test that injects no fault.

    Raises:
        pytest.UsageError: the marker has something else than one text.
    """
    marker = item.get_closest_marker("fault")
    if marker is None:
        return None
    if len(marker.args) != 1 or not isinstance(marker.args[0], str) or marker.kwargs:
        raise pytest.UsageError(
            f'{item.nodeid}: fault{marker.args}; expected @pytest.mark.fault("the class\'s name")'
        )
    return marker.args[0]


class FaultCount:
    """A plugin of pytest: which fault classes ran, and how they ended.

    Attributes:
        passed, failed, skipped: cases by class.
    """

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self._bad: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if name := fault_class(item):
                item.user_properties.append((PROPERTY, name))  # reports of workers have it too

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = dict(report.user_properties).get(PROPERTY)
        if name is None:
            return
        if report.skipped:
            self.skipped[name] += 1
        elif report.failed and report.nodeid not in self._bad:
            self._bad.add(report.nodeid)
            self.failed[name] += 1
            if report.when == "teardown":
                self.passed[name] -= 1
        elif report.passed and report.when == "call":
            self.passed[name] += 1

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        yield  # pytest's own summary
        if hasattr(session.config, "workerinput"):
            return  # a worker's reports reach the process that started it, which counts them all
        terminal = session.config.get_terminal_writer()
        words = session.config.getoption("markexpr").replace("(", " ").split()
        if self.lines() and "fault" in words:
            for line in self.lines():
                terminal.line(line)
        page = session.config.getoption("fault_table", None)
        if page is not None and self.passed and not session.testsfailed:
            self.write_table(page)

    def write_table(self, page: Path) -> None:
        """Put the classes and their cases between the marks of a Markdown page."""
        before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise pytest.UsageError(f"{page} has no lines {BEGIN} and {END}")
        rows = [f"| {name} | {cases} |" for name, cases in sorted(self.passed.items()) if cases]
        table = "\n".join(["| failure class | cases |", "| --- | --- |", *rows])
        text = f"{before}{begin}\n\n{table}\n\n{self.lines()[-1]}\n\n{end}{after}"
        page.write_text(text, encoding="utf-8")

    def lines(self) -> list[str]:
        """The table and the line of totals; empty when no fault was injected."""
        cases = self.passed + self.failed
        if not cases:
            return []
        out = [f"{'cases':>5}  failure class"]
        for name in sorted(cases):
            bad = f"  ({self.failed[name]} FAILED)" if self.failed[name] else ""
            out.append(f"{cases[name]:>5}  {name}{bad}")
        out += [f"skipped: {count} of {name!r}" for name, count in sorted(self.skipped.items())]
        total, failed = sum(cases.values()), sum(self.failed.values())
        return [*out, f"{len(cases)} failure classes, {total} cases, {failed} failed"]
