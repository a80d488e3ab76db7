"""Show what `check` found as a page with thumbnails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from neocog import charts, page
from neocog.data.check import SPLIT_COLUMNS, Check
from neocog.data.decode import decoded
from neocog.data.findings import Example, Finding
from neocog.data.kinds import NOT_LABELLED, Boxes, BoxSet
from neocog.data.mask_files import voc_colours
from neocog.data.reader import PICTURE
from neocog.data.reader import find as find_reader
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.records import SPLITS

_SHOWN = 24  # thumbnails for each finding
_DRAWN = ("boxes", "mask", "points")  # columns that are drawn on thumbnails
_CHARTED = 40  # classes that a bar chart shows one by one
_HEADINGS = {
    "leak_exact": "Exact copies across splits", "leak_near": "Near copies across splits",
    "conflict_exact": "Equal files, different labels", "conflict_near": "Near copies, different labels",
    "copies_exact": "Exact copies", "copies_near": "Near copies", "unreadable": "Unreadable files",
    "unlisted": "Left out", "blank": "Blank pictures", "small": "Small pictures", "large": "Large pictures",
    "long_shape": "Long shapes", "format_tells": "Format tells the class", "rotated": "Stored lying",
    "misnamed": "Wrong endings", "animated": "Several frames", "suspicious_label": "Suspicious labels",
    "not_in_train": "Classes without training", "not_measured": "Classes not measured", "one_class": "One class",
    "another_task": "Another task", "several_labels": "Several labels",
    "resized": "Another size",
    "boxes_inverted": "Empty boxes", "boxes_outside": "Boxes outside", "boxes_doubled": "Doubled boxes",
    "box_classes": "Classes without boxes", "unannotated": "Without annotation", "points_outside": "Points outside",
    "mask_unreadable": "Unreadable masks", "mask_size": "Masks of another size", "mask_values": "Values of masks",
    "mask_bare": "Masks without labels", "conflict_annotations": "Copies, different annotations",
    "empty_class": "Empty classes", "single_picture": "Single pictures", "few_pictures": "Small classes",
    "similar_names": "Similar names", "imbalance": "Balance", "unlabelled": "Without a label",
}  # fmt: skip

SIDE = 200  # of a thumbnail on which things are to be seen
_MARGIN = 0.25  # share of a side, up to which a box outside of the picture is shown
_WRONG = (235, 30, 30)
_CLASSES = (
    (60, 150, 255), (255, 190, 40), (70, 210, 110), (240, 110, 220), (110, 230, 240), (250, 140, 70), (170, 130, 255),
    (200, 220, 70),
)  # fmt: skip


def check_page(check: Check, source: Source) -> str:
    """Return a self-contained HTML page about `check`, with thumbnails read from `source`."""
    sections: list[tuple[str, str]] = [("Findings", _overview(check))]
    sections += [(_heading(finding), _finding(finding, source)) for finding in check.findings]
    if any(role in source.columns for role in _DRAWN):
        sections.append(("Annotations", _annotations(source)))
    if check.classes or not check.annotated:
        sections.append(("Classes", _classes(check)))
    if source.kind == PICTURE:
        sections.append(("Sizes and formats", _sizes(check)))
    if check.notes:
        sections.append(("How the data was read", "".join(page.paragraph(note) for note in check.notes)))
    return page.page(f"{check.source}: before training", sections, subtitle=check.summary)


def _heading(finding: Finding) -> str:
    return _HEADINGS.get(finding.name, finding.name.replace("_", " ").capitalize())


def _overview(check: Check) -> str:
    if not check.findings:
        return page.paragraph("No problems were found.", kind="good")
    rows = [
        {
            "severity": page.Html(f'<span class="{finding.severity}">{finding.severity}</span>'),
            "what": page.Html(f'<a href="#{page.anchor(_heading(finding))}">{page.text(finding.title)}</a>'),
        }
        for finding in check.findings
    ]
    return page.table(rows)


def _finding(finding: Finding, source: Source) -> str:
    text = page.Html(f'<span class="{finding.severity}">{finding.severity}</span>: {page.text(finding.title)}')
    out = [page.paragraph(text), page.paragraph(finding.advice)]
    figures: list[str] = []
    shown = 0
    unseen: list[dict[str, Any]] = []
    for group in finding.groups:
        if shown >= _SHOWN:
            break
        part = group[: max(1, min(6, _SHOWN - shown))]
        shown += len(part)
        thumbs = [figure for one in part if (figure := _thumbnail(one, source))]
        if not thumbs:
            unseen += [{"picture": one.key, "why": one.note} for one in part]
        elif len(group) > 1:
            if len(group) > len(part):
                thumbs.append(page.paragraph(f"and {len(group) - len(part):,} more"))
            figures.append(page.gallery(thumbs, framed=True))
        else:
            figures += thumbs
    if figures:
        out.append(page.gallery(figures))
    if unseen:
        out.append(page.table(unseen))
    every = sum(map(len, finding.groups))
    if every > shown or finding.more:
        out.append(page.paragraph(f"Shown are {shown} of {max(every, finding.count):,}; --json lists more."))
    return "".join(out)


def _thumbnail(example: Example, source: Source) -> str:
    """The picture with its annotations, or "" if it cannot be read."""
    if example.index < 0:
        return ""
    try:
        data = source.read(example.index)
        if source.kind != PICTURE:
            shown = find_reader(source.kind).shown(data)
            return page.thumbnail(shown, caption=_caption(example)) if shown else ""
        picture, size = (data, data.shape[:2]) if isinstance(data, np.ndarray) else decoded(data, short_side=400)
    except Exception:  # unreadable pictures are listed with their reason; files may also vanish meanwhile
        return ""
    side = 116
    if known := _known(example.index, source):
        side = SIDE
        picture = overlay(picture, known, (size[1], size[0]))
    return page.thumbnail(picture, size=side, caption=_caption(example), alt=_caption(example))


def _caption(example: Example) -> str:
    place = ", ".join(part for part in (example.label, example.split) if part)
    return "\n".join(part for part in (place, example.note, example.key) if part)


def _known(i: int, source: Source) -> dict[str, Any]:
    """What can be drawn of a picture; a mask that cannot be read is not."""
    known = {}
    for role in _DRAWN:
        column = source.columns.get(role)
        try:
            value = None if column is None else column[i]
        except DataError:
            continue
        if value is not None:
            known[role] = value
    return known


def _annotations(source: Source) -> str:
    """How many boxes each class has, and some annotated pictures."""
    out = []
    boxes = source.columns.get("boxes")
    if isinstance(boxes, Boxes):
        counts = np.bincount(boxes.labels, minlength=len(boxes.names))
        order = np.argsort(-counts, kind="stable")[:_CHARTED]
        out.append(charts.bar_chart({boxes.names[k]: float(counts[k]) for k in order}, x="class", y="boxes"))
    known = np.any([source.columns[role].known for role in _DRAWN if role in source.columns], axis=0)
    rows = np.flatnonzero(known)
    some = rows[np.linspace(0, len(rows) - 1, min(_SHOWN // 2, len(rows))).astype(int)]
    split = [SPLITS[source.splits[i]] if source.splits[i] >= 0 else None for i in some]
    examples = [Example(int(i), source.key(int(i)), _told(int(i), source), s) for i, s in zip(some, split, strict=True)]
    out.append(page.gallery([figure for one in examples if (figure := _thumbnail(one, source))]))
    return "".join(out)


def _told(i: int, source: Source) -> str:
    """What is in a picture, in words: "3 RBC, 1 WBC"."""
    boxes = source.columns.get("boxes")
    found = boxes[i] if isinstance(boxes, Boxes) else None
    if found is None or not isinstance(boxes, Boxes):
        return ""
    counts = np.bincount(found.labels, minlength=len(boxes.names))
    return ", ".join(f"{counts[k]} {boxes.names[k]}" for k in np.flatnonzero(counts)) or "empty"


def _classes(check: Check) -> str:
    totals = check.counts[:-1].sum(axis=1)
    used = [k for k in range(4) if check.split_counts[k]]
    order = np.argsort(-totals, kind="stable")
    out = []
    if len(order) <= _CHARTED:
        bars = {check.classes[k]: float(totals[k]) for k in order}
        out.append(charts.bar_chart(bars, x="class", y="pictures"))
    else:
        out.append(charts.bar_chart(_histogram(totals), x="pictures in the class", y="classes", upright=True))
    rows: list[dict[str, Any]] = []
    part = order if len(order) <= 200 else [*order[:100], *order[-100:]]
    for name, counts in (
        *((check.classes[k], check.counts[k]) for k in part),
        *([("(no label)", check.counts[-1])] if check.counts[-1].sum() else []),
        ("all", check.split_counts),
    ):
        splits = {SPLIT_COLUMNS[k]: f"{int(counts[k]):,}" for k in used} if len(used) > 1 else {}
        rows.append({"class": name, "pictures": f"{int(counts.sum()):,}", **splits})
    if len(order) > 200:
        out.append(page.paragraph("The 100 largest and the 100 smallest classes:"))
    out.append(page.table(rows, numeric=("pictures", *SPLIT_COLUMNS)))
    return "".join(out)


def _sizes(check: Check) -> str:
    known = check.sizes[check.sizes[:, 0] > 0]
    if not len(known):
        return page.paragraph("No picture could be read.")
    out = []
    if (known == known[0]).all():
        out.append(page.paragraph(f"Every picture is {known[0, 0]} x {known[0, 1]} pixels."))
    else:
        short = _histogram(known.min(axis=1))
        out.append(charts.bar_chart(short, x="short side in pixels (from)", y="pictures", upright=True))
        rows = [{"": name, **spans} for name, spans in check.size_summary().items()]
        out.append(page.table(rows, numeric=("min", "median", "max")))
    kinds = [{"format": name, "pictures": f"{n:,}"} for name, n in check.formats.items()]
    modes = [{"pixels": name, "pictures": f"{n:,}"} for name, n in check.modes.items()]
    out += [page.table(kinds, numeric=("pictures",)), page.table(modes, numeric=("pictures",))]
    return "".join(out)


def _histogram(values: np.ndarray) -> dict[str, float]:
    """Count integers in up to 24 bins, even ones, or by ratio if the largest is over ten times the smallest."""
    low, high = int(values.min()), int(values.max())
    if low == high:
        return {f"{low:,}": float(len(values))}
    if low > 0 and high > 10 * low:
        edges = np.geomspace(low, high + 1, min(24, max(2, math.ceil(8 * math.log2(high / low) / 3))) + 1)
    else:
        edges = np.linspace(low, high + 1, min(24, high - low + 1) + 1)
    edges = np.unique(np.floor(edges))
    counts, _ = np.histogram(values, bins=[*edges[:-1], high + 1])
    return {f"{int(edge):,}": float(n) for edge, n in zip(edges[:-1], counts, strict=True)}


def overlay(picture: np.ndarray, known: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """The picture, uint8 (H, W, 3), made small, with its annotations.

    Args:
        known: role -> value of the columns boxes, mask, points.
        size: width and height of the file, in whose pixels the values are.
    """
    image = Image.fromarray(picture).convert("RGB")
    image.thumbnail((2 * SIDE, 2 * SIDE))
    if (grown := 2 * SIDE // max(image.size)) > 2:  # lines and points would hide a tiny picture
        image = image.resize((grown * image.width, grown * image.height), Image.Resampling.NEAREST)
    mask = known.get("mask")
    if mask is not None:
        image = _coloured(image, mask)
    across, down = image.width / size[0], image.height / size[1]
    boxes: BoxSet | None = known.get("boxes")
    corners = np.zeros((0, 4)) if boxes is None else boxes.corners * (across, down, across, down)
    left, top, right, bottom = _margins(corners, image.width, image.height)
    canvas = Image.new("RGB", (image.width + left + right, image.height + top + bottom), (225, 225, 225))
    canvas.paste(image, (left, top))
    draw = ImageDraw.Draw(canvas)
    for (x0, y0, x1, y1), label in zip(corners.tolist(), () if boxes is None else boxes.labels.tolist(), strict=True):
        wrong = x1 <= x0 or y1 <= y0 or x0 < -across or y0 < -down or x1 > image.width + 1 or y1 > image.height + 1
        colour = _WRONG if wrong else _CLASSES[label % len(_CLASSES)]
        low, high = (min(x0, x1) + left, min(y0, y1) + top), (max(x0, x1) + left, max(y0, y1) + top)
        draw.rectangle((*low, *high), outline=colour, width=3)
    points = known.get("points")
    radius = max(1.5, min(canvas.size) / 90)
    for x, y, seen in [] if points is None else points.tolist():
        if seen > 0:
            x, y = x * across + left, y * down + top
            colour = (70, 210, 110) if seen > 1 else (255, 190, 40)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(0, 0, 0))
    return np.asarray(canvas)


def _coloured(image: Any, mask: np.ndarray) -> Any:
    small = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    table = np.array(voc_colours(), dtype=np.float32)
    table[0] = 40
    mixed = 0.45 * np.asarray(image, dtype=np.float32) + 0.55 * table[small]
    return Image.fromarray(
        np.where((small == NOT_LABELLED)[:, :, None], np.asarray(image), mixed.astype(np.uint8)).astype(np.uint8)
    )


def _margins(corners: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """How much grey is laid around a picture so that boxes outside of it can be seen: left, top, right, bottom."""
    if not len(corners):
        return 0, 0, 0, 0
    low, high = corners.reshape(-1, 2, 2).min((0, 1)), corners.reshape(-1, 2, 2).max((0, 1))
    out = [-low[0], -low[1], high[0] - width, high[1] - height]
    most = [_MARGIN * side for side in (width, height, width, height)]
    left, top, right, bottom = (int(min(max(0.0, o), m)) + (3 if o > 1 else 0) for o, m in zip(out, most, strict=True))
    return left, top, right, bottom
