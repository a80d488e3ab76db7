"""A Source: pictures by index, with their annotations in columns.

A million pictures cost tens of MB: labels and splits are arrays, keys are one buffer, and a `Sample` is made only
when somebody asks for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.columns import LabelColumn, LabelSets, count_splits, split_code
from neocog.data.kinds import NOT_LABELLED, Boxes, Categories, Category, Column, Masks, Sequences, TextLists
from neocog.data.layouts import Layout
from neocog.errors import DataError
from neocog.names import shown
from neocog.records import SPLITS, Box, Problem, Sample

ONE_LABEL = "The task label is one label for each picture."


class Source:
    """Samples from one place: pictures, or inputs of another `kind`.

    Subclasses say where bytes come from: `read`, and where it applies `key` and `path`.

    Attributes:
        name: short name, for reports.
        kind: of the inputs that `read` gives: "picture", or that of a ``data.reader.Reader``.
        columns: the annotations of the pictures, by role: "label", "tags", "captions", "boxes", "mask", "points",
            "numbers", "second"; each role only where it is known (see ``neocog.data.kinds``).
        splits: int8 (N,), index into `records.SPLITS`, -1 = not declared.
        notes: what was guessed and the user should know, one sentence each.
        problems: pictures that could not be listed; decoding errors come later.
        said_sizes: int (N, 2), width and height of pictures as their annotations say, 0 = not said; for `check`.
        layout: what the folder looks like, if it holds annotations of another kind than one label for each picture.
        drawn: the pictures are computed, not taken by a camera.

    `classes`, `labels`, `label_sets` and `captions` are short for what the columns "label", "tags" and "captions" hold.
    """

    kind = "picture"
    layout: Layout | None = None
    drawn = False
    said_sizes: np.ndarray | None = None
    _unfit = ""

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        labels: np.ndarray,
        splits: np.ndarray,
        *,
        notes: Sequence[str] = (),
        problems: Sequence[Problem] = (),
        label_sets: LabelSets | None = None,
        captions: TextLists | None = None,
        columns: Mapping[str, Column] | None = None,
        unfit: str = "",
    ) -> None:
        self.name = name
        self.splits = np.ascontiguousarray(splits, dtype=np.int8)
        self.notes = list(notes)
        self.problems = list(problems)
        self._unfit = unfit
        made: dict[str, Column] = {"label": Category(labels, [shown(one) for one in classes])}
        if label_sets is not None:
            made["tags"] = Categories(label_sets, made["label"].names)
        if captions is not None:
            made["captions"] = captions
        self.columns: Mapping[str, Column] = {**made, **(columns or {})}
        for role, column in self.columns.items():
            if len(column) != len(self.splits):
                raise DataError(
                    f"{name}: {len(column)} rows of {role!r} but {len(self.splits)} splits; expected as many"
                )

    def __len__(self) -> int:
        return len(self.splits)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; sorted, or in a named set's official order."""
        return self.columns["label"].names  # type: ignore[attr-defined, no-any-return]

    @property
    def labels(self) -> np.ndarray:
        """int32 (N,), index into `classes`, -1 = unlabelled (or several labels, see `label_sets`)."""
        return self.columns["label"].codes  # type: ignore[attr-defined, no-any-return]

    @property
    def label_sets(self) -> LabelSets | None:
        """The labels of each picture, among `classes`, where there can be several, else None."""
        tags = self.columns.get("tags")
        return tags.sets if isinstance(tags, Categories) and tags.names == self.classes else None

    @property
    def captions(self) -> TextLists | None:
        """The captions of each picture, or None."""
        texts = self.columns.get("captions")
        return texts if isinstance(texts, TextLists) else None

    def __repr__(self) -> str:
        splits = count_splits(self.splits)
        return f"<{type(self).__name__} {self.name!r}: {len(self)} pictures, {len(self.classes)} classes, {splits}>"

    @property
    def unfit(self) -> str:
        """Why no net can be trained on one label for each of these pictures, in sentences, or ""."""
        if self._unfit or self.label_sets is None:
            return self._unfit
        labels = np.diff(self.label_sets.ends)
        if 2 * self.several <= (labels > 0).sum():
            return ""
        return (
            f"{self.name} has several labels for a picture ({self.several:,} of {len(self):,} pictures; "
            f"{labels.sum() / max(1, (labels > 0).sum()):.3g} labels on average). {ONE_LABEL} "
            "--task tags learns them all. Or choose a column with one label (--column label=NAME), or keep those "
            "pictures that have one label."
        )

    @property
    def several(self) -> int:
        """Number of pictures with more than one label."""
        return 0 if self.label_sets is None else int((np.diff(self.label_sets.ends) > 1).sum())

    def require_labels(self) -> None:
        """Raises: DataError if the data were made for another task than one label for each picture."""
        if self.unfit:
            raise DataError(self.unfit)

    def key(self, i: int) -> str:
        """Return the unique, readable name of picture `i`, such as ``train/cat/1.jpg`` or ``train.parquet#17``."""
        return f"{self.name}#{i}"

    def path(self, i: int) -> Path | None:
        """Return the absolute path if picture `i` is a file of its own."""
        return None

    def read(self, i: int) -> Any:
        """Return the encoded bytes of picture `i`, or its pixels, uint8 (H, W) or (H, W, 3). Thread-safe.

        An input of another kind is what its reader takes.

        Raises: DataError: the bytes cannot be read any more (file removed, disk gone).
        """
        raise NotImplementedError

    def features(self, rows: np.ndarray) -> np.ndarray | None:
        """What a trunk makes of pictures, float32 (N, F), where that is kept, so that no picture has to be read."""
        return None

    def sample(self, i: int) -> Sample:
        """Return the annotations of picture `i`; its mask, which would have to be read, is ``columns["mask"][i]``."""
        label = self.classes[self.labels[i]] if self.labels[i] >= 0 else None
        if self.label_sets is not None:
            several = tuple(self.classes[j] for j in self.label_sets[i])
        else:
            several = (label,) if label is not None else ()
        found = self.columns["boxes"][i] if "boxes" in self.columns else None
        names: tuple[str, ...] = getattr(self.columns.get("boxes"), "names", ())
        boxes = () if found is None else zip(found.corners.tolist(), found.labels, strict=True)
        return Sample(
            key=self.key(i),
            label=label,
            labels=several,
            captions=self.captions[i] if self.captions is not None else (),
            boxes=tuple(Box(x0, y0, x1, y1, names[k]) for (x0, y0, x1, y1), k in boxes),
            split=SPLITS[self.splits[i]] if self.splits[i] >= 0 else None,
        )

    def select(self, indices: np.ndarray | Sequence[int]) -> Source:
        """Return a view of the pictures `indices` (or of those where a boolean mask is true), in that order."""
        return Selected(self, as_indices(indices, len(self)))

    def fingerprint(self) -> str:
        """Return sha256 hex over class names, keys, labels, splits and sizes: same data, same text."""
        digest = hashlib.sha256()
        for name in self.classes:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(self.labels.astype("<i4").tobytes())
        digest.update(self.splits.tobytes())
        if self.label_sets is not None:
            digest.update(self.label_sets.ends.astype("<i8").tobytes())
            digest.update(self.label_sets.values.astype("<i4").tobytes())
        for role, column in self.columns.items():
            if role not in ("label", "tags", "captions"):
                digest.update(f"{role} {column.kind}\0".encode() + column.fingerprint())
        for i in range(len(self)):
            digest.update(self.key(i).encode("utf-8", "surrogateescape") + b"\0")
            digest.update(self._signature(i) + b"\0")
        return digest.hexdigest()

    def _signature(self, i: int) -> bytes:
        """Return what stands for the content of picture `i` in the fingerprint: its size in bytes, cheap to know."""
        return b""


