"""A sentence space of a user's CLIP weights: the picture tower becomes a net of the zoo, the text tower the space.

What is read is open_clip's format, as the Hugging Face hub has it, or a PyTorch file of the same tensors. How large the
towers are is seen from the tensors; ``open_clip_config.json`` says what these do not tell.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neocog.errors import LibraryError
from neocog.files import cache_folder, write_atomically
from neocog.library.concepts import says_nothing
from neocog.library.learning import forget_sentences
from neocog.library.model_names import model_name
from neocog.library.sentences import FOLDER, prepare, space_of
from neocog.text.clip import KIND, ClipSpace, shapes, tokenizer_of
from neocog.text.space import Space

if TYPE_CHECKING:
    from torch import Tensor

    from neocog.library import Library
    from neocog.library.changes import Report

_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pt")
_CONFIG, _TOKENIZER = "open_clip_config.json", "tokenizer.json"
_READ = (
    f"expected a folder with {_WEIGHTS[0]}, {_CONFIG} and {_TOKENIZER} of a CLIP that sees pictures with a ResNet: "
    "timm/resnet50_clip.openai, timm/resnet101_clip.openai or timm/resnet50x4_clip.openai of the Hugging Face hub"
)
_NEEDED = (
    "visual.attnpool.c_proj.weight", "visual.attnpool.positional_embedding", "visual.conv3.weight",
    "token_embedding.weight", "positional_embedding", "ln_final.weight", "text_projection",
)  # fmt: skip
_OTHERS = {"visual.trunk.stem.0.weight": "ConvNeXt", "visual.class_embedding": "a vision transformer"}
_HEAD = 64  # numbers in a head of the text tower, where nothing else is said
_BANK = 300  # everyday phrases; see ClipSpace.probability


def learn_clip(library: Library, named: str, *, say: Callable[[str], object] = print, **options: Any) -> Report:
    """Look at a library's pictures with the picture tower of a CLIP, and find them by sentences with it from then on.

    It can be killed and run again.

    Args:
        named: a folder with open_clip's files, a file of weights that has the others beside it, or a name of the hub.
        options: those of `Library.index`.

    Raises:
        LibraryError: there is no such CLIP, or it is none that is read. FetchError, MissingExtra: of the hub.
    """
    file = _file(str(named), say)
    state, config = _tensors(file), _config(file.with_name(_CONFIG), say)
    net, weights = _net(state, config)
    made = _space(state, config, model_name(net, weights), file.with_name(_TOKENIZER))
    del state
    report = library.index(net=net, weights=weights, say=say, **options)
    used, store = space_of(library.store), library.store
    if not report.interrupted and (used is None or used.about != made.about):
        made = made.beside(made.about["common"])
        with store.indexing(wait=600):
            forget_sentences(store)
            made.save(store.folder / FOLDER)
        prepare(store)
    return report


def _file(named: str, say: Callable[[str], object]) -> Path:
    """The file of weights that is meant."""
    path = Path(named).expanduser()
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        if found := [path / name for name in _WEIGHTS if (path / name).is_file()]:
            return found[0]
        raise LibraryError(f"{path} has none of the files {', '.join(_WEIGHTS)}; {_READ}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", named):
        raise LibraryError(f"there is no {named!r}; {_READ}; or the name there")
    from neocog.nets.hub import fetched

    what, remedy = f"the CLIP {named}", "give a folder that has its files"
    return fetched(named, _WEIGHTS[0], what, remedy, beside=(_CONFIG, _TOKENIZER), say=say)


def _config(file: Path, say: Callable[[str], object]) -> dict[str, Any]:
    """What the tensors do not tell: "quick", "heads" (0: not said), "mean", "std"."""
    from neocog.nets.clip_resnet import MEAN, STD

    try:
        found = json.loads(file.read_text("utf-8"))
        model, seen = (dict(found.get(part) or {}) for part in ("model_cfg", "preprocess_cfg"))
        heads = int(dict(model.get("text_cfg") or {}).get("heads") or 0)
        mean, std = ([float(v) for v in seen.get(n) or usual] for n, usual in (("mean", MEAN), ("std", STD)))
        if not (len(mean) == len(std) == 3 and all(math.isfinite(v) for v in mean) and all(0 < v < 100 for v in std)):
            raise ValueError(f"expected three numbers as mean and std, got {mean} and {std}")
    except FileNotFoundError:
        say(f"there is no {file}, so the weights are read as those of OpenAI")
        return {"quick": True, "heads": 0, "mean": list(MEAN), "std": list(STD)}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LibraryError(f"{file} cannot be read ({error}); {_READ}") from None
    return {"quick": bool(model.get("quick_gelu", False)), "heads": heads, "mean": mean, "std": std}


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by open_clip's names. Raises: LibraryError: it is none of a CLIP that is read."""
    import torch
    from safetensors.torch import load_file
    from torch import Tensor

    if zipfile.is_zipfile(file) and any("/code/" in name for name in zipfile.ZipFile(file).namelist()):
        raise LibraryError(f"{file} is a program (TorchScript), which is not run here; {_READ}")
    try:
        read: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        named = {name.removeprefix("module."): value for name, value in read.get("state_dict", read).items()}
    except Exception as error:  # the readers raise many kinds
        raise LibraryError(f"{file} cannot be read as weights ({str(error).splitlines()[0]}); {_READ}") from None
    state = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if missing := [name for name in _NEEDED if name not in state or not state[name].ndim or not state[name].numel()]:
        sees = next((f"a CLIP that sees pictures with {kind}" for name, kind in _OTHERS.items() if name in state), "")
        raise LibraryError(f"{file} holds {sees or f'no CLIP with a ResNet: {missing[0]} is missing'}; {_READ}")
    return state


