"""Features of pictures as an array, by the names of a net's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from neocog.data import open_source
from neocog.data.pictures import Streamed
from neocog.errors import UsageError
from neocog.fit.depth import zoo_net
from neocog.fit.device import choose
from neocog.fit.features import Read, Taps, features_of, layer_names
from neocog.fit.graphed import Graphed
from neocog.fit.predicting import Run
from neocog.fit.show import Show
from neocog.nets.taps import LAST
from neocog.records import Preprocess, Problem


class Extracted(NamedTuple):
    """Features of the pictures that could be read, with their labels; `problems` are the others."""

    rows: np.ndarray  # int64 (N,), of the source
    values: np.ndarray  # float32 (N, D) or (N, C, H, W)
    problems: list[Problem]
    labels: np.ndarray  # int64 (N,), index into `classes`; -1: none, or several
    classes: tuple[str, ...]
    label_sets: tuple[tuple[str, ...], ...] | None  # N, where a picture may have several labels


def extract(
    net: nn.Module | Any,
    pictures: Any,
    layers: str | Sequence[str] | None = None,
    *,
    pool: str = "mean",
    preprocess: Preprocess | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Extracted:
    """Features of pictures by name of layer, and the labels of the pictures.

    Args:
        net: a run, or a module together with its `preprocess`.
        pictures: whatever ``open_source`` opens.
        layers: dotted names, joined by commas or as a list; None is what the last layer reads.
        pool: "mean" or "max" over the positions of a map, or "spatial".

    Raises:
        UsageError: no such layer or pooling, or no preprocessing.
    """
    if not isinstance(net, nn.Module):
        run = net if isinstance(net, Run) else Run(net)
        net, preprocess = run.net(), preprocess or run.preprocess
        net = zoo_net(net)
    if preprocess is None:
        raise UsageError(
            "features of a module need its preprocessing: extract(net, pictures, preprocess=Preprocess(...))"
        )
    source, chosen, show = open_source(pictures), choose(device), Show(progress)
    net = chosen.placed(net)
    shown = Streamed(source, np.arange(len(source)), preprocess)
    taps = Taps(net, layer_names(layers) or (LAST,), pool)
    with show.bar("features") as bar:
        rows, values = features_of(net, Graphed(Read(net, taps), chosen, len(source)), shown, chosen, show=bar)
    several = None
    if (sets := source.label_sets) is not None:
        several = tuple(tuple(source.classes[j] for j in sets[int(i)]) for i in rows)
    return Extracted(rows, values, shown.problems, source.labels[rows].astype(np.int64), tuple(source.classes), several)
