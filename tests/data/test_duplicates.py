"""Duplicates: the index misses nothing, a changed copy is found again."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from neocog.data.duplicates import (
    DISTANCE,
    as_groups,
    connected,
    content_hash,
    hash_pairs,
    look_at,
    near_pairs,
    split_groups,
)
from neocog.errors import UsageError


def scene(seed: int, width: int = 160, height: int = 120) -> np.ndarray:
    """A picture with things in it: coloured discs and bars over a gradient, another for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    colour = rng.uniform(40, 200, 3)
    out = colour + 50 * (x * rng.normal() + y * rng.normal())[..., None]
    for _ in range(9):
        cx, cy, r = rng.uniform(0, 1), rng.uniform(0, height / width), rng.uniform(0.05, 0.22)
        disc = rng.random() < 0.6
        out[(x - cx) ** 2 + (y - cy) ** 2 < r * r if disc else (abs(x - cx) < r) & (abs(y - cy) < r / 3)] = rng.uniform(
            0, 255, 3
        )
    return (out + rng.normal(0, 4, out.shape)).clip(0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def half(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    return np.asarray(image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BICUBIC))


def cut(picture: np.ndarray, share: float) -> np.ndarray:
    dy, dx = (max(1, round(length * share / 2)) for length in picture.shape[:2])
    return picture[dy:-dy, dx:-dx]


def brighter(picture: np.ndarray, factor: float) -> np.ndarray:
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(picture)).enhance(factor))


CHANGES = {
    "half the size": half,
    "JPEG quality 50": lambda p: jpeg(p, 50),
    "cut by 2 %": lambda p: cut(p, 0.02),
    "brighter": lambda p: brighter(p, 1.2),
    "darker": lambda p: brighter(p, 0.8),
    "all at once": lambda p: jpeg(brighter(half(cut(p, 0.02)), 1.15), 50),
}


def found_again(originals: list[np.ndarray], change) -> float:
    """Share of pictures that are paired with their changed copy."""
    n = len(originals)
    pairs = {tuple(pair) for pair in near_pairs(look_at([*originals, *(change(p) for p in originals)])).tolist()}
    return sum((i, n + i) in pairs for i in range(n)) / n


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_found_again(name):
    assert found_again([scene(seed) for seed in range(40)], CHANGES[name]) >= 0.97


def test_different_pictures_are_not_duplicates():
    assert not len(near_pairs(look_at([scene(seed) for seed in range(300)])))


def test_the_same_scene_in_other_colours_is_another_picture():
    picture = scene(1)
    assert len(near_pairs(look_at([picture, picture[..., ::-1]]))) == 0


def test_blank_pictures_are_duplicates_only_if_they_are_equal():
    rng = np.random.default_rng(0)
    noise = [rng.normal(128, 1, (50, 60, 3)).clip(0, 255).astype(np.uint8) for _ in range(30)]
    tones = [np.full((40, 40), tone, np.uint8) for tone in (0, 100, 255)]
    look = look_at([*noise, *tones, np.full((90, 50, 3), 255, np.uint8)])
    assert look.flat.all()
    assert near_pairs(look).tolist() == [[32, 33]]


def test_handwritten_digits_of_different_writers_are_not_duplicates():
    datasets = pytest.importorskip("sklearn.datasets")
    pictures = (datasets.load_digits().images * (255 / 16)).astype(np.uint8)
    look = look_at([*pictures, *pictures[:50]])
    pairs = near_pairs(look)
    copies = pairs[:, 1] >= len(pictures)
    assert copies.sum() >= 50  # an equal picture is found at any size
    assert (~copies).sum() <= 3  # out of 1.6 million pairs
    assert connected(len(look.hashes), pairs)[1797:].tolist() == connected(len(look.hashes), pairs)[:50].tolist()


def test_hashes_have_64_bits_and_do_not_depend_on_the_form_of_the_array():
    picture = scene(3)
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    codes = look_at([grey, grey[..., None], np.repeat(grey[..., None], 3, 2)]).hashes
    assert codes.dtype == np.uint64 and len(set(codes.tolist())) == 1
    assert look_at([picture]).hashes[0] == look_at([scene(2), picture]).hashes[1]
    assert len(look_at([]).hashes) == 0


