"""The parts of report.html that a task makes by its contract: the result, its own sections, and examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from neocog.errors import RunError
from neocog.fit.examples import FOLDER
from neocog.fit.run import damaged, read_json
from neocog.page import Html, gallery, paragraph, picture_file, table
from neocog.tasks.task import Seen, Task

_SPLITS = {"test": "test split", "val": "validation split"}


def seen_of(folder: Path) -> tuple[str | None, Seen]:
    """The split that a report is about (test, else validation), and what the task kept of it.

    Raises: RunError: a damaged file.
    """
    for split in _SPLITS:
        path = folder / f"{split}.safetensors"
        if path.exists():
            try:
                seen = load_file(path)
            except SafetensorError as error:
                raise RunError(f"{path} is damaged ({error}); 'neocog resume' writes it again") from None
            if "index" not in seen:
                raise damaged(path, f"it has the arrays {', '.join(sorted(seen))}, and no index")
            return split, {**seen, "rows": np.arange(len(seen["index"]))}
    return None, {}


def result(task: Task, split: str | None, metrics: Mapping[str, Any]) -> Html:
    """The headline and the figures."""
    if split is None:
        return paragraph("No validation or test picture with annotations was evaluated.")
    figures = {k.removeprefix(f"{split}_"): v for k, v in metrics.items() if k.startswith(f"{split}_")}
    name, _ = task.goal
    value = figures.get(name)
    shown = f"{value:.4g}" if isinstance(value, (int, float)) else "-"
    parts = [f'<p style="font-size:2rem;margin:.2rem 0"><b>{shown}</b> {task.figure}</p>']
    line = f"On the {_SPLITS[split]}, n = {figures.get('n', 0):,}."
    if split == "val":
        line += " There is no test split: settings were chosen on these pictures, so expect a little less on new ones."
    parts.append(paragraph(line))
    rows = [
        {"figure": key.replace("_", " "), "value": f"{v:.4f}" if isinstance(v, float) else f"{v:,}"}
        for key, v in figures.items()
        if isinstance(v, (int, float)) and not isinstance(v, bool) and key not in ("n", name)
    ]
    return Html("".join([*parts, table(rows, numeric=("value",))]))


def examples(folder: Path) -> Html | None:
    """The pictures that `examples.write_examples` left, or None."""
    if not (folder / FOLDER / "examples.json").exists():
        return None
    found = read_json(folder / FOLDER / "examples.json", dict[str, Any])
    shown = []
    for line in found["examples"]:
        path = folder / FOLDER / str(line["file"])
        if path.is_file():
            shown.append(picture_file(path.read_bytes(), f"{Path(line['key']).name}\n{line['line']}"))
    if not shown:
        return None
    told = f"{len(shown)} of {found['of']:,} pictures of the {_SPLITS[found['split']]}, the worst answers first."
    return Html(paragraph(told) + gallery(shown, framed=True))
