"""The sections of report.html about what the net answered, where its training started from, and cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from neocog.charts import line_chart
from neocog.errors import RunError
from neocog.fit.examples import FOLDER
from neocog.fit.run import damaged, read_json
from neocog.page import Html, gallery, pairs, paragraph, picture_file, table, thumbnail
from neocog.records import counted
from neocog.tasks import Task
from neocog.tasks.task import Seen
from neocog.tasks.unknown import STRANGE

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


def result(task: Task, split: str | None, seen: Seen, figures: Mapping[str, Any]) -> Html:
    """The goal's figure, and the others in a table."""
    if split is None:
        return paragraph("No validation or test picture with annotations was evaluated.")
    if not figures.get("n"):
        return paragraph("The net's outputs are not finite numbers: the training diverged.", kind="error")
    more, rows = task.result(seen, figures)
    shown = task.shown(figures[task.goal[0]])
    parts = [f'<p style="font-size:2rem;margin:.2rem 0"><b>{shown}</b> {task.figure}</p>']
    line = f"On the {_SPLITS[split]}, n = {figures['n']:,}{more}."
    if split == "val":
        line += " There is no test split: settings were chosen on these pictures, so expect a little less on new ones."
    parts.append(paragraph(line))
    parts.append(table([{"figure": key, "value": value} for key, value in rows.items()], numeric=("value",)))
    return Html("".join(parts))


def examples(folder: Path) -> Html | None:
    """The pictures that `examples.write_examples` left, or None."""
    if not (folder / FOLDER / "examples.json").exists():
        return None
    found = read_json(folder / FOLDER / "examples.json", dict[str, Any])
    shown = []
    for line in found["examples"]:
        path = folder / FOLDER / str(line["file"])
        if "html" in line:  # made by a reader
            shown.append(thumbnail(Html(line["html"]), caption=str(line["line"])))
        elif path.is_file():
            shown.append(picture_file(path.read_bytes(), f"{Path(line['key']).name}\n{line['line']}"))
    if not shown:
        return None
    told = f"{len(shown)} of {counted(found['of'])} of the {_SPLITS[found['split']]}, the worst answers first."
    if any("color-mix" in line.get("html", "") for line in found["examples"]):
        told += " Blue words speak for the answer, orange ones against it."
    return Html(paragraph(told) + gallery(shown, framed=True))


def unknown_section(unknown: Mapping[str, Any]) -> Html:
    """Return what net.json says about the detector of unknown pictures."""
    parts = []
    if isinstance(unknown.get("false_alarm"), int | float):
        parts.append(paragraph(f"The threshold calls {unknown['false_alarm']:.0%} of ordinary pictures unknown."))
    areas, caught = unknown.get("auroc"), unknown.get("caught") or {}
    rest = {k: v for k, v in unknown.items() if k != "caught" and v is not None and not isinstance(v, Mapping | list)}
    if isinstance(areas, Mapping) and areas:
        rows = [
            {"pictures of something else": STRANGE.get(name, name), "AUROC": float(area)}
            | ({"called unknown": f"{caught[name]:.1%}"} if name in caught else {})
            for name, area in areas.items()
        ]
        parts.append(table(rows, numeric=("AUROC", "called unknown")))
        told = (
            "They stand for what the net was not trained on. An AUROC of 1 tells all from ordinary pictures, 0.5 none."
        )
        parts.append(paragraph(told))
    parts.append(pairs(rest))
    return Html("".join(parts))


def transfer_section(start: Mapping[str, Any], head: Mapping[str, Any]) -> Html:
    """Return where a training started from, what was trained, and how the strength of a fitted head was chosen.

    Args:
        start: "start" of the log's record "start".
        head: the log's record "head", {} if there is none.
    """
    told = {
        "weights": start.get("weights"),
        "regime": f"{start.get('regime')}: {start.get('why')}",
        "last layer": start.get("told"),
        "trained": start.get("trained"),
    }
    parts = [pairs({key: value for key, value in told.items() if value})]
    if head:
        of = f"{counted(head['features'], 'feature')} of {counted(head['pictures'])}"
        parts.append(
            paragraph(
                f"A {head['head']} head on {of}; features in {head['feature_seconds']:.1f} s, head in "
                f"{head['fit_seconds']:.1f} s. Strength {head['strength']:g}: {head['chosen']}."
            )
        )
    tried = head.get("tried") or []
    if len(tried) > 1:
        points = [(row["strength"], row["loss"]) for row in tried]
        judge = head.get("judge", "log loss")
        parts.append(line_chart({judge: points}, x="strength", y=f"{judge} on other pictures", log_x=True))
        rows = [{"strength": f"{s:g}", f"{judge} on other pictures": f"{loss:.4f}"} for s, loss in points]
        parts.append(table(rows, numeric=("strength", f"{judge} on other pictures")))
    return Html("".join(parts))


def parts_section(task: Task, rows: Sequence[Mapping[str, Any]]) -> Html:
    """Return what each part of a fused last layer says by itself, and all together; see `learn_head.parts_of`."""
    names = {"val": f"validation {task.figure}", "test": f"test {task.figure}"}
    lines = [
        {"descriptors": row["part"], "features": f"{row['features']:,}", "weight": f"{row['share']:.2f}"}
        | {name: task.shown(row[split]) for split, name in names.items() if split in row}
        for row in rows
    ]
    why = (
        "Each part has a linear layer of its own; their probabilities are averaged with weights from held-out pictures."
    )
    return Html(paragraph(why) + table(lines, numeric=("features", "weight", *names.values())))


def cross_validation(task: Task, metrics: Mapping[str, Any]) -> Html:
    """Return the cross-validated figure as a paragraph, empty if there is none among a run's metrics."""
    goal = f"cv_{task.goal[0]}"
    if goal not in metrics:
        return Html("")
    value, low, high = (task.shown(v) for v in (metrics[goal], *metrics[f"{goal}_interval"]))
    return paragraph(
        f"Cross-validated {task.figure} {value}; 95% interval {low} to {high} (Nadeau and Bengio 2003), "
        f"{metrics['cv_repeats']} times {metrics['cv_folds']}-fold over the {metrics['cv_n']:,} pictures of training "
        "and validation, near-duplicates on one side. With few pictures it is more reliable than one split."
    )
