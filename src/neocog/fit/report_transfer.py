"""The sections of report.html about a training that starts from weights, and about cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neocog.page import Html, line_chart, pairs, paragraph, table
from neocog.records import counted
from neocog.tasks import Task


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
    """Return what each part of a fused last layer says by itself, and all together; see `fusion.parts_of`."""
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
