"""Clips: short videos as inputs, and the folders in which public sets of them come.

A clip is a video file, a moving GIF, a folder of frames (pictures in the order of the numbers in their names), or an
array. ``clips:FOLDER`` opens a folder of them; a folder that holds video files alone needs no prefix. Where the lists
of a public set lie in or beside it, they say which clip is in which split:

    UCF-101   trainlist01.txt, testlist01.txt     HMDB-51   CLASS_test_split1.txt     KTH   by the number of the person
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.columns import LabelSets, Texts, is_picture, split_code
from neocog.data.decode import decode
from neocog.data.folder import Folder, open_folder
from neocog.data.kinds import Categories, Category, Numbers
from neocog.data.scaling import resized
from neocog.data.source import Source
from neocog.data.stores import VIDEO_ENDINGS
from neocog.data.video import frames_at, length
from neocog.errors import DataError, UsageError
from neocog.records import counted

ENDINGS = VIDEO_ENDINGS | {".gif"}
_NUMBER = re.compile(r"(\d+)")
_LIST = re.compile(r"(train|test|val)list0?(\d)\.txt", re.IGNORECASE)
_HMDB = re.compile(r".+_test_split(\d)\.txt")
_KTH = re.compile(r"person(\d\d)_([a-z]+)_d\d")
_KTH_TRAIN, _KTH_VAL = range(11, 19), (1, 4, 19, 20, 21, 23, 24, 25)  # Schüldt, Laptev and Caputo 2004
_DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
_SPEEDS = {"slowly": 0.04, "fast": 0.1}  # widths of the picture for each frame
MOTIONS = tuple(f"{way} {speed}" for way in _DIRECTIONS for speed in _SPEEDS)
LENGTH = 16  # frames of a drawn clip


def read_clip(raw: Any, frames: int, every: float, side: int) -> np.ndarray:
    """Some frames of a clip, with the short side brought to `side` and the middle square cut out.

    Args:
        raw: a path (a video, a GIF, a folder of frames), the bytes of a video or GIF, or an array uint8 (T, H, W, 3).
        every: seconds between two frames, the clip's middle in the middle; 0 spreads them over the whole clip. Folders
            and arrays have no times: 25 frames are a second of them. A clip that is too short stands still at its ends.

    Returns: uint8 (frames, side, side, 3).
    Raises: DataError, OSError: it cannot be read. MissingExtra: a video, without the extra that reads it.
    """
    if isinstance(raw, np.ndarray):
        if raw.ndim != 4 or raw.shape[3] != 3 or raw.dtype != np.uint8 or not len(raw):
            raise DataError(f"expected a clip as uint8 (T, H, W, 3), got {raw.dtype} {raw.shape}")
        chosen: Iterable[np.ndarray | None] = (raw[i] for i in _rows(len(raw), frames, every))
    elif isinstance(raw, (str, Path)) and os.path.isdir(raw):
        files = frames_of(raw)
        if not files:
            raise DataError("no frames in this folder")
        chosen = (decode(Path(files[i]).read_bytes()) for i in _rows(len(files), frames, every))
    else:
        file = raw if isinstance(raw, bytes) else os.fspath(raw)
        times = _spread(length(file), frames, every)
        chosen = (picture for _, picture in frames_at(file, times))
    made: list[np.ndarray] = []
    for picture in chosen:
        made.append(_square(picture, side) if picture is not None else made[-1] if made else np.zeros(0))
    if not made or not all(one.size for one in made):
        raise DataError("its first frames cannot be decoded")
    return np.stack(made)


def frames_of(folder: str | os.PathLike[str]) -> list[str]:
    """The pictures of a folder in the order of the numbers in their names: frame2.jpg comes before frame10.jpg."""
    found = [one.path for one in os.scandir(folder) if _is_frame(one.name) and not one.name.startswith(".")]
    return sorted(found, key=lambda path: [int(p) if p.isdigit() else p for p in _NUMBER.split(os.path.basename(path))])


def _is_frame(name: str) -> bool:
    return is_picture(name) and os.path.splitext(name)[1].lower() not in ENDINGS  # a GIF is a clip itself


def _spread(seconds: float, frames: int, every: float) -> list[float]:
    """Times in the middle of equal parts of a clip, or `every` seconds apart."""
    if not every:
        return [(i + 0.5) * seconds / frames for i in range(frames)]
    start = (seconds - every * (frames - 1)) / 2
    return [min(max(0.0, start + i * every), seconds) for i in range(frames)]


def _rows(count: int, frames: int, every: float) -> list[int]:
    return [min(count - 1, int(25 * t + 1e-6)) for t in _spread(count / 25, frames, every)]


def _square(picture: np.ndarray, side: int) -> np.ndarray:
    """uint8 (side, side, 3): the middle of a frame."""
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, 2)
    height, width = picture.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    cut = np.ascontiguousarray(picture[top : top + short, left : left + short])
    return cut if short == side else resized(cut, side, side)


class ClipFolder(Folder):
    """Clips below one folder: files, or folders of frames."""

    def read(self, i: int) -> Path:  # type: ignore[override]
        """The path of a clip: only the frames that are asked for are read."""
        return self.path(i)


def open_clips(root: str | os.PathLike[str], fold: int = 1) -> Source:
    """Open a folder of clips: class folders, with split folders above them or lists of splits beside them.

    Args:
        fold: which of a set's several lists of splits (UCF-101 and HMDB-51 have three).

    Raises: DataError: there is no folder, or nothing in it. UsageError: there is no such list.
    """
    top = Path(os.path.abspath(os.path.expanduser(root)))
    if not top.is_dir():
        raise DataError(f"expected a folder of clips, but {str(root)!r} is not a folder")
    leaves = _leaves(top)
    if leaves:
        return _of_frames(top, leaves)
    return arranged(open_folder(top, "clip"), fold)


def _leaves(top: Path) -> list[str]:
    """Folders of frames, relative to `top`: those that hold two pictures or more, and no folder."""
    found = []
    for here, folders, files in os.walk(top):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        pictures = [one for one in files if _is_frame(one)]
        if len(pictures) > 1 and not folders and here != str(top):
            found.append(os.path.relpath(here, top))
    return found


def _of_frames(top: Path, leaves: list[str]) -> Source:
    keys, labels, splits = Texts(), [], []
    for leaf in leaves:
        parts = Path(leaf).parts
        split = split_code(parts[0]) if len(parts) > 2 else -1
        keys.append(leaf)
        splits.append(split)
        labels.append(parts[1 if split >= 0 else 0] if len(parts) > 1 else None)
    said = Category.of(labels)
    return ClipFolder(top, keys, top.name, said.names, said.codes, np.array(splits, np.int8), kind="clip")


def arranged(source: Folder, fold: int = 1) -> Folder:
    """Clips with the splits that lists of a public set say, or that the names of KTH's files say."""
    listed = _listed(source.root, fold)
    stems = [Path(source.key(i)).stem for i in range(len(source))]
    persons = [_KTH.match(stem) for stem in stems]
    names, codes, splits, notes = source.classes, source.labels, source.splits, list(source.notes)
    if listed:
        splits = np.array([listed.get(stem, -1) for stem in stems], np.int8)
        notes.append(
            f"splits as the lists of fold {fold} say; {counted(int((splits < 0).sum()), 'clip', 'is')} in none of them"
        )
    elif persons and all(persons):
        said = Category.of(one[2] for one in persons if one)
        names, codes, people = said.names, said.codes, [int(one[1]) for one in persons if one]
        splits = np.array([0 if p in _KTH_TRAIN else 1 if p in _KTH_VAL else 2 for p in people], np.int8)
        notes.append("splits by person, as KTH was published: 8 for training, 8 for validation, 9 for the test")
    more: dict[str, Any] = {"notes": notes, "problems": source.problems, "kind": "clip"}
    return ClipFolder(source.root, source.keys, source.name, names, codes, splits, **more)


