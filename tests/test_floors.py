"""The import floors: a file imports only from its own folder or from a lower floor."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "neocog"

FLOORS = {
    "errors": 0,
    "files": 0,
    "records": 0,
    "machine": 0,
    "names": 0,
    "page": 0,
    "charts": 0,
    "lazily": 0,
    "nets": 1,
    "anatomy": 1,
    "data": 1,
    "text": 0.5,  # data reads texts by it
    "tasks": 2,
    "engine": 2,
    "fit": 3,
    "look": 4,
    "library": 4,
    "cluster": 5,
    "export": 5,
    "web": 6,
    "cli": 7,
    "__main__": 8,
    "__init__": 8,
}
# Files that stand in src/neocog itself and are one room together.
TOP_ROOMS = dict.fromkeys(("errors", "files", "machine", "names", "records", "page", "charts", "lazily"), "ground")
# Which files may import a module that is slow to load, or that is kept in one place.
ONLY_IN = {
    "torch": (
        "nets/",
        "anatomy/",
        "tasks/",
        "engine/",
        "fit/",
        "look/",
        "library/",
        "export/",
        "data/batches.py",
        "data/pictures.py",
        "data/ready.py",
        "data/reader.py",
        "data/read_",
        "data/augment.py",
        "data/scaling.py",
        "data/sound_changes.py",
        "data/spectra.py",
        "data/warp.py",
        "cli/subject.py",
    ),
    "lancedb": ("library/tables.py", "library/vectors.py"),
    "ray": ("cluster/",),
    "typer": ("cli/",),
    "fastapi": ("web/",),
    "starlette": ("web/",),
    "uvicorn": ("web/",),
}


@functools.cache
def imported(path: Path, root: Path) -> list[tuple[int, str, bool]]:
    """(line, absolute dotted name, whether for type checkers only) of all that a file of the package at `root` imports.

    Anywhere in it, late imports inside functions too.
    """
    package = ("neocog", *path.relative_to(root).parts[:-1])
    code = path.read_text(encoding="utf-8")
    calls = "import_module" in code or "__import__" in code  # else expressions import nothing
    found: list[tuple[int, str, bool]] = []
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(code), False)]
    while todo:
        node, typing = todo.pop()
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, typing) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *([node.module] if node.module else [])))
            found += [(node.lineno, f"{stem}.{alias.name}", typing) for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.append((node.lineno, node.args[0].value, typing))
        checked = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for below in ast.iter_child_nodes(node):
            if calls or isinstance(below, ast.stmt | ast.excepthandler | ast.match_case):
                todo.append((below, typing or (checked and below in node.body)))
    return found


def violations(root: Path) -> list[str]:
    """Return one sentence for each import in the package at `root` that breaks a rule."""
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        place = relative.parts[0] if len(relative.parts) > 1 else relative.stem
        if place not in FLOORS:
            found.append(f"{relative}: {place!r} has no floor; add it to FLOORS, after reading docs on the rooms")
            continue
        room = TOP_ROOMS.get(place, place)
        for line, name, _ in imported(path, root):
            where = f"{relative}:{line}"
            top, _, rest = name.partition(".")
            allowed = ONLY_IN.get(top)
            if allowed and not str(relative.as_posix()).startswith(allowed):
                found.append(f"{where}: imports {name}, which belongs in {', '.join(allowed)}")
            if top != "neocog":
                continue
            target = rest.partition(".")[0]
            if target in ("", "__version__"):
                continue
            if target not in FLOORS:
                found.append(f"{where}: imports {name} through the public package; import it from its own room")
            elif TOP_ROOMS.get(target, target) != room and FLOORS[target] >= FLOORS[place]:
                found.append(f"{where}: floor {FLOORS[place]} ({place}) imports floor {FLOORS[target]} ({target})")
    return found


def circles(root: Path) -> list[list[str]]:
    """Return the groups of files in the package at `root` that import each other, also late, inside functions.

    Imports that only a type checker follows do not count.
    """
    files = {}
    for path in root.rglob("*.py"):
        parts = ("neocog", *path.relative_to(root).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    arrows: dict[str, set[str]] = {}
    for name, path in files.items():
        targets = [target for _, target, typing in imported(path, root) if not typing]
        # a name that is imported from a file, or a file that is imported from a folder
        arrows[name] = {t if t in files else t.rpartition(".")[0] for t in targets} & files.keys() - {name}
    found: list[list[str]] = []
    below = {name: _reached(name, arrows) for name in files}
    for name in sorted(files):
        group = sorted(other for other in below[name] if name in below[other])
        if len(group) > 1 and group not in found:
            found.append(group)
    return found


def _reached(name: str, arrows: dict[str, set[str]]) -> set[str]:
    """Return the file itself, if it is in a circle, and all that it imports, directly or not."""
    seen: set[str] = set()
    todo = list(arrows[name])
    while todo:
        other = todo.pop()
        if other not in seen:
            seen.add(other)
            todo.extend(arrows[other])
    return seen


def test_no_files_import_each_other():
    assert circles(SOURCE) == []


def test_a_circle_is_found(tmp_path):
    (tmp_path / "a.py").write_text("def f():\n    from .b import x")
    (tmp_path / "b.py").write_text("from .c import y")
    (tmp_path / "c.py").write_text("from neocog.a import f")
    (tmp_path / "d.py").write_text("if TYPE_CHECKING:\n    from .e import z")
    (tmp_path / "e.py").write_text("from . import d")
    assert circles(tmp_path) == [["neocog.a", "neocog.b", "neocog.c"]]


def test_every_import_respects_the_floors():
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "code", "message"),
    [
        ("data/x.py", "from neocog.fit import train", "floor 1 (data) imports floor 3 (fit)"),
        ("data/x.py", "from ..nets import build", "floor 1 (data) imports floor 1 (nets)"),
        ("nets/deep/x.py", "from ...data import decode", "floor 1 (nets) imports floor 1 (data)"),
        ("tasks/x.py", "def f():\n    import neocog.fit.loop", "floor 2 (tasks) imports floor 3 (fit)"),
        ("fit/x.py", "import importlib\nimportlib.import_module('neocog.cli')", "floor 3 (fit) imports floor 7 (cli)"),
        ("fit/x.py", "from neocog import train", "through the public package"),
        ("errors.py", "from .cli import app", "floor 0 (errors) imports floor 7 (cli)"),
        ("data/x.py", "import torch.nn as nn", "imports torch"),
        ("library/x.py", "def f():\n    import lancedb", "imports lancedb"),
        ("stray.py", "", "has no floor"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, code, message):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    (found,) = violations(tmp_path)
    assert message in found


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (
            "data/batches.py",
            "import torch\nfrom ..errors import DataError\nfrom . import decode\nfrom .decode import x",
        ),
        ("fit/x.py", "from neocog import __version__, data, nets\nfrom neocog.tasks.label import LabelTask"),
        ("page.py", "from neocog.records import Facts"),
        ("cli/x.py", "from neocog import __version__\nfrom neocog.cli import terminal\nfrom neocog.fit import train"),
        ("library/tables.py", "import lancedb"),
    ],
)
def test_an_allowed_import_is_left_alone(tmp_path, file, code):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert violations(tmp_path) == []