class Selected(Source):
    """Some pictures of another source; holds indices only."""

    def __init__(self, base: Source, indices: np.ndarray) -> None:
        self.kind = base.kind
        self.name, self.splits = base.name, base.splits[indices]
        self.notes, self.problems, self._unfit = list(base.notes), list(base.problems), base._unfit
        self.columns = {role: column.select(indices) for role, column in base.columns.items()}
        if isinstance(base, Selected):  # a view of a view reads one step deep
            indices = base.indices[indices]
            base = base.base
        self.base: Source = base
        self.indices: np.ndarray = indices

    def key(self, i: int) -> str:
        return self.base.key(int(self.indices[i]))

    def path(self, i: int) -> Path | None:
        return self.base.path(int(self.indices[i]))

    def read(self, i: int) -> Any:
        return self.base.read(int(self.indices[i]))

    def sample(self, i: int) -> Sample:
        return self.base.sample(int(self.indices[i]))

    def _signature(self, i: int) -> bytes:
        return self.base._signature(int(self.indices[i]))


class Arrays(Source):
    """Pictures in memory.

    Args:
        columns: other annotations, by role.
        pictures: uint8 (N, H, W) or (N, H, W, 3), or a list of uint8 (H, W) or (H, W, 3) of any sizes.
        labels: N integers (index into `classes`, -1 = unlabelled), N names, N lists of names, or None.
        classes: class names; guessed from the labels if not given.
        splits: N codes (index into `records.SPLITS`, -1 = not declared), N names, or None.

    Raises: DataError: the shapes, types or lengths do not fit.
    """

    def __init__(
        self,
        pictures: np.ndarray | Sequence[np.ndarray],
        labels: Sequence | np.ndarray | None = None,
        classes: Sequence[str] | None = None,
        splits: Sequence | np.ndarray | None = None,
        name: str = "arrays",
        columns: Mapping[str, Column] | None = None,
    ) -> None:
        many = pictures if isinstance(pictures, np.ndarray) else [np.asarray(one) for one in pictures]
        n = len(many)
        for shape, dtype in (
            {(one.shape, one.dtype) for one in many} if isinstance(many, list) else {(many.shape[1:], many.dtype)}
        ):
            if dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
                raise DataError(
                    f"pictures must be uint8 of shape (H, W) or (H, W, 3), got {dtype} {tuple(shape)}; "
                    "scale to 0..255 and call .astype('uint8'), channels last"
                )
        column = LabelColumn()
        rows: Sequence | np.ndarray = [None] * n if labels is None else labels
        if len(rows) != n:
            raise DataError(f"{n} pictures but {len(rows)} labels; give one label for each picture")
        if classes is None and isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and rows.ndim == 1 and n:
            # integers mean themselves here: label 3 stays 3 even if no picture has label 2
            classes = [str(i) for i in range(int(rows.max()) + 1)] if rows.max() >= 0 else []
        for row in rows:
            column.append(row)
        names, codes, several = column.finish(classes)
        if splits is None:
            split_codes = np.full(n, -1, dtype=np.int8)
        elif len(splits) != n:
            raise DataError(f"{n} pictures but {len(splits)} splits; give one split for each picture")
        else:
            split_codes = np.array([split_code(s) if isinstance(s, str) else int(s) for s in splits], dtype=np.int8)
            if n and not (split_codes.min() >= -1 and split_codes.max() < len(SPLITS)):
                raise DataError(f"splits must be names or codes 0..2 of {SPLITS} (-1 = not declared)")
        super().__init__(name, names, codes, split_codes, label_sets=several, columns=columns)
        self.pictures = many

    def read(self, i: int) -> np.ndarray:
        return self.pictures[i]

    def _signature(self, i: int) -> bytes:
        # pixels in memory are quick to hash, and nothing else would tell two sets of one shape apart
        picture = self.pictures[i]
        return str(picture.shape).encode() + hashlib.sha256(np.ascontiguousarray(picture).data).digest()


