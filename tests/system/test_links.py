"""Every link of every Markdown page leads to a file, and to a heading that the file has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MADE = {"cli.md", "api.md"}
"""Pages that `make docs` makes, which are no files."""
LINK = re.compile(r"\]\(([^)\s]+)\)")
PAPER = re.compile(r"\barXiv[: ](\d{4}\.\d{4,5})")


def prose(page: Path) -> str:
    """A page without its code, where brackets are no links."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", lambda found: found[0].replace("](", "] ("), text)


def anchors(page: Path) -> set[str]:
    """The names that a page's headings have, as web pages of repositories make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        again = sum(other == name or re.fullmatch(f"{re.escape(name)}-\\d+", other) is not None
                    for other in found)  # fmt: skip
        found.add(f"{name}-{again}" if again else name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in LINK.findall(prose(page)):
        if re.match(r"(https|mailto):", link):
            continue
        assert not link.startswith("http:"), link
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if page.parent.name == "docs" and path in MADE:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_papers_have_a_link_to_their_own_page(page: Path) -> None:
    text = prose(page)
    for number in set(PAPER.findall(text)) | set(re.findall(r"arxiv\.org/abs/(\d+\.\d+)", text)):
        assert f"https://arxiv.org/abs/{number}" in text, number


def test_every_page_of_the_docs_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r"^\s+- ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    there = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert sorted(listed) == sorted(there | MADE)


def test_the_notebook_s_links_lead_somewhere_too() -> None:
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    links = LINK.findall(text)
    assert links
    assert all((ROOT / "docs" / link.partition("#")[0]).exists() for link in links)
