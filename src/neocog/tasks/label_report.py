"""What a report says of the task label: the result, errors, classes, confusions, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neocog.charts import heatmap, line_chart
from neocog.page import Html, gallery, paragraph, table, thumbnail
from neocog.records import counted
from neocog.tasks.measures import confusion, softmax
from neocog.tasks.task import Picture, Section, Seen

GALLERY = 24
_PAIRS = 10
_BIN = 10  # pictures: the share right of fewer is noise, and would be read as a fault of the net
_CLASS_ROWS = 60  # beyond, only the weakest classes are listed


def result(figures: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """See `Task.result`; `figures` are all of `evaluate_logits`."""
    low, high = figures["accuracy_interval"]
    of, there = len(figures["per_class"]), sum(row["support"] > 0 for row in figures["per_class"])
    equal = "every class counts the same"
    if there < of:
        equal += f"; {of - there} of {of} classes have no picture here and are not measured"
    rows = {
        f"macro-F1 ({equal})": f"{figures['macro_f1']:.4f}",
        "log loss, after temperature": f"{figures['loss']:.4f}",
        "calibration error, after temperature": f"{figures['ece']:.2%}",
        "Brier score (0 to 2, lower is better)": f"{figures['brier']:.4f}",
    }
    if "top5_accuracy" in figures:
        rows = {"accuracy among the first five": f"{figures['top5_accuracy']:.2%}", **rows}
    return f"; 95% interval {low:.2%} to {high:.2%} (Wilson)", rows


def sections(seen: Seen, classes: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Section]:
    """See `Task.sections`; `before` and `after`: all figures, without and with the temperature."""
    known = seen["labels"] >= 0
    seen = {name: seen[name][known] for name in ("logits", "labels", "rows")}
    return [
        Section("Errors", lambda picture: _errors(seen, classes, after, picture)),
        Section("Classes", _per_class(after)),
        Section("Confusion matrix", _confusion(seen, after, classes)),
        Section("Calibration", _calibration(before, after)),
    ]


def _errors(seen: Seen, classes: Sequence[str], figures: Mapping[str, Any], picture: Picture) -> Html:
    """The most confused classes, and the most confident errors as pictures, else as a table."""
    probabilities = softmax(seen["logits"], figures["temperature"])
    predicted, labels = probabilities.argmax(axis=1), seen["labels"]
    wrong = np.flatnonzero(predicted != labels)
    if not len(wrong):
        return paragraph(f"None of the {counted(len(labels))} was misclassified.", kind="good")
    worst = [
        {
            "true": pair["true"],
            "predicted": pair["predicted"],
            "pictures": pair["count"],
            "share": f"{pair['share']:.1%}",
        }
        for pair in figures["confused"][:_PAIRS]
    ]
    parts = ["<h3>Most confused classes</h3>", table(worst, numeric=("pictures", "share"))]
    order = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]
    shown: list[str] = []
    for row in order:
        if len(shown) == GALLERY:
            break
        caption = f"{classes[predicted[row]]} {probabilities[row, predicted[row]]:.0%}\ntrue: {classes[labels[row]]}"
        if (pixels := picture(int(seen["rows"][row]))) is not None:  # else it is gone; the next one serves as well
            shown.append(thumbnail(pixels, caption=caption))
    parts.append("<h3>The most confident errors</h3>")
    if shown:
        told = f"{len(shown)} of {counted(len(wrong), 'error')}: the net's answer, its probability, and the label"
        parts.append(paragraph(told + ". Wrong labels show up here first."))
        parts.append(gallery(shown))
    else:
        parts.append(paragraph("None of the pictures can be read any more."))
    return Html("".join(parts))


def _per_class(figures: Mapping[str, Any]) -> Html:
    """Precision and recall of each class."""
    rows = sorted(figures["per_class"], key=lambda row: (row["f1"], row["class"]))
    present = [row for row in rows if row["support"] or row["predicted"]]
    told = (
        "Weakest first. Precision: the share of the pictures given this class that belong to it; recall: the share of "
    )
    parts = [paragraph(told + "the pictures of the class that were found.")]
    shown = [
        {"class": row["class"]}
        | {key: f"{row[key]:.1%}" for key in ("precision", "recall", "f1")}
        | {"pictures": row["support"], "predicted": row["predicted"]}
        for row in present[:_CLASS_ROWS]
    ]
    parts.append(table(shown, numeric=("precision", "recall", "f1", "pictures", "predicted")))
    if len(present) > _CLASS_ROWS:
        parts.append(paragraph(f"The {_CLASS_ROWS} weakest of {len(present)} classes."))
    if absent := [row["class"] for row in rows if not row["support"]]:
        more = f" and {len(absent) - 20} more" if len(absent) > 20 else ""
        parts.append(paragraph(f"Without a picture in this split: {', '.join(absent[:20])}{more}."))
    return Html("".join(parts))


def _confusion(seen: Seen, figures: Mapping[str, Any], classes: Sequence[str]) -> Html:
    """The confusion matrix."""
    matrix = figures["confusion"]
    if matrix is None:  # left out of the figures for its size
        matrix = confusion(seen["logits"], seen["labels"])
    return heatmap(np.asarray(matrix), classes, classes)


def _calibration(before: Mapping[str, Any], after: Mapping[str, Any]) -> Html:
    """The reliability curve and its figures, before and after temperature."""
    told = f"Of the pictures that the net is 80% sure of, are 80% right? Temperature {after['temperature']:.3f}: "
    told += "above 1 the raw probabilities were overconfident, below 1 underconfident. "
    told += f"Each point stands for at least {_BIN} pictures."
    series = {
        name: [(row["confidence"], row["accuracy"]) for row in figures["bins"] if row["n"] >= _BIN]
        for name, figures in (("before temperature", before), ("after", after))
    }
    lowest = min([0.9] + [share for points in series.values() for point in points for share in point])
    series["perfect"] = [(lowest, lowest), (1.0, 1.0)]
    rows = [
        {
            "": name,
            "calibration error": f"{figures['ece']:.2%}",
            "log loss": f"{figures['loss']:.4f}",
            "Brier score": f"{figures['brier']:.4f}",
        }
        for name, figures in (("before temperature", before), ("after", after))
    ]
    chart = line_chart(series, x="confidence", y="share correct")
    return Html(paragraph(told) + chart + table(rows, numeric=("calibration error", "log loss", "Brier score")))
