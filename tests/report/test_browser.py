"""The page in a browser: nothing is cut off, nothing is fetched, on a phone and in the dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import Browser, executable

if executable() is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)

# Elements that reach beyond the page, unless a box of their own scrolls them.
OUTSIDE = """
[...document.querySelectorAll("body *")].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width && !element.closest(".scroll, svg, .facts caption")
        && (box.right > innerWidth + 1 || box.left < -1);
}).map(element => element.tagName + " " + element.textContent.slice(0, 40))
"""
# Texts of a drawing that reach beyond it.
CUT = """
[...document.querySelectorAll("svg text")].filter(text => {
    const box = text.getBoundingClientRect();
    const frame = text.closest("svg").getBoundingClientRect();
    return box.right > frame.right + 1 || box.left < frame.left - 1
        || box.bottom > frame.bottom + 1 || box.top < frame.top - 1;
}).map(text => text.textContent)
"""
# Cells whose words do not fit into them, and boxes that hide what they cannot show.
SPILLED = """
[...document.querySelectorAll("th, td, p, h1, h2, h3, figcaption, .scroll")].filter(element =>
    element.scrollWidth > element.clientWidth + 1
    && !["auto", "scroll"].includes(getComputedStyle(element).overflowX)
).map(element => element.tagName + " " + element.textContent.slice(0, 40))
"""
SMALLEST = """
Math.min(...[...document.querySelectorAll("svg text")].map(
    text => text.getScreenCTM().d * parseFloat(getComputedStyle(text).fontSize)
).filter(size => size > 0))
"""
CONTRAST = """
(() => {
    const light = colour => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(part => {
            const share = part / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const ground = light(getComputedStyle(document.body).backgroundColor);
    const against = colour => {
        const [low, high] = [ground, light(colour)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const words = [...document.querySelectorAll("h1, p, th, td, small, figcaption, a")];
    const drawn = [...document.querySelectorAll("svg text")];
    return Math.min(
        ...words.map(element => against(getComputedStyle(element).color)),
        ...drawn.map(element => against(getComputedStyle(element).fill)),
    );
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_cut_off_and_nothing_is_fetched(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("document.querySelectorAll('svg').length") > 10
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OUTSIDE) == []
    assert browser.evaluate(CUT) == []
    assert browser.evaluate(SPILLED) == []
    assert browser.evaluate(SMALLEST) >= 9.0
    assert browser.evaluate(CONTRAST) >= 4.5
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark


def test_hostile_names_run_nothing(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    assert browser.evaluate("document.scripts.length") == 1
    assert "alert(1)" in browser.evaluate("document.body.innerText")


def column(browser: Browser, n: int) -> list[str]:
    """The cells of the rows that are shown, in their order."""
    return browser.evaluate(
        f"[...document.querySelector('.features tbody').rows].filter(row => !row.hidden)"
        f".map(row => row.cells[{n}].textContent)"
    )


def filtered(browser: Browser, text: str) -> str:
    """What is said beside the filter once a text was typed into it."""
    return browser.evaluate(
        "(() => { const box = document.querySelector('.features');"
        f"const to = box.querySelector('input'); to.value = {text!r};"
        "to.dispatchEvent(new Event('input'));"
        "return box.querySelector('output').textContent; })()"
    )


def test_features_are_sorted_and_filtered(browser: Browser, page: Path) -> None:
    """The one script of the page, which its policy names by a hash, and the browser runs."""
    browser.open(page, width=1280)
    assert browser.complaints() == []
    assert column(browser, 0) == ["2", "3", "0", "1"]  # what fires most comes first
    click = "document.querySelectorAll('.features thead button')[{}].click()"
    browser.evaluate(click.format(0))
    assert column(browser, 0) == ["3", "2", "1", "0"]
    browser.evaluate(click.format(0))
    assert column(browser, 0) == ["0", "1", "2", "3"]
    browser.evaluate(click.format(1))
    rates = [float(rate.partition(",")[0]) for rate in column(browser, 1)]
    assert rates == sorted(rates, reverse=True) == [1.0, 0.5, 0.01, 0.0]
    assert filtered(browser, "dead") == "1 of 4"
    assert column(browser, 0) == ["1"]
    assert filtered(browser, "firing_rate>0.1 cosine<0.5") == "1 of 4"
    assert column(browser, 0) == ["2"]
    assert filtered(browser, "") == "4 of 4"


def test_it_prints_in_ink_on_white(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    try:
        assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(31, 35, 40)"
        assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
    assert browser.pdf().startswith(b"%PDF")
