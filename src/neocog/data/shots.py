"""Shots of a video: where one picture gives way to another, told from small copies of some of its frames.

Sources: cuts are changes above a threshold that the neighbourhood sets (Yusoff, Christmas and Kittler 2000); slow ones
are found by comparing frames farther apart (twin comparison: Zhang, Kankanhalli and Smoliar 1993), and are mixtures of
what is before and after (Hampapur, Jain and Weymouth 1995). Frames may lie apart by any times: a video whose key frames
come every second is judged by these alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

WIDTH, HEIGHT = 16, 9  # of a small copy: a camera that moves a little changes it little
_COLOURS = 4  # levels of red, green and blue in the histogram
_CUT = 0.08  # change from which there may be a cut: 0 is none, 1 is black to white
_SLOW_CUT = 0.15  # the same for a slow one
_SURE = 0.3  # change from which there is one, whatever is usual around it
_PEAK = 3.0  # times the change that is usual around it
_AROUND = 6  # frames before and after that say what is usual
_FLASH = 0.5  # seconds within which a picture comes back after a flash of light
_SLOW = (0.3, 0.6, 1.0)  # half of the seconds that a slow change takes
_STILL = 0.3  # part of a slow change, at most, that there is before and after it: an even pan has 0.5
_MIXED = 0.4  # part of a slow change, at most, that a mixture of before and after does not explain
_LEAST = 0.4  # seconds of a shot
_DARK, _EVEN = 24.0, 6.0  # grey value (mean), and deviation, up to which a frame shows nothing
_DRIFT, _APART = 0.15, 4.0  # change and seconds from which a long take gets one picture more
_ROWS = 4096  # pairs of frames that are compared at once


@dataclass(frozen=True, slots=True)
class Shot:
    """A part of a video, in seconds, and the frames that show it: indices into what was looked at."""

    start: float
    end: float
    keys: tuple[int, ...]  # none where it is black


@dataclass
class Frames:
    """What is kept of the frames that were looked at: about 600 bytes each."""

    seconds: list[float] = field(default_factory=list)
    small: list[np.ndarray] = field(default_factory=list)  # uint8 (9, 16, 3)
    colours: list[np.ndarray] = field(default_factory=list)  # float16 (64,): a histogram, with a sum of 1
    sharp: list[float] = field(default_factory=list)  # deviation of the Laplacian
    key: list[bool] = field(default_factory=list)  # decoded without others: found again quickly, and coded best

    def __len__(self) -> int:
        return len(self.seconds)

    def add(self, seconds: float, picture: np.ndarray, key: bool = True) -> None:
        """Note a frame, uint8 (9 n, 16 n, 3)."""
        step = picture.shape[0] // HEIGHT
        blocks = picture.reshape(HEIGHT, step, WIDTH, step, 3).mean((1, 3), dtype=np.float32)
        codes = (picture >> 6).reshape(-1, 3) @ np.array([_COLOURS * _COLOURS, _COLOURS, 1], np.uint8)
        grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        self.seconds.append(seconds)
        self.small.append(blocks.astype(np.uint8))
        self.colours.append((np.bincount(codes, minlength=_COLOURS**3) / len(codes)).astype(np.float16))
        self.sharp.append(float((around - 4 * grey[1:-1, 1:-1]).std()))
        self.key.append(key)


def shots(frames: Frames) -> list[Shot]:
    """Return the shots of a video, in order; frames that are out of order are not accepted."""
    return _Seen(frames).shots() if len(frames) else []


class _Seen:
    """All frames, as arrays."""

    def __init__(self, frames: Frames) -> None:
        self.t = np.array(frames.seconds)
        self.small, self.colours = np.stack(frames.small), np.stack(frames.colours)
        self.sharp, self.key = np.array(frames.sharp), np.array(frames.key)
        grey = self.small.mean(3, dtype=np.float32)
        self.empty = (grey.mean((1, 2)) <= _DARK) | (grey.std((1, 2)) <= _EVEN)

    def change(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """How different frames are, float32 (N,), 0 to 1: by place, and more so where the colours are others, too."""
        made = np.empty(len(a), np.float32)
        for at in range(0, len(a), _ROWS):
            one, two = a[at : at + _ROWS], b[at : at + _ROWS]
            places = np.abs(self.small[one].astype(np.int16) - self.small[two]).mean((1, 2, 3)) / 255
            colours = np.abs(self.colours[one].astype(np.float32) - self.colours[two]).sum(1) / 2
            made[at : at + _ROWS] = np.sqrt(places * np.maximum(colours, places))
        return made

    def shots(self) -> list[Shot]:
        count = len(self.t)
        step = np.zeros(count, np.float32)  # from the frame before
        step[1:] = self.change(np.arange(count - 1), np.arange(1, count))
        found = {i: float(step[i]) for i in self._cuts(step)}
        found |= self._slow(sorted(found))
        starts = [0]
        for i in sorted(found, key=lambda i: -found[i]):  # the largest change first, where several are close
            if self.t[i] - self.t[0] >= _LEAST and all(abs(self.t[i] - self.t[k]) >= _LEAST for k in starts):
                starts.append(i)
        starts.sort()
        made, last = [], -1
        for start, end in zip(starts, [*starts[1:], count], strict=True):
            keys = self._keys(start, end, step)
            if keys and last >= 0 and self.change(np.array([last]), np.array(keys[:1]))[0] < _CUT / 2:
                keys = keys[1:]  # a light that went on and off, a flash: the picture is there already
            last = keys[-1] if keys else last
            made.append(Shot(float(self.t[start]), float(self.t[min(end, count - 1)]), tuple(keys)))
        if not any(shot.keys for shot in made):  # all dark: the brightest frame is better than none
            best = int(self.small.mean((1, 2, 3)).argmax())
            made = [Shot(float(self.t[0]), float(self.t[-1]), (best,))]
        return made

    def _cuts(self, step: np.ndarray) -> list[int]:
        """The first frames after cuts."""
        made = []
        for i in np.flatnonzero(step > _CUT).tolist():
            around = np.concatenate([step[max(1, i - _AROUND) : i], step[i + 1 : i + 1 + _AROUND]])
            usual = float(np.median(around)) if len(around) else 0.0
            if step[i] > min(_PEAK * usual, _SURE) and not self._comes_back(i, float(step[i])):
                made.append(i)
        return made

    def _comes_back(self, i: int, change: float) -> bool:
        """Whether what was before frame `i` is seen again soon: a flash, or something that passes the camera."""
        before = [p for p in range(max(0, i - 8), i) if self.t[i] - self.t[p] <= _FLASH]
        pairs = [(p, q) for p in before for q in range(i, min(len(self.t), i + 8)) if self.t[q] - self.t[p] <= _FLASH]
        a, b = np.array(pairs or [(0, i)]).T
        return bool(pairs) and float(self.change(a, b).min()) < change / 2

    def _slow(self, cuts: list[int]) -> dict[int, float]:
        """The middle frames of dissolves and fades, each with the change that it makes."""
        t, count, shot = self.t, len(self.t), np.zeros(len(self.t), np.int64)
        shot[cuts] = 1
        shot = shot.cumsum()
        middle = np.arange(count)
        best, much = np.zeros(count, np.float32), np.zeros(count, np.float32)
        for half in _SLOW:
            a, b = np.searchsorted(t, t - half, "right") - 1, np.searchsorted(t, t + half)
            before, after = np.searchsorted(t, t - 2 * half, "right") - 1, np.searchsorted(t, t + 2 * half)
            inside = (before >= 0) & (before < a) & (after < count) & (after > b)
            ok = np.flatnonzero(inside)
            ok = ok[shot[before[ok]] == shot[after[ok]]]
            change = self.change(a[ok], b[ok])
            still = np.maximum(self.change(before[ok], a[ok]), self.change(b[ok], after[ok])) < _STILL * change
            ok, change = ok[(change > _SLOW_CUT) & still], change[(change > _SLOW_CUT) & still]
            share, rest = self._mixture(ok, a[ok], b[ok])
            good = (rest < _MIXED) & (np.abs(share - 0.5) < 0.35)
            score = change * (1 - rest) * (1 - np.abs(share - 0.5))
            for i, value, one in zip(ok[good], score[good], change[good], strict=True):
                if value > best[i]:
                    best[i], much[i] = value, one
        found = {}
        for i in middle[best > 0]:
            near = np.abs(t - t[i]) <= _SLOW[-1]
            if best[i] == best[near].max():
                found[int(i)] = float(much[i])
        return found

    def _mixture(self, middle: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How much of `b` is in the middle frames, and the part of the change that such a mixture leaves over."""
        shape = (-1, 3 * WIDTH * HEIGHT)
        one, two, here = (self.small[rows].reshape(shape).astype(np.float32) for rows in (a, b, middle))
        way = two - one
        length = np.maximum((way * way).sum(1), 1e-6)
        share = ((here - one) * way).sum(1) / length
        rest = here - one - share[:, None] * way
        return share, np.sqrt((rest * rest).sum(1) / length)

    def _keys(self, start: int, end: int, step: np.ndarray) -> list[int]:
        """The frames that show a shot: sharp, not empty, not in the middle of a change; more than one if it is long."""
        rows = np.arange(start, end)
        rows = rows[~self.empty[rows]]
        if not len(rows):
            return []
        edge = 0.15 * (self.t[end - 1] - self.t[start])
        inner = (self.t[rows] >= self.t[start] + edge) & (self.t[rows] <= self.t[end - 1] - edge)
        calm = step[rows] <= _CUT
        for good in (inner & calm, calm, inner):
            if good.any():
                rows = rows[good]
                break
        worth = self.sharp[rows] * np.where(self.key[rows], 1.0, 0.8)
        chosen = [int(rows[worth.argmax()])]
        most = 1 + int((self.t[end - 1] - self.t[start]) / _APART)
        for i in rows[np.argsort(-worth, kind="stable")].tolist():
            if len(chosen) >= most:
                break
            if min(abs(self.t[i] - self.t[k]) for k in chosen) < _APART:
                continue
            far = self.change(np.full(len(chosen), i), np.array(chosen))
            if far.min() > _DRIFT:
                chosen.append(i)
        return sorted(chosen)