def _listed(root: Path, fold: int) -> dict[str, int]:
    """Split of each clip, by its name without ending, from the lists in a folder, beside it or one below it."""
    made: dict[str, int] = {}
    folders = [root, root.parent, *(p for where in (root, root.parent) for p in sorted(where.glob("*[lL]ist*")))]
    folders += [p for where in (root, root.parent) for p in sorted(where.glob("*plits*"))]
    known: set[int] = set()
    for file in (f for folder in folders if folder.is_dir() for f in sorted(folder.glob("*.txt"))):
        ucf, hmdb = _LIST.fullmatch(file.name), _HMDB.fullmatch(file.name)
        number = int(ucf[2] if ucf else hmdb[1] if hmdb else "0")
        known.add(number)
        if not number or number != fold:
            continue
        for line in file.read_text("utf-8", "replace").splitlines():
            words = line.split()
            if words and ucf:
                made[Path(words[0]).stem] = {"train": 0, "val": 1, "test": 2}[ucf[1].lower()]
            elif len(words) == 2 and words[1] in "12":  # 0: in neither
                made[Path(words[0]).stem] = 0 if words[1] == "1" else 2
    if known - {0} and fold not in known:
        raise UsageError(f"there is no list of splits number {fold}; there are {sorted(known - {0})}")
    return made