def as_indices(indices: np.ndarray | Sequence[int], n: int) -> np.ndarray:
    """Return int64 indices for integers or a boolean mask over `n` rows; negative ones count from the end."""
    chosen = np.asarray(indices)
    if chosen.dtype == bool:
        if chosen.shape != (n,):
            raise IndexError(f"a mask over {n} pictures must have shape ({n},), got {chosen.shape}")
        return np.flatnonzero(chosen)
    chosen = chosen.astype(np.int64).reshape(-1)
    if len(chosen) and (chosen.min() < -n or chosen.max() >= n):
        raise IndexError(f"picture index out of range 0..{n - 1}")
    return np.where(chosen < 0, chosen + n, chosen)


def renamed(column: Column, wanted: Column | tuple[str, ...]) -> Column:
    """A column with its classes in the order of another one's, or of names. Raises: DataError: a class is not there."""
    own, names = column.names, wanted if isinstance(wanted, tuple) else wanted.names
    if own == names:
        return column
    if lacking := [name for name in own if name not in names]:
        more = " ..." if len(names) > 5 else ""
        raise DataError(
            f"the test data have classes that are not in the training data: {', '.join(lacking[:5])}; "
            f"training has {', '.join(names[:5])}{more}"
        )
    number = np.array([names.index(name) for name in own] or [0], dtype=np.int32)
    if isinstance(column, Category | Sequences):
        codes = np.where(column.codes >= 0, number[column.codes], -1)
        return Category(codes, names) if isinstance(column, Category) else Sequences(column.ends, codes, names)
    if isinstance(column, Boxes):
        return Boxes(column.ends, column.corners, number[column.labels], names, column.ignored, column.known)
    if isinstance(column, Categories):
        unknown = None if column.unknown is None else LabelSets(column.unknown.ends, number[column.unknown.values])
        return Categories(LabelSets(column.sets.ends, number[column.sets.values]), names, unknown, column.known)
    if isinstance(column, Masks):
        table = np.full(256, NOT_LABELLED, dtype=np.uint8)
        table[: len(own)] = number
        read = column._read
        return Masks(lambda i: table[read(i)], len(column), names, column.colours, column.known, column.mark)
    raise DataError(f"the test data have {', '.join(own)} where the training data have {', '.join(names)}")
