"""What `check` says about boxes, masks and points. Each rule makes one finding at most."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from neocog.data.duplicates import as_groups, connected
from neocog.data.findings import Facts, Finding, Rule, counted, listed
from neocog.data.kinds import NOT_LABELLED, Boxes, Masks, Numbers, Points
from neocog.data.source import Source
from neocog.data.survey import default_workers
from neocog.errors import DataError

_OUTSIDE = 1.0  # pixels by which a box or point may stand out: tools round
_MANY = 0.1  # share of boxes outside from which on something is wrong with all of them
_MOST_ODD = 8  # values of a mask that are named
ROLES = ("boxes", "mask", "points", "numbers", "tags")  # columns that two copies of a picture should have in common


def _boxes(f: Facts) -> tuple[Boxes, np.ndarray, np.ndarray] | None:
    """The boxes, the picture of each, and its width and height (0 where it cannot be read)."""
    column = f.source.columns.get("boxes")
    if not isinstance(column, Boxes) or not len(column.labels):
        return None
    rows = np.repeat(np.arange(len(column)), np.diff(column.ends))
    return column, rows, f.seen.sizes[rows]


def _by_picture(
    f: Facts,
    name: str,
    severity: str,
    what: tuple[str, str],
    advice: str,
    wrong: np.ndarray,
    note: Callable[[int], str],
) -> Finding | None:
    """A finding about the pictures of the boxes in `wrong`: `what` is a noun and what follows; `note` is of a box."""
    found = _boxes(f)
    if found is None or not wrong.any():
        return None
    rows, boxes = found[1], np.flatnonzero(wrong)
    pictures = np.unique(rows[boxes])

    def said(i: int) -> str:
        own = boxes[rows[boxes] == i]
        return "; ".join(note(int(j)) for j in own[:3]) + (f" and {len(own) - 3} more" if len(own) > 3 else "")

    title = f"{counted(len(boxes), what[0])}{what[1]} in {counted(len(pictures))}"
    return f.finding(name, severity, title, len(pictures), advice, pictures, said)


def boxes_inverted(f: Facts) -> Finding | None:
    if (found := _boxes(f)) is None:
        return None
    column, _, _ = found
    sides = column.corners[:, 2:] - column.corners[:, :2]
    wrong = np.asarray((sides <= 0).any(1))

    def note(j: int) -> str:
        x0, y0, x1, y1 = column.corners[j].tolist()
        return f"{column.names[column.labels[j]]} from {x0:g}, {y0:g} to {x1:g}, {y1:g}"

    return _by_picture(
        f, "boxes_inverted", "error", ("empty or inverted box", ""),
        "They cover nothing and cannot be learned. Swap the corners, or delete the boxes; if all are like "
        "this, the columns or the order of the numbers were misread.", wrong, note,
    )  # fmt: skip


def boxes_outside(f: Facts) -> Finding | None:
    if (found := _boxes(f)) is None:
        return None
    column, _, sizes = found
    low, high = -column.corners[:, :2], column.corners[:, 2:] - sizes
    out = np.concatenate((low, high), 1).max(1)
    wrong: np.ndarray = (out > _OUTSIDE) & (sizes > 0).all(1)

    def note(j: int) -> str:
        return f"{column.names[column.labels[j]]} reaches beyond the edge by {out[j]:.0f} pixels"

    severity = "error" if wrong.mean() > _MANY else "warning"
    advice = "They are cut at the picture's edge. Were the pictures scaled down after they were annotated?"
    return _by_picture(f, "boxes_outside", severity, ("box", " beyond the edge"), advice, wrong, note)


def resized(f: Facts) -> Finding | None:
    """Pictures of another size than their annotations say: then boxes and outlines are in the wrong place."""
    said, sizes = f.source.said_sizes, f.seen.sizes
    if said is None or not len(said):
        return None
    rows = np.flatnonzero((said > 0).all(1) & (sizes > 0).all(1) & (said != sizes).any(1))
    if not len(rows):
        return None

    def note(i: int) -> str:
        turned = f.seen.rotated[i] and (said[i] == sizes[i][::-1]).all()
        how = "is turned by EXIF to" if turned else "is"
        return f"annotated as {said[i][0]} x {said[i][1]}, {how} {sizes[i][0]} x {sizes[i][1]}"

    return f.finding(
        "resized", "error", f"{counted(len(rows))} of another size than the annotations say", len(rows),
        "Boxes, points and outlines are taken as pixels of the picture that is there, so they are in the wrong place. "
        "Put the original pictures back, or scale the annotations. Annotate pictures that EXIF turns as they are seen, "
        "upright.", rows, note,
    )  # fmt: skip


def boxes_doubled(f: Facts) -> Finding | None:
    if (found := _boxes(f)) is None:
        return None
    column, rows, _ = found
    keys = np.concatenate((rows[:, None], column.labels[:, None], np.round(column.corners)), 1)
    _, first, count = np.unique(keys, axis=0, return_index=True, return_counts=True)
    wrong = np.zeros(len(rows), dtype=bool)
    wrong[first[count > 1]] = True
    return _by_picture(
        f, "boxes_doubled", "warning", ("doubled box", ""),
        "The second one counts as missed wherever the net answers once. Delete the copies.", wrong,
        lambda j: f"{column.names[column.labels[j]]} appears twice",
    )  # fmt: skip


def box_classes(f: Facts) -> Finding | None:
    """Classes that no box has, or none of the training pictures."""
    if (found := _boxes(f)) is None:
        return None
    column, rows, _ = found
    everywhere = np.bincount(column.labels, minlength=len(column.names))
    trained = everywhere
    if (f.source.splits == 0).any():
        trained = np.bincount(column.labels[f.source.splits[rows] == 0], minlength=len(column.names))
    lacking = np.flatnonzero(trained == 0)
    if not len(lacking):
        return None
    untrained = [k for k in lacking if everywhere[k]]
    names = [column.names[k] for k in lacking]
    title = f"{counted(len(lacking), 'class')} without a box{' in train' if untrained else ''}: {listed(names)}"
    if untrained:
        advice = "The net cannot learn them. Are they spelled differently elsewhere?"
        return Finding("box_classes", "error", title, len(lacking), advice)
    advice = "The net gets an output that is never trained. Remove them from the list of classes, or add boxes."
    return Finding("box_classes", "hint", title, len(lacking), advice)


def unannotated(f: Facts) -> Finding | None:
    """Pictures without annotations, where others are annotated; and how many count as empty."""
    columns = [column for role in ("boxes", "mask", "points") if (column := f.source.columns.get(role)) is not None]
    if not columns:
        return None
    known = np.any([column.known for column in columns], axis=0)
    rows = np.flatnonzero(~known)
    boxes = f.source.columns.get("boxes")
    empty = np.zeros(0, int)
    if isinstance(boxes, Boxes):
        empty = np.flatnonzero(boxes.known & (np.diff(boxes.ends) == 0))
    if not len(rows) and not len(empty):
        return None
    parts = [f"{counted(len(rows))} without an annotation"] if len(rows) else []
    parts += [f"{counted(len(empty))} annotated as empty"] if len(empty) else []
    says = ["Those without an annotation are not used."] if len(rows) else []
    if len(empty):
        says.append("Empty ones are negative examples; if objects in them were forgotten, remove them.")
    return f.finding(
        "unannotated", "hint", " and ".join(parts), len(rows) + len(empty), " ".join(says), [*rows, *empty],
        lambda i: "empty" if known[i] else "no annotation",
    )  # fmt: skip


def points_outside(f: Facts) -> Finding | None:
    column = f.source.columns.get("points")
    if not isinstance(column, Points):
        return None
    xy, seen = column.values[:, :, :2], column.values[:, :, 2] > 0
    sizes = f.seen.sizes[:, None]
    out = ((xy < -_OUTSIDE) | (xy > sizes + _OUTSIDE)).any(2) & seen & (sizes > 0).all(2)
    rows = np.flatnonzero(out.any(1))
    if not len(rows):
        return None
    return f.finding(
        "points_outside", "warning", f"{counted(int(out.sum()), 'point')} outside of {counted(len(rows))}", len(rows),
        "They are not learned. Mark points that do not exist with visibility 0.", rows,
        lambda i: listed([column.names[k] for k in np.flatnonzero(out[i])], 3),
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
    with ThreadPoolExecutor(default_workers()) as pool:
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


def _mask_rule(kind: str) -> Rule:
    def rule(f: Facts) -> Finding | None:
        wrong = {i: what for i, (is_kind, what) in f.masks.items() if is_kind == kind}
        if not wrong:
            return None
        severity, title, advice = _MASKS[kind]
        text = f"{counted(len(wrong))} {title}"
        return f.finding(f"mask_{kind}", severity, text, len(wrong), advice, list(wrong), wrong.__getitem__)

    return rule


def conflict_annotations(f: Facts) -> Finding | None:
    """Equal files, or near copies, that were annotated differently."""
    columns = {role: column for role in ROLES if (column := f.source.columns.get(role)) is not None}
    if not columns or (f.source.label_sets is not None and set(columns) == {"tags"}):
        return None
    pairs = []
    for a, b in f.exact.tolist():
        if any(_differ(column, a, b) for column in columns.values()):
            pairs.append((a, b))
    boxes = columns.get("boxes")
    if isinstance(boxes, Boxes):  # a near copy may be smaller, but the same things are in it
        for a, b in f.near.tolist():
            one, other = boxes[a], boxes[b]
            if one is not None and other is not None and sorted(one.labels.tolist()) != sorted(other.labels.tolist()):
                pairs.append((a, b))
    if not pairs:
        return None
    groups = as_groups(connected(len(f.source), np.array(pairs)))
    count = sum(map(len, groups))
    return f.finding(
        "conflict_annotations", "warning",
        f"{counted(count)} in {counted(len(groups), 'group')} of copies with different annotations", count,
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


RULES: tuple[Rule, ...] = (
    resized, boxes_inverted, boxes_outside, *(_mask_rule(kind) for kind in _MASKS), conflict_annotations, boxes_doubled,
    box_classes, points_outside, unannotated,
)  # fmt: skip