def test_content_hashes_tell_shapes_and_bytes_apart():
    a = np.arange(12, dtype=np.uint8)
    texts = {content_hash(a.reshape(3, 4)), content_hash(a.reshape(4, 3)), content_hash(b"x"), content_hash(b"y")}
    assert len(texts) == 4 and all(len(text) == 64 for text in texts)
    assert content_hash(a.reshape(3, 4)) == content_hash(np.asfortranarray(a.reshape(3, 4)))


# ------------------------------------------------------------------------------------------ the index


def clustered(seed: int, n: int) -> np.ndarray:
    """Random hashes of which many are a few bits apart."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**64, max(1, n // 5), dtype=np.uint64)
    out = centres[rng.integers(0, len(centres), n)]
    for i in range(n):
        for bit in rng.choice(64, rng.integers(0, 9), replace=False):
            out[i] ^= np.uint64(1) << np.uint64(bit)
    return out


def brute(hashes: np.ndarray, distance: int) -> set[tuple[int, int]]:
    i, j = np.triu_indices(len(hashes), 1)
    near = np.bitwise_count(hashes[i] ^ hashes[j]) <= distance
    return set(zip(i[near].tolist(), j[near].tolist(), strict=True))


@given(st.integers(0, 10_000), st.integers(0, 120), st.sampled_from([0, 1, 3, 4, 7, 8, DISTANCE, 11]))
@settings(deadline=None, max_examples=30)
def test_the_index_finds_every_pair_once(seed, n, distance):
    hashes = clustered(seed, n)
    found = [(int(a), int(b)) for i, j in hash_pairs(hashes, distance) for a, b in zip(i, j, strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == brute(hashes, distance)


def test_a_distance_that_the_index_cannot_serve_is_refused():
    with pytest.raises(UsageError, match=r"0\.\.15 bits"):
        list(hash_pairs(np.zeros(2, np.uint64), 16))


def test_a_fixed_camera(monkeypatch):
    monkeypatch.setattr(
        "neocog.data.duplicates._CHUNK", 1 << 13
    )  # so that the pairs of so few frames do not fit in one piece either
    rng = np.random.default_rng(0)
    frames = [scene(5), scene(6)]
    look = look_at([f + rng.integers(0, 3, f.shape, dtype=np.uint8) for k in range(150) for f in frames])
    labels = connected(len(look.hashes), near_pairs(look))
    assert labels.tolist() == [0, 1] * 150


# ------------------------------------------------------------------------------------------ groups


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=40))
@settings(deadline=None, max_examples=100)
def test_connected_is_the_smallest_index_reached(n, links):
    pairs = np.array([(a % n, b % n) for a, b in links], dtype=np.int64).reshape(-1, 2)
    labels = connected(n, pairs)
    reach = [{i} for i in range(n)]
    for a, b in pairs.tolist():
        joined = reach[a] | reach[b]
        for i in joined:
            reach[i] = joined
    assert labels.tolist() == [min(r) for r in reach]


def test_a_chain_of_lookalikes_does_not_swallow_the_data_set():
    frames = [np.roll(scene(9, 320, 240), k * 4, axis=1) for k in range(80)]  # a slow pan: each frame like the next
    look = look_at(frames)
    pairs = near_pairs(look)
    chained = max(map(len, as_groups(connected(80, pairs))))
    assert chained > 50
    assert max(map(len, as_groups(split_groups(look, pairs))), default=1) < chained
    assert (split_groups(look, pairs[:20]) == connected(80, pairs[:20])).all()  # small groups stay whole


# ------------------------------------------------------------------------------------------ real pictures


def _pictures(name: str) -> list[np.ndarray]:
    folder = os.environ.get("NEOCOG_DATA")
    if not folder or not Path(folder, name).exists():
        pytest.skip(f"NEOCOG_DATA does not name a folder with {name}")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(Path(folder, name), columns=["image"])["image"].to_pylist()
    return [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in rows]


@pytest.mark.slow
def test_photographs_are_found_again_and_not_confused():
    photographs = _pictures("imagenet_samples.parquet")
    assert len(near_pairs(look_at(photographs))) == 0
    for name, change in CHANGES.items():
        assert found_again(photographs, change) >= 0.99, name


@pytest.mark.slow
def test_cifar_has_the_few_near_duplicates_that_people_see():
    pictures = _pictures("cifar10/test.parquet")
    pairs = near_pairs(look_at(pictures))
    assert 30 <= len(pairs) <= 50  # 37, looked at one by one: each shows one scene twice
    assert [2409, 8458] in pairs.tolist() and [234, 2795] in pairs.tolist()
