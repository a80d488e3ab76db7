"""The sections of report.html about what the net answered: errors, classes, calibration, unknown pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from neocog.data.decode import decode
from neocog.errors import NeocogError
from neocog.page import Html, gallery, heatmap, line_chart, paragraph, table, text, thumbnail
from neocog.tasks.measures import confusion, softmax

Pictures = Callable[[int], np.ndarray | bytes]
GALLERY = 24
_PAIRS = 10
_BIN = 10  # pictures: the share right of fewer is noise, and would be read as a fault of the net
_CLASS_ROWS = 60  # beyond, only the weakest classes are listed


def errors_section(
    found: Mapping[str, np.ndarray],
    classes: Sequence[str],
    temperature: float,
    figures: Mapping[str, Any],
    pictures: Pictures | None,
) -> Html:
    """Return the most confused classes, and the most confident errors as pictures, else as a table."""
    probabilities = softmax(found["logits"], temperature)
    predicted, labels = probabilities.argmax(axis=1), found["labels"]
    wrong = np.flatnonzero(predicted != labels)
    if not len(wrong):
        return paragraph(f"None of the {len(labels):,} pictures was misclassified.", kind="good")
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
        if pictures is None or len(shown) == GALLERY:
            break
        caption = f"{classes[predicted[row]]} {probabilities[row, predicted[row]]:.0%}\ntrue: {classes[labels[row]]}"
        try:
            shown.append(thumbnail(_pixels(pictures, int(found["index"][row])), caption=caption))
        except (NeocogError, OSError, LookupError):
            continue  # the picture is gone or moved; the next one serves as well
    parts.append("<h3>The most confident errors</h3>")
    if shown:
        told = f"{len(shown)} of {len(wrong):,} errors: the net's answer, its probability, and the label"
        parts.append(paragraph(told + ". Wrong labels show up here first."))
        parts.append(gallery(shown))
    else:
        rows = [
            {
                "picture number": int(found["index"][row]),
                "predicted": classes[predicted[row]],
                "probability": f"{probabilities[row, predicted[row]]:.1%}",
                "true": classes[labels[row]],
            }
            for row in order[:GALLERY]
        ]
        parts.append(table(rows, numeric=("picture number", "probability")))
    return Html("".join(parts))


def _pixels(pictures: Pictures, index: int) -> np.ndarray:
    picture = pictures(index)
    return picture if isinstance(picture, np.ndarray) else decode(picture, short_side=192)


def per_class_section(figures: Mapping[str, Any]) -> Html:
    """Return precision and recall of each class."""
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


def confusion_section(found: Mapping[str, np.ndarray], figures: Mapping[str, Any], classes: Sequence[str]) -> Html:
    """Return the confusion matrix."""
    matrix = figures["confusion"]
    if matrix is None:  # left out of the figures for its size
        matrix = confusion(found["logits"], found["labels"])
    return heatmap(np.asarray(matrix), classes, classes)


def calibration_section(before: Mapping[str, Any], after: Mapping[str, Any]) -> Html:
    """Return the reliability curve and its figures, before and after temperature."""
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


def unknown_section(unknown: Mapping[str, Any]) -> Html:
    """Return what net.json says about the detector of unknown pictures."""
    parts = []
    if isinstance(unknown.get("false_alarm"), int | float):
        parts.append(paragraph(f"The threshold calls {unknown['false_alarm']:.0%} of ordinary pictures unknown."))
    areas, caught = unknown.get("auroc"), unknown.get("caught") or {}
    if isinstance(areas, Mapping) and areas:
        rows = [
            {"unlike pictures": name, "AUROC": float(area)}
            | ({"called unknown": f"{caught[name]:.1%}"} if name in caught else {})
            for name, area in areas.items()
        ]
        parts.append(table(rows, numeric=("AUROC", "called unknown")))
    rest = {
        key: v for key, v in unknown.items() if key not in ("auroc", "caught") and not isinstance(v, Mapping | list)
    }
    if not isinstance(areas, Mapping) and areas is not None:
        rest["auroc"] = areas
    parts.append(pairs(rest))
    return Html("".join(parts))


def pairs(values: Mapping[str, object]) -> Html:
    """Return a table of names and values without a header."""
    if not values:
        return Html("")
    rows = "".join(
        f'<tr><th scope="row">{text(key.replace("_", " "))}</th><td>{text(_plain(value))}</td></tr>'
        for key, value in values.items()
    )
    return Html(f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>')


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        more = f" and {len(value) - 20} more" if len(value) > 20 else ""
        return ", ".join(str(_plain(inner)) for inner in value[:20]) + more
    return value
