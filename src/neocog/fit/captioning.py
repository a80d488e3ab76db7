"""Sentences about pictures from a run of the task caption, or from the model that comes with neocog."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.errors import UsageError
from neocog.fit.card import read_card
from neocog.fit.predicting import Run, predict
from neocog.fit.run import read_tensors
from neocog.nets.weights import build_with_weights, load_weights
from neocog.tasks.caption import Familiar
from neocog.tasks.task import build_net
from neocog.text.space import Space
from neocog.text.tokens import Words

if TYPE_CHECKING:
    from neocog.tasks.caption import Described

_COSINE = 7.0  # how much a cosine counts beside log P; chosen on half of Flickr8k's dev split (bench/captions.py)
SHIPPED = Path(__file__).parents[1] / "text" / "teller"  # net.json, weights.safetensors of the head in half precision


class Shipped(Run):
    """The model that comes with neocog: a head for a trunk whose weights come as a package.

    Attributes:
        vectors: the name under which a library keeps what the trunk makes of a picture.
    """

    def __init__(self, folder: Path = SHIPPED) -> None:
        self.folder, self.settings = folder, {}
        self._card, self._net, self._unknown = read_card(folder), None, None
        self.vectors: str = self._card["vectors"]

    def net(self) -> nn.Module:
        """The trunk with its weights, and the head, in eval mode, on the CPU."""
        if self._net is None:
            task: Any = self.task
            net: Any = build_net(task, self.spec)
            net.trunk.net.load_state_dict(build_with_weights(self.spec["name"], "imagenet").state_dict())
            tensors, _ = read_tensors(self.folder / "weights.safetensors")
            if "familiar.axes" in tensors:
                net.answer.familiar = Familiar(*tensors["familiar.axes"].shape)
            load_weights(net.answer, {name: value.float() for name, value in tensors.items()})
            net.answer.fits = _fits(task.words, self.vectors)
            self._net = net.eval()
        return self._net


def _fits(words: Words, trunk: str) -> Callable[[Tensor, Tensor], Tensor] | None:
    """How well sentences (B, n, L) fit pictures (B, F) by the sentence space; None where it reads another trunk."""
    space = Space.load(None)
    if space.trunk != trunk:
        return None

    def fits(read: Tensor, ids: Tensor) -> Tensor:
        texts = space.sentences([words.text(one) for one in ids.flatten(0, 1).tolist()])
        pictures = space.pictures(read.cpu().numpy())
        return torch.from_numpy(_COSINE * np.einsum("bnd,bd->bn", texts.reshape(*ids.shape[:2], -1), pictures)).to(read)

    return fits


def captioner(run: Run | str | os.PathLike[str] | None = None) -> Run:
    """A run of the task caption; None or "auto": the one that comes with neocog.

    Raises:
        UsageError: the run has another task.
    """
    if run is None or run == "auto":
        return Shipped()
    trained = run if isinstance(run, Run) else Run(Path(run))
    if trained.task.name != "caption":
        raise UsageError(
            f"{trained.folder} was trained for the task {trained.task.name}, which writes no sentences; expected a run "
            "of: neocog train DATA --task caption"
        )
    return trained


def caption(pictures: Any, run: Run | str | os.PathLike[str] | None = None, **how: Any) -> list[Described]:
    """Sentences about one picture or many: paths, encoded bytes or uint8 arrays; a list of answers in their order.

    Args:
        run: of the task caption, or its folder; None: the model that comes with neocog.
        how: n, beam, temperature, first, seed and device, see `captions`.

    Raises:
        UsageError: see `captions`.
    """
    one = isinstance(pictures, (str, os.PathLike, bytes)) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4)
    return list(captions([pictures] if one else pictures, captioner(run), **how))


def captions(
    pictures: Iterable[Any],
    run: Run,
    *,
    n: int = 1,
    beam: int = 5,
    temperature: float = 0.0,
    first: str = "",
    seed: int = 0,
    device: str | None = None,
) -> Iterator[Described]:
    """Sentences about pictures, a batch at a time.

    Args:
        n: sentences of each picture, the best first.
        beam: sentences that beam search follows at a time; more find likelier ones, not always better ones. The model
            that comes with neocog follows four times as many, and the sentence space chooses.
        temperature: above 0: sentences are drawn by chance, the more freely the higher it is (1: as the model says).
        first: words that each sentence begins with.
        seed: of chance.

    Raises:
        UsageError: `n` or `beam` below 1, a temperature below 0, or a first word that the model does not know.
    """
    if min(n, beam) < 1 or temperature < 0:
        raise UsageError(
            f"expected n and beam of at least 1 and a temperature of at least 0, got {n}, {beam} and {temperature}"
        )
    how = {"n": n, "beam": beam, "temperature": temperature, "first": first, "seed": seed}
    return predict(_writing(run, **how), pictures, top=n, device=device)


def on_features(run: Run, features: np.ndarray, keys: Sequence[str], **how: Any) -> list[Described]:
    """Sentences for features float32 (N, F) of pictures, as the run's trunk gives them; `how` as for `caption`."""
    trained = _writing(run, **how)
    task: Any = trained.task
    net = trained.net()
    made: list[Described] = []
    with torch.inference_mode():
        for part in range(0, len(features), 64):
            x = torch.from_numpy(features[part : part + 64])
            outputs = net(x, write=task.writing, first=task.first_words(task.writing.first))
            made += task.answers(outputs, None, keys[part : part + 64], top=task.writing.n)
    return made


def _writing(run: Run, **how: Any) -> Run:
    """The same run, whose task finds sentences as asked."""
    own = copy.copy(run)
    task: Any = copy.copy(run.task)
    task.writing = replace(task.writing, **how)
    if task.writing.first:
        task.first_words(task.writing.first)  # an unknown word is said before anything is computed
    own.__dict__["task"] = task
    return own
