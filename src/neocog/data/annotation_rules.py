"""What `check` says about boxes, masks and points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from neocog.data.duplicates import as_groups, connected
from neocog.data.findings import Facts, Finding, Rule, counted, listed
from neocog.data.kinds import NOT_LABELLED, Boxes, Masks, Numbers, Points
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.machine import usable_cores

_OUTSIDE = 1.0  # pixels by which a box or point may stand out: tools round
_MANY = 0.1  # share of boxes outside from which on something is wrong with all of them
_MOST_ODD = 8  # values of a mask that are named
ROLES = ("boxes", "mask", "points", "numbers", "tags")  # columns that two copies of a picture should have in common


def boxes(f: Facts) -> Iterator[Finding | None]:
    column, splits = f.source.columns.get("boxes"), f.source.splits
    if not isinstance(column, Boxes) or not len(column.labels):
        return
    rows = np.repeat(np.arange(len(column)), np.diff(column.ends))  # of each box
    low, high, sizes = column.corners[:, :2], column.corners[:, 2:], f.seen.sizes[rows]
    kinds = [column.names[k] for k in column.labels]

    def wrong(
        name: str, severity: str, what: tuple[str, str], advice: str, where: np.ndarray, note: Callable[[int], str]
    ) -> Finding | None:
        """About the pictures of the boxes `where`: `what` is a noun and what follows; `note` is of a box."""
        those = np.flatnonzero(where)
        pictures = np.unique(rows[those])

        def said(i: int) -> str:
            own = those[rows[those] == i]
            return "; ".join(note(int(j)) for j in own[:3]) + (f" and {len(own) - 3} more" if len(own) > 3 else "")

        title = f"{counted(len(those), what[0])}{what[1]} in {counted(len(pictures))}"
        return f.finding(name, severity, "", advice, pictures, said, title=title)

    def corners(j: int) -> str:
        x0, y0, x1, y1 = column.corners[j].tolist()
        return f"{kinds[j]} from {x0:g}, {y0:g} to {x1:g}, {y1:g}"

    yield wrong(
        "boxes_inverted", "error", ("empty or inverted box", ""),
        "They cover nothing and cannot be learned. Swap the corners, or delete the boxes; if all are like "
        "this, the columns or the order of the numbers were misread.", np.asarray((high <= low).any(1)), corners,
    )  # fmt: skip
    out = np.concatenate((-low, high - sizes), 1).max(1)
    outside = (out > _OUTSIDE) & (sizes > 0).all(1)
    yield wrong(
        "boxes_outside", "error" if outside.mean() > _MANY else "warning", ("box", " beyond the edge"),
        "They are cut at the picture's edge. Were the pictures scaled down after they were annotated?",
        outside, lambda j: f"{kinds[j]} reaches beyond the edge by {out[j]:.0f} pixels",
    )  # fmt: skip
    keys = np.concatenate((rows[:, None], column.labels[:, None], np.round(column.corners)), 1)
    _, first, count = np.unique(keys, axis=0, return_index=True, return_counts=True)
    yield wrong(
        "boxes_doubled", "warning", ("doubled box", ""),
        "The second one counts as missed wherever the net answers once. Delete the copies.",
        np.isin(np.arange(len(rows)), first[count > 1]), lambda j: f"{kinds[j]} appears twice",
    )  # fmt: skip
    everywhere = np.bincount(column.labels, minlength=len(column.names))
    trained = everywhere
    if (splits == 0).any():
        trained = np.bincount(column.labels[splits[rows] == 0], minlength=len(column.names))
    lacking = np.flatnonzero(trained == 0)
    if everywhere[lacking].any():
        severity, what = "error", "without a box in train"
        advice = "The net cannot learn them. Are they spelled differently elsewhere?"
    else:
        severity, what = "hint", "without a box"
        advice = "The net gets an output that is never trained. Remove them from the list of classes, or add boxes."
    yield f.of_classes("box_classes", severity, what, advice, [column.names[k] for k in lacking])


def resized(f: Facts) -> Iterator[Finding | None]:
    """Pictures of another size than their annotations say: then boxes and outlines are in the wrong place."""
    said, sizes = f.source.said_sizes, f.seen.sizes
    if said is None or not len(said):
        return

    def note(i: int) -> str:
        turned = f.seen.rotated[i] and (said[i] == sizes[i][::-1]).all()
        how = "is turned by EXIF to" if turned else "is"
        return f"annotated as {said[i][0]} x {said[i][1]}, {how} {sizes[i][0]} x {sizes[i][1]}"

    yield f.finding(
        "resized", "error", "of another size than the annotations say",
        "Boxes, points and outlines are taken as pixels of the picture that is there, so they are in the wrong place. "
        "Put the original pictures back, or scale the annotations. Annotate pictures that EXIF turns as they are seen, "
        "upright.", np.flatnonzero((said > 0).all(1) & (sizes > 0).all(1) & (said != sizes).any(1)), note,
    )  # fmt: skip


def unannotated(f: Facts) -> Iterator[Finding | None]:
    """Pictures without annotations, where others are annotated; and how many count as empty."""
    columns = [column for role in ("boxes", "mask", "points") if (column := f.source.columns.get(role)) is not None]
    if not columns:
        return
    known = np.any([column.known for column in columns], axis=0)
    rows, empty = np.flatnonzero(~known), np.zeros(0, int)
    if isinstance(boxes := f.source.columns.get("boxes"), Boxes):
        empty = np.flatnonzero(boxes.known & (np.diff(boxes.ends) == 0))
    parts = [f"{counted(len(rows))} without an annotation"] if len(rows) else []
    parts += [f"{counted(len(empty))} annotated as empty"] if len(empty) else []
    says = ["Those without an annotation are not used."] if len(rows) else []
    says += ["Empty ones are negative examples; if objects in them were forgotten, remove them."] if len(empty) else []
    yield f.finding(
        "unannotated", "hint", "", " ".join(says), [*rows, *empty],
        lambda i: "empty" if known[i] else "no annotation", title=" and ".join(parts),
    )  # fmt: skip


def points_outside(f: Facts) -> Iterator[Finding | None]:
    column = f.source.columns.get("points")
    if not isinstance(column, Points):
        return
    xy, seen = column.values[:, :, :2], column.values[:, :, 2] > 0
    sizes = f.seen.sizes[:, None]
    out = ((xy < -_OUTSIDE) | (xy > sizes + _OUTSIDE)).any(2) & seen & (sizes > 0).all(2)
    rows = np.flatnonzero(out.any(1))
    yield f.finding(
        "points_outside", "warning", "", "They are not learned. Mark points that do not exist with visibility 0.", rows,
        lambda i: listed([column.names[k] for k in np.flatnonzero(out[i])], 3),
        title=f"{counted(int(out.sum()), 'point')} outside of {counted(len(rows))}",
    )  # fmt: skip


def wrong_masks(source: Source, sizes: np.ndarray) -> dict[int, tuple[str, str]]:
    """Read every mask and say what is wrong with it: row -> (kind, what).

    Args:
        sizes: int (N, 2), width and height of the pictures, 0 where they cannot be read.
    """
    column = source.columns.get("mask")
    if not isinstance(column, Masks):
        return {}

    def look(i: int) -> tuple[str, str] | None:
        try:
            mask: Any = column[i]
            odd = column.odd(i) if column.odd is not None else []
        except DataError as error:
            return "unreadable", str(error)
        size, (width, height) = (mask.shape[1], mask.shape[0]), sizes[i].tolist()
        if width and size != (width, height):
            return "size", f"the mask is {size[0]} x {size[1]}, the picture {width} x {height}"
        if odd:
            return "values", f"{listed(odd, _MOST_ODD)} {'is' if len(odd) == 1 else 'are'} of no class"
        return ("bare", "no pixel is labelled") if (mask == NOT_LABELLED).all() else None

    rows = np.flatnonzero(column.known).tolist()
    with ThreadPoolExecutor(usable_cores()) as pool:
        return {i: wrong for i, wrong in zip(rows, pool.map(look, rows), strict=True) if wrong}


_MASKS = {
    "unreadable": ("error", "whose mask cannot be read", "They are not used. Export the masks again."),
    "size": ("error", "whose mask has another size",
             "Masks are scaled to the size of their pictures, by the nearest pixel. Where a mask shows another part of "
             "the scene, what is learned is in the wrong place: export it again."),
    "values": ("warning", "whose mask holds values that are no class",
               "These pixels count as not labelled. Name the classes in a file (classes.txt, label_colors.txt) beside "
               "the masks, or mend the masks; a mask that was saved as JPEG or made smaller smoothly has such values."),
    "bare": ("hint", "whose mask labels no pixel", "They teach nothing. Remove them."),
}  # fmt: skip


def masks(f: Facts) -> Iterator[Finding | None]:
    for kind, (severity, what, advice) in _MASKS.items():
        wrong = {i: why for i, (is_kind, why) in f.masks.items() if is_kind == kind}
        yield f.finding(f"mask_{kind}", severity, what, advice, list(wrong), wrong.__getitem__)


def conflict_annotations(f: Facts) -> Iterator[Finding | None]:
    """Equal files, or near copies, that were annotated differently."""
    columns = {role: column for role in ROLES if (column := f.source.columns.get(role)) is not None}
    if not columns or (f.source.label_sets is not None and set(columns) == {"tags"}):
        return
    pairs = [(a, b) for a, b in f.exact.tolist() if any(_differ(column, a, b) for column in columns.values())]
    boxes = columns.get("boxes")
    for a, b in f.near.tolist() if isinstance(boxes, Boxes) else ():
        # a near copy may be smaller, but the same things are in it
        one, other = boxes[a], boxes[b]  # type: ignore[index]
        if one is not None and other is not None and sorted(one.labels.tolist()) != sorted(other.labels.tolist()):
            pairs.append((a, b))
    groups = as_groups(connected(len(f.source), np.array(pairs).reshape(-1, 2).astype(np.int64)))
    yield f.finding(
        "conflict_annotations", "warning", f"in {counted(len(groups), 'group')} of copies with different annotations",
        "At most one of them is right. Keep the picture with the better annotation and delete the others.", groups,
    )  # fmt: skip


def _differ(column: Any, a: int, b: int) -> bool:
    try:
        one, other = column[a], column[b]
    except DataError:
        return False
    if one is None or other is None:
        return False
    if column.kind == "boxes":
        return len(one.labels) != len(other.labels) or _sorted(one) != _sorted(other)
    return one.shape != other.shape or not np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _sorted(boxes: Any) -> list[list[float]]:
    return sorted([*np.round(c).tolist(), float(k)] for c, k in zip(boxes.corners, boxes.labels, strict=True))


def counts(source: Source) -> str:
    """Say how many annotations there are: ", 412 boxes of 3 classes, masks of 11 classes for 30 pictures"."""
    parts = []
    boxes, masks, points, numbers = (source.columns.get(role) for role in ("boxes", "mask", "points", "numbers"))
    if isinstance(boxes, Boxes):
        parts.append(f"{counted(len(boxes.labels), 'box')} of {counted(len(boxes.names), 'class')}")
    if isinstance(masks, Masks):
        parts.append(f"masks of {counted(len(masks.names), 'class')} for {counted(int(masks.known.sum()))}")
    if isinstance(points, Points):
        parts.append(f"{counted(len(points.names), 'point')} in {counted(int(points.known.sum()))}")
    if isinstance(numbers, Numbers):
        parts.append(f"{counted(len(numbers.names), 'number')} of {counted(int(numbers.known.sum()))}")
    return "".join(f", {part}" for part in parts)


RULES: tuple[Rule, ...] = (resized, masks, conflict_annotations, boxes, points_outside, unannotated)
