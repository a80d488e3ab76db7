"""Augmentation: against slow and obvious references, and as functions of (seed, epoch) alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from neocog.data import augment as aug


def pictures(n: int = 6, size: int = 9) -> torch.Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**40),
    st.integers(0, 50),
    st.integers(0, 4),
    st.sampled_from(["none", "random", "alternating"]),
    st.booleans(),
)
def test_shift_and_flip_is_pad_crop_and_flip(seed: int, epoch: int, reach: int, flip: str, black: bool) -> None:
    x = pictures()
    draws = aug.draw(aug.Augment(flip=flip, translate=reach), len(x), seed, epoch)
    got = aug.shift_and_flip(x, draws, black=black)
    mode = "constant" if black else "reflect"
    padded = F.pad(x.permute(0, 3, 1, 2).float(), (reach,) * 4, mode=mode)
    for i in range(len(x)):
        top, left = (reach + int(v) for v in draws.shift[i])
        crop = padded[i, :, top : top + 9, left : left + 9]
        if draws.flip[i]:
            # the mirrored picture is moved, so its window lies on the other side
            left = reach - int(draws.shift[i, 1])
            crop = padded[i].flip(2)[:, top : top + 9, padded.shape[3] - left - 9 : padded.shape[3] - left]
            crop = padded[i, :, top : top + 9, :].flip(2)[:, :, left : left + 9]
        assert torch.equal(got[i].permute(2, 0, 1).float(), crop)


def test_draws_depend_on_seed_and_epoch_only() -> None:
    how = aug.Augment(flip="random", translate=2, cutout=3, colour=0.2)
    a, b = aug.draw(how, 50, 7, 3), aug.draw(how, 50, 7, 3)
    assert torch.equal(a.shift, b.shift) and torch.equal(a.flip, b.flip) and torch.equal(a.colour, b.colour)
    assert not torch.equal(a.shift, aug.draw(how, 50, 7, 4).shift)
    assert not torch.equal(a.shift, aug.draw(how, 50, 8, 3).shift)
    rows = torch.tensor([4, 2, 9])
    assert torch.equal(a.at(rows).shift, a.shift[rows])


def test_alternating_flip_shows_both_sides_in_two_epochs() -> None:
    how = aug.Augment(flip="alternating")
    first, second, third = (aug.draw(how, 1000, 1, e).flip for e in range(3))
    assert torch.equal(first, ~second) and torch.equal(first, third)
    assert 400 < int(first.sum()) < 600


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.999), st.floats(0, 0.999), st.integers(1, 8))
def test_cut_out_blanks_one_square(y: float, x: float, side: int) -> None:
    draws = aug.draw(aug.Augment(), 1, 0, 0)
    draws.square = torch.tensor([[y, x]])
    out = aug.cut_out(torch.ones(1, 2, 12, 12), draws, side)[0]
    rows, columns = np.nonzero((out[0] == 0).numpy())
    assert torch.equal(out[0], out[1])
    assert len(rows) > 0
    assert rows.max() - rows.min() < side and columns.max() - columns.min() < side
    inside = side // 2 <= int(y * 12) and int(y * 12) + side - side // 2 <= 12
    inside &= side // 2 <= int(x * 12) and int(x * 12) + side - side // 2 <= 12
    assert not inside or len(rows) == side * side


def test_jitter_keeps_the_range_and_is_the_identity_at_one() -> None:
    x = torch.rand(4, 3, 5, 5)
    draws = aug.draw(aug.Augment(), 4, 0, 0)
    torch.testing.assert_close(aug.jitter_colour(x, draws), x, atol=1e-6, rtol=0)
    draws = aug.draw(aug.Augment(colour=0.9), 4, 0, 0)
    out = aug.jitter_colour(x, draws)
    assert out.min() >= 0 and out.max() <= 1 and not torch.allclose(out, x)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.integers(8, 400), st.integers(8, 400), st.floats(0.05, 1))
def test_crop_boxes_lie_inside_and_have_the_area(u: list[float], h: int, w: int, smallest: float) -> None:
    left, top, right, bottom = aug.crop_box(torch.tensor(u), h, w, smallest)
    assert 0 <= left < right <= w + 1e-3 and 0 <= top < bottom <= h + 1e-3
    area = (right - left) * (bottom - top) / (h * w)
    assert area <= smallest + (1 - smallest) * u[0] + 1e-4
    if right - left < w - 1 and bottom - top < h - 1:
        assert area == pytest.approx(smallest + (1 - smallest) * u[0], rel=1e-2)
        assert 0.74 < (right - left) / (bottom - top) < 1.34


def test_a_crop_of_everything_is_the_picture() -> None:
    x = torch.rand(2, 3, 8, 8)
    draws = aug.draw(aug.Augment(), 2, 0, 0)
    draws.box = torch.tensor([[1.0, math.log(4 / 3) / math.log(16 / 9), 0.3, 0.3]] * 2)  # all of it, as wide as high
    torch.testing.assert_close(
        aug.resampled(x, aug.geometry(draws, aug.Augment(resized_crop=0.5), 8, 8)), x, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_smaller_pictures_show_the_same(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 32, 48, dtype=dtype).contiguous(memory_format=layout)
    small = aug.smaller(x, 16)
    assert small.shape == (2, 3, 16, 24) and small.dtype == dtype and small.is_contiguous(memory_format=layout)
    assert aug.smaller(x, 32) is x
    assert torch.equal(aug.smaller(torch.full_like(x, 0.5), 24), torch.full((2, 3, 24, 36), 0.5, dtype=dtype))
    # by half, away from the edges: the triangle over four pixels, with weights 1, 3, 3, 1
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    rows = (x.float()[0, 0, 9:13, 9:13] * weights[:, None]).sum(0)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    assert float(small[0, 0, 5, 5]) == pytest.approx(float(rows @ weights), abs=tolerance)


def test_mixup_and_cutmix_tell_their_share() -> None:
    x = torch.stack([torch.full((1, 16, 16), float(i)) for i in range(8)])
    for how in (aug.Augment(mixup=0.5), aug.Augment(cutmix=1.0)):
        for key in range(20):
            mixed, partner, share = aug.mix(x, how, aug.generator(key))
            assert partner is not None and 0 <= share <= 1
            mean = mixed.mean(dim=(1, 2, 3))
            torch.testing.assert_close(mean, share * torch.arange(8.0) + (1 - share) * partner.float())
    _, partner, _ = aug.mix(x[:5], aug.Augment(mixup=0.5), aug.generator(0))
    assert partner is not None and partner.tolist() == [1, 0, 3, 2, 4]  # pairs, so that processes need not share them
    same, partner, share = aug.mix(x, aug.Augment(), aug.generator(0))
    assert same is x and partner is None and share == 1.0


def test_beta_has_the_mean_and_variance_of_beta() -> None:
    g = aug.generator(5)
    for alpha in (0.2, 1.0):
        values = np.array([aug._beta(alpha, g) for _ in range(4000)])
        assert values.mean() == pytest.approx(0.5, abs=0.03)
        assert values.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