def _net(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[str, Path]:
    """The name of the net that is the picture tower, and its weights, written once, in the user's cache."""
    from safetensors.torch import save

    from neocog.nets import names, options

    tower = {k.removeprefix("visual."): v.contiguous() for k, v in state.items() if k.startswith("visual.")}
    spec = {
        "stages": [len({k.split(".")[1] for k in tower if k.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4)],
        "width": len(tower["conv3.weight"]),
        "dimensions": len(tower["attnpool.c_proj.weight"]),
    }
    fits = [n for n in names("clip") if spec == {**options(n), "stages": list(options(n)["stages"])}]
    net, size = fits[0] if fits else "clip_resnet50", 32 * math.isqrt(len(tower["attnpool.positional_embedding"]) - 1)
    about = {
        "net": {"name": net, "input_size": size, **spec},
        "preprocess": {"size": size, "resize": size, "mean": config["mean"], "std": config["std"]},
    }
    data = save(tower, {"about": json.dumps(about)})  # pictures that are prepared otherwise have other vectors
    folder = cache_folder() / "weights" / f"{net}-{hashlib.sha256(data).hexdigest()[:12]}"
    try:
        if not (folder / "net.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "weights.safetensors", data)
            write_atomically(folder / "net.json", json.dumps(about, indent=1).encode())  # last: with it, it is whole
    except OSError as error:
        raise LibraryError(
            f"the weights cannot be kept in {folder}: {error.strerror}; choose another cache with NEOCOG_CACHE"
        ) from None
    return net, folder / "weights.safetensors"


def _space(state: Mapping[str, Tensor], config: Mapping[str, Any], trunk: str, tokens: Path) -> ClipSpace:
    """The space without its bank. Raises: LibraryError: tensors or tokens do not belong together."""
    import torch

    try:
        tokenizer = tokenizer_of(tokens.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise LibraryError(f"{tokens} is needed and cannot be read ({error}); {_READ}") from None
    vocabulary, width = tokenizer.get_vocab(), len(state["ln_final.weight"])
    layers = len({k.split(".")[2] for k in state if k.startswith("transformer.resblocks.")})
    size, context = len(state["token_embedding.weight"]), len(state["positional_embedding"])
    wanted = shapes(size, width, layers, context, len(state["visual.attnpool.c_proj.weight"]))
    if wrong := [name for name, shape in wanted.items() if name not in state or tuple(state[name].shape) != shape]:
        raise LibraryError(f"the text tower lacks {wrong[0]}, or it has not the shape {wanted[wrong[0]]}; {_READ}")
    if max(vocabulary.values()) >= size:
        raise LibraryError(f"{tokens} has {len(vocabulary):,} tokens, and the weights are for {size:,}; {_READ}")
    weights = {name: state[name].to(torch.float16).numpy() for name in wanted}
    if wrong := [name for name, value in weights.items() if not np.isfinite(value).all()]:
        raise LibraryError(f"{wrong[0]} of the text tower has numbers that are not finite, or too large; {_READ}")
    if width % (heads := config["heads"] or max(1, width // _HEAD)) or heads < 1 or context < 3:
        raise LibraryError(f"{width} numbers, {heads} heads and {context} tokens are no text tower of a CLIP; {_READ}")
    frequent = Space.load().about["words"]
    common = [w for w in sorted(frequent, key=lambda w: -frequent[w]) if len(w) > 1 and not says_nothing(w)][:_BANK]
    words = [t.removesuffix("</w>") for t in vocabulary if t.endswith("</w>") and t.isascii()]
    about = {
        "kind": KIND,
        "trunk": trunk,
        "projection": hashlib.sha256(weights["text_projection"].tobytes()).hexdigest()[:12],  # another text tower?
        "heads": heads,
        "quick": config["quick"],
        "common": common,
        "words": sorted(w for w in words if len(w) > 1 and w.isalpha()),
    }
    bank = np.zeros((1, state["text_projection"].shape[1]), np.float16)
    return ClipSpace({**weights, "logit_scale": state["logit_scale"].float().numpy(), "bank": bank}, about, tokenizer)