class DrawnClips(Source):
    """Shapes before a still background, one of which moves: where to, and how fast, no single frame tells.

    Shapes leave the picture on one side and come in on the other, so that every place is as likely in every class.
    """

    kind = "clip"
    drawn = True

    def __init__(self, n: int, size: int, seed: int) -> None:
        choices = np.random.default_rng((seed, 0xC11B)).random((n, 2))  # a row more changes none before it
        codes = (len(MOTIONS) * choices[:, 0]).astype(np.int32)
        ways = [MOTIONS[code].split() for code in codes]
        words = (*_DIRECTIONS, *_SPEEDS)
        flat = np.array([words.index(word) for way in ways for word in way], np.int32)
        sets = LabelSets(np.arange(0, 2 * n + 1, 2, dtype=np.int64), flat)
        splits = np.maximum((10 * choices[:, 1]).astype(np.int8) - 7, 0)
        speed = np.array([[100 * _SPEEDS[word]] for _, word in ways], np.float32).reshape(n, 1)
        more: dict[str, Any] = {"tags": Categories(sets, words), "numbers": Numbers(speed, ("speed",))}
        super().__init__("drawn clips", MOTIONS, codes, splits, columns=more)
        self.size, self.seed = size, seed

    def key(self, i: int) -> str:
        return f"clip-{self.seed}#{i}"

    def read(self, i: int) -> np.ndarray:
        """uint8 (16, size, size, 3)."""
        random, side = np.random.default_rng((self.seed, i, 0xC11B)), self.size
        way, speed = MOTIONS[int(self.labels[i])].split()
        ground = random.integers(60, 196, 3) + random.normal(0, 12, (side, side, 1))
        grid = (np.arange(side) + 0.5) / side
        made = np.empty((LENGTH, side, side, 3), np.uint8)
        things = [
            (random.random(2), random.uniform(0.14, 0.2), int(random.integers(3)), random.choice((0, 255), 3), still)
            for still in (True, False)
        ]
        for t in range(LENGTH):
            frame = ground.copy()
            for place, radius, shape, colour, still in things:
                moved = place + (0 if still else t * _SPEEDS[speed]) * np.array(_DIRECTIONS[way])
                dx, dy = ((grid - at + 0.5) % 1 - 0.5 for at in moved)  # the picture's ends meet
                a, b = np.abs(dx)[None], np.abs(dy)[:, None]
                inside = (a * a + b * b < radius**2, np.maximum(a, b) < 0.85 * radius, a + b < 1.2 * radius)[shape]
                frame[inside] = colour
            made[t] = np.clip(frame, 0, 255)
        return made

    def fingerprint(self) -> str:
        return hashlib.sha256(f"clips {self.seed} {len(self)} {self.size}".encode()).hexdigest()
