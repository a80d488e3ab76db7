"""Find exact and near duplicates among a million pictures, without missing a pair and without comparing all pairs.

A picture is summed up in a `Look`: a 64-bit perceptual hash, a thumbnail of 288 bytes, and whether it is flat.
Two pictures are near duplicates when their hashes differ in at most `DISTANCE` bits and their thumbnails agree
(`same_thumbs`): the hash finds candidates quickly, the thumbnail decides. A hash alone is not enough for small
pictures: of the 50 million pairs of CIFAR-10 test pictures it proposes 146, and the thumbnails keep 37 of these, all
of one scene when looked at.

The hash is the DCT hash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"): grey
picture at 32x32, two-dimensional DCT, the 8x8 lowest frequencies, one bit for each that is above their median. It
survives rescaling, recompression, small crops, brightness and contrast; not turning. Mirrored copies are found by the
hash of the mirror image (`near_and_mirrored`).
Flat pictures (blank pages, night, a lens cap) have a hash made of noise: they are kept out of the search and are
duplicates only when their thumbnails are equal byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neocog.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

DISTANCE = 10  # bits of 64; found again: 99.5 % of 200 photographs cut by 4 %, 95 % of 32x32 pictures cut by a pixel
SIDE = 32  # side of the picture from which hash and thumbnail are computed
THUMB = 16 * 16 + 2 * 4 * 4  # bytes: brightness at 16x16, then two colour differences at 4x4

_FLAT = 3.0  # standard deviation of brightness at 32x32, in levels of 255
_DETAIL = 0.75  # correlation of gradients from which two thumbnails show the same thing
_DETAIL_SPARSE, _SPARSE = 0.9, 28  # the same where less than 20 differences, rising from 28 on, carry the picture
_STRICT = 0.985  # the same for tiny pictures: handwritten digits of 8x8 by different writers reach 0.97
_COLOUR_MEAN, _COLOUR_MOST = 12.0, 40.0  # difference of colour, in levels: over all 32 values, and in any of them
_BANDS, _BITS = 4, 16
_CHUNK = 1 << 21  # candidate pairs in one go: about 100 MB
_MOST_PAIRS = 20_000_000  # pairs remembered in full: 320 MB
_MOST_LEADERS = 1000  # different pictures with one hash that are told apart


class Look(NamedTuple):
    """What is compared: `hashes` uint64 (N,), `thumbs` uint8 (N, 288), `flat` bool (N,), `tiny` bool (N,).

    `mirrored` uint64 (N,): the hashes of the mirror images; empty where nobody needs them.
    """

    hashes: np.ndarray
    thumbs: np.ndarray
    flat: np.ndarray
    tiny: np.ndarray  # a side under 32 pixels
    mirrored: np.ndarray = np.zeros(0, np.uint64)


def content_hash(data: bytes | np.ndarray) -> str:
    """Return sha256 hex of a file's bytes, or of an array's shape and bytes."""
    if isinstance(data, np.ndarray):
        return hashlib.sha256(str(data.shape).encode() + np.ascontiguousarray(data).tobytes()).hexdigest()
    return hashlib.sha256(data).hexdigest()


def _dct(rows: int) -> np.ndarray:
    k = np.arange(SIDE)
    return np.cos(np.pi * (2 * k[None] + 1) * k[:rows, None] / (2 * SIDE))


_COSINES = _dct(8)


def at_side(picture: np.ndarray | Image.Image) -> np.ndarray:
    """uint8 (H, W), (H, W, 1) or (H, W, 3), or a Pillow picture of mode "RGB" -> uint8 (32, 32, 3)."""
    from PIL import Image

    if isinstance(picture, np.ndarray):
        if picture.ndim == 3 and picture.shape[2] == 1:
            picture = picture[:, :, 0]
        if picture.shape[:2] == (SIDE, SIDE):
            return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
        picture = Image.fromarray(np.ascontiguousarray(picture))
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    small = np.asarray(picture)
    return small if small.ndim == 3 else np.repeat(small[:, :, None], 3, axis=2)


def look_at(pictures: Sequence[np.ndarray] | np.ndarray) -> Look:
    """Return the `Look` of pictures, uint8 (H, W), (H, W, 1) or (H, W, 3), of any sizes.

    All are held at 32x32 at the same time (3 KB each): hand over some hundreds in one call.
    """
    n = len(pictures)
    small = np.empty((n, SIDE, SIDE, 3), np.float32)
    for i, picture in enumerate(pictures):
        small[i] = at_side(picture)
    grey = small @ np.array([0.299, 0.587, 0.114], np.float32)  # (N, 32, 32)
    low = _COSINES @ grey.astype(np.float64) @ _COSINES.T  # (N, 8, 8)
    hashes = _hash_bits(low)
    mirrored = _hash_bits(low * np.resize([1, -1], 8))  # odd horizontal frequencies change their sign
    blue, red = ((small[..., c] - grey).reshape(n, 4, 8, 4, 8).mean((2, 4)) for c in (2, 0))
    thumbs = np.empty((n, THUMB), np.uint8)
    thumbs[:, :256] = np.rint(grey.reshape(n, 16, 2, 16, 2).mean((2, 4))).reshape(n, 256)
    for at, plane in ((256, blue), (272, red)):
        thumbs[:, at : at + 16] = np.rint(plane / 2 + 128).clip(0, 255).reshape(n, 16)
    tiny = np.array([min(picture.shape[:2]) < SIDE for picture in pictures], dtype=bool)
    return Look(hashes, thumbs, grey.reshape(n, SIDE * SIDE).std(axis=1) < _FLAT, tiny, mirrored)


def _hash_bits(low: np.ndarray) -> np.ndarray:
    """Frequencies (N, 8, 8) -> hashes, uint64 (N,)."""
    low = low.reshape(len(low), 64)
    # + 2: frequencies that are absent (drawn, symmetrical pictures) must not be bits of rounding noise
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True) + 2 if len(low) else low.astype(bool)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def flipped_thumbs(thumbs: np.ndarray) -> np.ndarray:
    """The thumbnails (N, 288) of the mirror images."""
    n = len(thumbs)
    planes = ((thumbs[:, :256], 16), (thumbs[:, 256:272], 4), (thumbs[:, 272:], 4))
    return np.concatenate([p.reshape(n, s, s)[:, :, ::-1].reshape(n, s * s) for p, s in planes], axis=1)


def same_thumbs(a: np.ndarray, b: np.ndarray, strict: np.ndarray | None = None) -> np.ndarray:
    """Say for each row of `a` and `b`, uint8 (P, 288), whether the two thumbnails show the same picture.

    Correlates the gradients of brightness (edges, not the horizon that ten thousand ships share) over the inner
    14x14, at the best of 25 shifts by half a pixel (one pixel of 32), and compares colours, which may all be stronger
    or weaker by the same factor: the same thing in another colour is another picture. `strict`, bool (P,), asks
    for a correlation of 0.985 without a shift: for tiny pictures, which are alike without being the same.
    """
    out = np.zeros(len(a), bool)
    strict = out.copy() if strict is None else strict
    for start in range(0, len(a), 2048):
        rows = slice(start, start + 2048)
        out[rows] = _same(a[rows], b[rows], strict[rows])
    return out


def _same(a: np.ndarray, b: np.ndarray, strict: np.ndarray) -> np.ndarray:
    ours, theirs = (2 * (side[:, 256:].astype(np.float32) - 128) for side in (a, b))  # they are stored halved
    factor = (ours * theirs).sum(axis=1) / np.maximum((theirs * theirs).sum(axis=1), 1e-6)
    factor = factor.clip(0.7, 1.43)[:, None]  # brightness changes all colours alike
    off = np.maximum(np.abs(ours - factor * theirs), np.abs(ours / factor - theirs))
    out = np.zeros(len(a), bool)
    left = np.flatnonzero((off.mean(axis=1) <= _COLOUR_MEAN) & (off.max(axis=1) <= _COLOUR_MOST))
    grey = (side[left, :256].astype(np.float32).reshape(len(left), 16, 16) for side in (a, b))
    ours, theirs = _gradients(next(grey)[:, 1:-1, 1:-1]), _half_steps(next(grey))
    # how many of 338 differences carry the picture: two birds in an empty sky agree in the ten that matter by chance
    carrying = [1 / np.maximum((g**4).sum(axis=1), 1e-9) for g in (ours, _gradients(theirs[:, 2:29:2, 2:29:2]))]
    sparse = ((_SPARSE - np.minimum(*carrying)) / 8).clip(0, 1)
    need = np.where(strict[left], _STRICT, _DETAIL + (_DETAIL_SPARSE - _DETAIL) * sparse)
    for y, x in _SHIFTS:
        agree = (ours * _gradients(theirs[:, y : y + 27 : 2, x : x + 27 : 2])).sum(axis=1)
        found = agree >= need
        out[left[found]] = True
        more = ~found & ~strict[left]
        left, ours, theirs, need = left[more], ours[more], theirs[more], need[more]
        if not len(left):
            break
    return out


# half pixels, nearest first: most true pairs are found without a shift and need no further ones
_SHIFTS = sorted(((y, x) for y in range(5) for x in range(5)), key=lambda s: (s[0] - 2) ** 2 + (s[1] - 2) ** 2)


def _gradients(grey: np.ndarray) -> np.ndarray:
    """(P, 14, 14) -> horizontal and vertical differences, (P, 338), of mean 0 and length 1 (0 if there are none)."""
    corner = grey[:, 1:, 1:]
    flat = np.concatenate([corner - grey[:, 1:, :-1], corner - grey[:, :-1, 1:]], axis=1).reshape(len(grey), 338)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _half_steps(grey: np.ndarray) -> np.ndarray:
    """(P, 16, 16) -> (P, 31, 31), the values between by linear interpolation."""
    out = np.empty((len(grey), 31, 31), np.float32)
    out[:, ::2, ::2] = grey
    out[:, 1::2, ::2] = (grey[:, :-1] + grey[:, 1:]) / 2
    out[:, :, 1::2] = (out[:, :, :-1:2] + out[:, :, 2::2]) / 2
    return out


def hash_pairs(hashes: np.ndarray, distance: int = DISTANCE) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs i < j of `hashes`, uint64 (N,), at most `distance` bits apart, each once, in chunks of (i, j).

    Multi-index hashing (Norouzi et al. 2012, "Fast search in Hamming space with multi-index hashing"): two hashes
    within `distance` agree up to distance // 4 bits in at least one of four bands of 16 bits.

    Raises:
        UsageError: `distance` is not in 0..15; beyond, most pairs of photographs are "near" and the index is no help.
    """
    if not 0 <= distance <= 15:
        raise UsageError(f"distance must be 0..15 bits of 64, got {distance}; the default is {DISTANCE}")
    hashes = np.asarray(hashes, dtype=np.uint64)
    radius, n = distance // _BANDS, len(hashes)
    masks = [m for m in range(1 << _BITS) if m.bit_count() <= radius] if radius else [0]
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(band * _BITS)).astype(np.int64) & 0xFFFF
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], hashes[order]
        starts = np.searchsorted(keys, np.arange((1 << _BITS) + 1))
        for mask in masks:
            partner = keys ^ mask
            low, high = starts[partner], starts[partner + 1]
            # each pair of buckets once; inside one bucket, only what comes later
            low = np.arange(1, n + 1) if mask == 0 else np.where(keys < partner, low, high)
            for a, b in _ranges(low, high):
                differ = values[a] ^ values[b]
                keep = np.bitwise_count(differ) <= distance
                a, b, differ = a[keep], b[keep], differ[keep]
                for earlier in range(band):  # found there already
                    part = (differ >> np.uint64(earlier * _BITS)) & np.uint64(0xFFFF)
                    keep = np.bitwise_count(part) > radius
                    a, b, differ = a[keep], b[keep], differ[keep]
                if len(a):
                    i, j = order[a], order[b]
                    yield np.minimum(i, j), np.maximum(i, j)


