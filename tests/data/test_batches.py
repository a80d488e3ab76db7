"""Batches: nothing lost, the same whatever the number of processes, entered at any step, flat in memory."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from neocog.data import Arrays
from neocog.data.augment import Augment
from neocog.data.batches import Batches, Known, in_order
from neocog.data.pictures import Held, Streamed
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.records import Preprocess
from neocog.tasks import Label
from neocog.tasks.label import IGNORED

PRE = Preprocess(size=16, resize=16, mean=(0.0,) * 3, std=(1.0,) * 3)
CPU = torch.device("cpu")


def numbered(n: int = 40, size: int = 16) -> Arrays:
    """Pictures that are all of one brightness: picture i is i."""
    return Arrays(
        np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, size, size, 3)).copy(),
        labels=[f"{i % 4}" for i in range(n)],
    )


class Files(Source):
    """Encoded pictures, some of them broken."""

    def __init__(self, blobs: list[bytes]) -> None:
        n = len(blobs)
        super().__init__("files", ("a",), np.zeros(n, np.int32), np.full(n, -1, np.int8))
        self.blobs = blobs

    def key(self, i: int) -> str:
        return f"{i}.png"

    def read(self, i: int) -> bytes:
        return self.blobs[i]


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 20), (value, value, value)).save(out, "PNG")
    return out.getvalue()


def shown(batches: Batches, steps: int, first: int = 0) -> list[list[int]]:
    """The numbers of the pictures of each batch."""
    found = itertools.islice(batches.stream(first), steps)
    return [(b.x[:, 0, 0, 0].float() * 255).round().int().tolist() for b in found]


def labels(source: Source) -> Known:
    return Known({"label": source.columns["label"]}, Label(source.classes).collate)


def make(source: Source, kind: type, how: Augment | None = None, **options: object) -> Batches:
    rows = np.arange(len(source))
    pictures = Held(source, rows, PRE, CPU) if kind is Held else Streamed(source, rows, PRE)
    options = {"batch_size": 8, "seed": 3, "device": CPU, **options}
    return Batches(pictures, labels(source), how or Augment(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Held, Streamed])
def test_an_epoch_shows_every_picture_once(kind: type) -> None:
    batches = make(numbered(), kind)
    assert batches.steps_per_epoch == 5
    first, second = shown(batches, 5), shown(batches, 5, first=5)
    assert sorted(itertools.chain(*first)) == list(range(40)) == sorted(itertools.chain(*second))
    assert first != second


@pytest.mark.parametrize("kind", [Held, Streamed])
def test_a_stream_can_be_entered_at_any_step(kind: type) -> None:
    how = Augment(flip="random", translate=3, cutout=4, colour=0.3, mixup=0.3)
    whole = list(itertools.islice(make(numbered(), kind, how).stream(0), 9))
    late = list(itertools.islice(make(numbered(), kind, how).stream(6), 3))
    for a, b in zip(whole[6:], late, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.targets["label"], b.targets["label"])
        assert a.mix is not None and b.mix is not None
        assert torch.equal(a.mix.partner, b.mix.partner) and a.mix.share == b.mix.share


def test_held_and_streamed_pictures_are_the_same() -> None:
    how = Augment(flip="random", translate=2)
    held, streamed = (itertools.islice(make(numbered(), kind, how).stream(0), 7) for kind in (Held, Streamed))
    for a, b in zip(held, streamed, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.targets["label"], b.targets["label"])


def test_processes_share_each_batch() -> None:
    alone = shown(make(numbered(), Held), 5)
    parts = [shown(make(numbered(), Held, rank=r, world=2), 5) for r in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == alone
    with pytest.raises(DataError, match="cannot be divided among 3 processes"):
        make(numbered(), Held, world=3)


def test_labels_belong_to_their_pictures_and_layout_is_channels_last() -> None:
    for batch in itertools.islice(make(numbered(), Held).stream(0), 5):
        assert torch.equal((batch.x[:, 0, 0, 0] * 255).round().long() % 4, batch.targets["label"])
        assert batch.x.is_contiguous(memory_format=torch.channels_last)


def test_a_task_can_change_how_often_pictures_are_drawn() -> None:
    source = numbered()
    task = Label(source.classes, sampling=[0.0, 1.0, 1.0, 0.0])

    def order(g: torch.Generator) -> torch.Tensor | None:
        return task.order(source.columns, len(source), 8, g)

    drawn = [i for part in shown(make(source, Held, order=order), 5) for i in part]
    assert {i % 4 for i in drawn} == {1, 2} and len(set(drawn)) < len(drawn)
    rows = torch.tensor([1, 2] * 20)
    assert {i for part in shown(make(source, Held, order=lambda g: rows), 5) for i in part} == {1, 2}


def test_bad_pictures_are_listed_and_do_not_count() -> None:
    source = Files([png(1), b"not a picture", png(3), b"", png(5)])
    held = Held(source, np.arange(5), PRE, CPU)
    assert held.kept.tolist() == [0, 2, 4] and len(held) == 3
    assert [p.key for p in held.problems] == ["1.png", "3.png"]
    streamed = Streamed(source, np.arange(5), PRE)
    batches = Batches(streamed, labels(source), Augment(), 5, seed=0, device=CPU)
    batch = next(batches.stream(0))
    assert sorted(batch.targets["label"].tolist()) == [IGNORED, IGNORED, 0, 0, 0]
    assert sorted(batch.rows[batch.valid].tolist()) == [0, 2, 4]
    assert sorted(p.key for p in streamed.problems) == ["1.png", "3.png"]
    rows = torch.cat([b.rows for b in in_order(Streamed(source, np.arange(5), PRE), 2, CPU)])
    assert rows.tolist() == [0, 2, 4]
    with pytest.raises(DataError, match="no training picture is left"):
        Batches(Held(Files([b""]), np.arange(1), PRE, CPU), labels(source), Augment(), 5, seed=0, device=CPU)


def test_streamed_random_crops_keep_the_colour_of_a_plain_picture_and_repeat() -> None:
    source = Files([png(10 * i) for i in range(8)])
    how = Augment(resized_crop=0.3, flip="random")
    first, second = (next(make(source, Streamed, how).stream(0)) for _ in range(2))
    assert torch.equal(first.x, second.x) and first.x.shape == (8, 3, 16, 16)
    assert sorted((first.x[:, 0, 5, 5] * 255).round().int().tolist()) == [10 * i for i in range(8)]


def test_pixels_are_normalised() -> None:
    pre = Preprocess(size=16, resize=16, mean=(0.25,) * 3, std=(0.5,) * 3)
    held = Held(Arrays(np.full((1, 16, 16, 3), 255, np.uint8)), np.arange(1), pre, CPU)
    x = next(iter(in_order(held, 4, CPU))).x
    torch.testing.assert_close(x, torch.full((1, 3, 16, 16), 1.5))


def test_small_annotations_of_held_pictures_are_read_once() -> None:
    class Counting:
        kind = "mask"

        def __init__(self, side: int) -> None:
            self.side, self.read = side, 0

        def __getitem__(self, i: int) -> np.ndarray:
            self.read += 1
            return np.full((self.side, self.side), i, np.uint8)

    rows = torch.tensor([2, 0, 2])
    for side, keep, reads in ((16, 0, 6), (16, 768, 2), (64, 768, 6)):
        column = Counting(side)
        known = Known({"mask": column}, lambda values, warp, valid: values, keep=keep)  # type: ignore[dict-item]
        for _ in range(2):
            assert [int(one[0, 0]) for one in known.values(rows)["mask"]] == [2, 0, 2]
        assert column.read == reads


def test_an_epoch_of_pieces_shows_each_picture_so_often_and_never_the_same_piece() -> None:
    def pieces(**given: int) -> Batches:
        pictures = Held(numbered(10), np.arange(10), PRE, CPU)
        how = Augment(translate=8)
        return Batches(
            pictures, Known({}, lambda v, w, ok: {}, warps=True), how, 6, seed=3, device=CPU, pieces=4, **given
        )

    one = pieces()
    assert one.steps_per_epoch == 40 // 6
    batches = list(itertools.islice(one.stream(0), 2 * one.steps_per_epoch))
    rows = torch.stack([batch.rows for batch in batches]).reshape(2, -1)
    for epoch in rows:
        counts = torch.bincount(epoch, minlength=10)
        assert counts.max() <= 4 and counts.sum() == 36
    assert not torch.equal(*rows)
    places = {}
    for batch in batches[: one.steps_per_epoch]:
        for row, matrix in zip(batch.rows.tolist(), batch.warp.matrix, strict=True):
            places.setdefault(row, set()).add(tuple(matrix.flatten().tolist()))
    assert sum(map(len, places.values())) > 30  # two of 289 places are seldom the same
    halves = [list(itertools.islice(pieces(rank=rank, world=2).stream(3), 2)) for rank in range(2)]
    for whole, *parts in zip(batches[3:5], *halves, strict=True):
        assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
