"""The public names, and what importing them costs."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

import neocog

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "Library",
    "Run",
    "__version__",
    "anatomy",
    "caption",
    "check",
    "data",
    "evaluate",
    "export",
    "fit",
    "library",
    "load",
    "look",
    "nets",
    "open_source",
    "predict",
    "resume",
    "tasks",
    "train",
}
HEAVY = ("torch", "numpy", "PIL", "pyarrow", "sklearn", "scipy", "safetensors", "lancedb", "fastapi", "rich")


def test_the_public_names_are_these():
    assert set(neocog.__all__) == PUBLIC
    assert set(dir(neocog)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_loads(name):
    assert getattr(neocog, name) is not None


def test_what_type_checkers_see_is_what_is_loaded():
    """The imports under TYPE_CHECKING and the table of lazy names cannot drift apart."""
    tree = ast.parse(Path(neocog.__file__).read_text(encoding="utf-8"))
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")
    seen = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names:
            whole = statement.module == "neocog"
            seen[alias.asname or alias.name] = (
                (f"neocog.{alias.name}", None) if whole else (statement.module, alias.name)
            )
    assert seen == neocog._LAZY


def test_the_rooms_do_not_hide_the_functions():
    """`neocog.check` stays the function after `neocog.data.check`, a module, was imported; so for the others."""
    for module in ("neocog.data.check", "neocog.fit"):
        importlib.import_module(module)
    for name in ("check", "train", "predict", "evaluate", "resume", "open_source", "load"):
        assert callable(getattr(neocog, name)), name


def test_an_unknown_name_says_what_is_near():
    with pytest.raises(AttributeError, match="did you mean 'train'"):
        neocog.trian  # noqa: B018


def test_the_version_is_one_that_can_be_released():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", neocog.__version__)


def test_constraints_pin_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{line}: no local build, no host"
            pinned[name.lower()] = version
    assert {re.split(r"[<>=\[]", one)[0] for one in wanted} <= set(pinned)


def test_importing_neocog_loads_nothing_heavy(python):
    code = f"import sys, neocog; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = python("-c", code)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "[]", "")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(python, arguments):
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from neocog.cli import main\n"
        f"sys.argv = ['neocog', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])\n"
        "print(f'{time.perf_counter() - start:.3f} s after the interpreter started', file=sys.stderr)\n"
    )
    result = python("-c", code)
    assert result.stdout.splitlines()[-1] == "heavy: []", result.stderr
    print(result.stderr)  # shown with `pytest -rP`; a time is never asserted, for it depends on the machine
