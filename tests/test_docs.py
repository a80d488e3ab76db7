"""Every python block of README.md and docs/*.md runs, each page as one script, and every relative link leads somewhere.

A page that needs more than neocog itself says so in a comment: ``<!-- needs: NEOCOG_DATA, matplotlib -->`` names
folders (environment variables) and modules; where one is missing, the page is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
_BLOCK = re.compile(r"^```python\s*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_NEEDS = re.compile(r"<!--\s*needs:\s*(.*?)\s*-->")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def script(page: str) -> str:
    """Return the python blocks of a page as one script, in which every line keeps its number."""
    lines = [""] * (page.count("\n") + 1)
    for block in _BLOCK.finditer(page):
        first = page.count("\n", 0, block.start(1))
        code = block.group(1).splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines) + "\n"


def missing(page: str) -> list[str]:
    """Return what a page needs and this machine does not have."""
    needs = [name.strip() for group in _NEEDS.findall(page) for name in group.split(",")]
    return [
        name
        for name in needs
        if not (os.path.isdir(os.environ.get(name, "")) if name.isupper() else importlib.util.find_spec(name))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_the_page_runs(page, ready, tmp_path):
    text = page.read_text(encoding="utf-8")
    code = script(text)
    if not code.strip():
        pytest.skip("no python block")
    if absent := missing(text):
        pytest.skip(f"needs {', '.join(absent)}")
    file = tmp_path / (page.stem + ".py")
    file.write_text(code, encoding="utf-8")
    child = ready.start(file, tmp_path)
    assert child.wait() == 0, f"{page.name} (line numbers are those of the page)\n{child.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_the_page_lead_somewhere(page):
    links = [link.partition("#")[0] for link in _LINK.findall(page.read_text(encoding="utf-8"))]
    broken = [link for link in links if link and "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_a_script_keeps_the_lines_of_its_page():
    page = "# Title\n\n```python\na = 1\n```\ntext\n```bash\nmake\n```\n```python\nassert a == 1\n```\n"
    lines = script(page).splitlines()
    assert lines[3] == "a = 1" and lines[10] == "assert a == 1"
    assert [line for line in lines if line] == ["a = 1", "assert a == 1"]


def test_a_missing_resource_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("NEOCOG_DATA", str(tmp_path))
    monkeypatch.delenv("NEOCOG_NOWHERE", raising=False)
    page = "<!-- needs: NEOCOG_DATA, json -->\n<!-- needs: NEOCOG_NOWHERE, no_such_module_here -->"
    assert missing(page) == ["NEOCOG_NOWHERE", "no_such_module_here"]