def _ranges(low: np.ndarray, high: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (row, member) for every row and every member of [low[row], high[row]), in chunks of bounded size."""
    rows = np.flatnonzero(high > low)
    counts = (high - low)[rows]
    ends = np.cumsum(counts)
    first = 0
    while first < len(rows):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        part, size = rows[first:last], counts[first:last]
        row = np.repeat(part, size)
        inside = np.arange(len(row)) - np.repeat(ends[first:last] - size - done, size)
        yield row, low[row] + inside
        first = last


def near_pairs(look: Look, distance: int = DISTANCE) -> np.ndarray:
    """Return the pairs of pictures (int64 (P, 2), i < j) that are near duplicates by hash and thumbnail.

    More than 64 pictures with one and the same hash are compared with the first of each kind only, of at most 1000
    kinds, and beyond 20 million pairs only those are kept that connect pictures not connected yet: memory and time
    stay bounded when a fixed camera took all pictures, and `connected` is still right.
    """
    n = len(look.hashes)
    flat = np.flatnonzero(look.flat)
    known = [_equal_rows(look.thumbs[flat], flat)]
    rows = np.flatnonzero(~look.flat)
    order = rows[np.argsort(look.hashes[rows], kind="stable")]
    _, starts, counts = np.unique(look.hashes[order], return_index=True, return_counts=True)
    dropped = np.zeros(n, bool)
    for start, count in zip(starts[counts > 64], counts[counts > 64], strict=True):
        bucket = order[start : start + count]
        pairs, leaders = _thin_bucket(look, bucket)
        dropped[bucket] = True
        dropped[leaders] = False
        known.append(pairs)
    rows = rows[~dropped[rows]]

    def verified() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        for pair in hash_pairs(look.hashes[rows], distance):
            waiting.append(pair)
            if sum(len(i) for i, _ in waiting) >= 4096:  # many small comparisons cost more than one large
                yield check(waiting)
                waiting = []
        if waiting:
            yield check(waiting)

    def check(waiting: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        i, j = (rows[np.concatenate(side)] for side in zip(*waiting, strict=True))
        same = same_thumbs(look.thumbs[i], look.thumbs[j], look.tiny[i] | look.tiny[j])
        return i[same], j[same]

    return np.concatenate([*known, _collect(n, verified())])


def near_and_mirrored(look: Look, distance: int = DISTANCE) -> tuple[np.ndarray, np.ndarray]:
    """Return `near_pairs`, and the pairs (int64 (P, 2), i < j) of which one is a near duplicate of the other mirrored.

    Pictures that are connected by near pairs, such as copies of a symmetrical picture, are not named again.
    """
    n = len(look.hashes)
    turned = Look(look.mirrored, flipped_thumbs(look.thumbs), look.flat, look.tiny, look.hashes)
    pairs = near_pairs(Look(*(np.concatenate(both) for both in zip(look, turned, strict=True))), distance)
    across = pairs[(pairs[:, 0] < n) & (pairs[:, 1] >= n)] - np.array([0, n])
    across = np.sort(across[across[:, 0] != across[:, 1]], axis=1)
    pairs = pairs[(pairs < n).all(axis=1)]
    group = connected(n, pairs)
    return pairs, np.unique(across[group[across[:, 0]] != group[across[:, 1]]], axis=0)


def _equal_rows(thumbs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Pairs (first, other) of rows that are equal byte for byte, as `indices` of those rows."""
    packed = np.ascontiguousarray(thumbs).view(np.dtype((np.void, THUMB)))[:, 0]
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    pairs = np.stack([first[inverse], np.arange(len(indices))], axis=1)
    return indices[pairs[pairs[:, 0] != pairs[:, 1]]].reshape(-1, 2)


def _thin_bucket(look: Look, members: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Compare pictures of one hash with the first of each kind: pairs (leader, member), and the leaders."""
    pairs = [np.empty((0, 2), np.int64)]
    leaders: list[int] = []
    while len(members) and len(leaders) < _MOST_LEADERS:
        leader, rest = int(members[0]), members[1:]
        leaders.append(leader)
        one = np.broadcast_to(look.thumbs[leader], (len(rest), THUMB))
        same = same_thumbs(one, look.thumbs[rest], look.tiny[rest] | look.tiny[leader])
        pairs.append(np.stack([np.full(int(same.sum()), leader), rest[same]], axis=1))
        members = rest[~same]
    return np.concatenate(pairs), leaders


def _collect(n: int, chunks: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Join chunks of pairs to int64 (P, 2); beyond `_MOST_PAIRS`, only pairs that connect something new."""
    pairs, total, labels = [np.empty((0, 2), np.int64)], 0, None
    for i, j in chunks:
        chunk = np.stack([i, j], axis=1)
        if total > _MOST_PAIRS:
            labels = connected(n, np.concatenate(pairs)) if labels is None else labels
            chunk = chunk[labels[chunk[:, 0]] != labels[chunk[:, 1]]]
            if len(chunk):
                labels = connected(n, chunk, labels)
        pairs.append(chunk)
        total += len(chunk)
    return np.concatenate(pairs)


def connected(n: int, pairs: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Return int64 (N,): for each picture the smallest index that it is connected to over any number of `pairs`.

    `labels`: what this gave for other pairs, which count, too.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if labels is not None:
        pairs = np.concatenate([pairs, np.stack([np.arange(n), labels], axis=1)])
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    group = connected_components(graph, directed=False)[1]
    return np.unique(group, return_index=True)[1][group]


def split_groups(look: Look, pairs: np.ndarray, across: np.ndarray | None = None) -> np.ndarray:
    """Return int64 (N,): a number for each picture; pictures connected by `pairs` share it and must stay together.

    `across`: pairs of mirrored copies, which stay together, too.

    Chains of look-alikes (every chest X-ray resembles some other) could swallow a data set: a group of more than 50
    pictures and 2 % of all is cut again, by pairs whose thumbnails agree strictly.
    """
    n = len(look.hashes)
    turned = np.arange(len(pairs) + (0 if across is None else len(across))) >= len(pairs)
    pairs = pairs if across is None else np.concatenate([pairs, across])
    labels = connected(n, pairs)
    sizes = np.bincount(labels, minlength=n)
    large = sizes[labels] > max(50, n // 50)
    if not large.any():
        return labels
    inside = large[pairs[:, 0]]
    i, j = pairs[inside].T
    other = np.where(turned[inside][:, None], flipped_thumbs(look.thumbs[j]), look.thumbs[j])
    same = same_thumbs(look.thumbs[i], other, np.ones(len(i), bool)) | (look.flat[i] & look.flat[j])
    return connected(n, np.concatenate([pairs[~inside], pairs[inside][same]]))


def as_groups(labels: np.ndarray) -> list[np.ndarray]:
    """Return the index groups (size >= 2, ascending, in order of their first) of pictures that share a label."""
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    groups = [group for group in np.split(order, cuts) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))
