#!/usr/bin/env python3
"""Write tests/nets/timm_outputs.json: what timm's nets compute, for every repository of `neocog.nets.hub.REPOSITORIES`.

    PYTHONPATH=src:tests python scripts/make_timm_outputs.py

It needs timm, which neocog does not use; torchvision, which timm imports, is replaced by nothing. Weights follow the
rule of `nets.reference.filled`, in float64. The file holds the names and shapes of a state dict where they differ from
those of the net here, else their checksum.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from unittest.mock import MagicMock

import torch
from nets.reference import checksum, filled, picture, shapes_of

from neocog import nets
from neocog.nets.hub import REPOSITORIES

_OUT = Path(__file__).parents[1] / "tests" / "nets" / "timm_outputs.json"
# One square and even, one neither: padding, rounding and means show. timm's VGG takes the mean over maps of more than
# 7x7 after its linear layers, torchvision's (whose weights they are) before; up to 224 they are the same.
_SIZES = ((3, 64, 64), (3, 97, 75))


def main() -> None:
    """Write the file."""
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc", "torchvision.transforms",
                 "torchvision.transforms.functional", "torchvision.datasets", "torchvision.models",
                 "torchvision.models.feature_extraction"):  # fmt: skip
        sys.modules[name] = MagicMock(__spec__=None)
    sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (torch.nn.Module,), {})
    import timm

    known = set(timm.list_pretrained())
    versions = f"timm {timm.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    found: dict[str, object] = {"_about": f"made by scripts/{Path(__file__).name} with {versions}"}
    for name, repository in REPOSITORIES.items():
        architecture = repository.removeprefix("timm/")
        if architecture not in known:
            raise SystemExit(f"timm knows no weights {architecture!r}")
        net = timm.create_model(architecture.partition(".")[0], pretrained=False).double().eval()
        net.load_state_dict(filled(net.state_dict()), strict=True, assign=True)
        with torch.device("meta"):
            own = shapes_of(nets.build(name))
        shapes = shapes_of(net)
        outputs = []
        for size in _SIZES:
            with torch.no_grad():
                out = net(picture(size)).flatten()
            first = [round(value, 9) for value in out[:4].tolist()]
            outputs.append({"input": size, "first": first, "mean": out.mean().item(), "std": out.std().item()})
        state = {"checksum": checksum(shapes)} if shapes == own else {"state": shapes}
        card = timm.get_pretrained_cfg(architecture)
        side = card.input_size[-1]
        preprocess = [side, int(side / card.crop_pct), card.mean, card.std]
        found[name] = {**state, "preprocess": preprocess, "outputs": outputs}
        print(name, "same names" if shapes == own else "other names", flush=True)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
    _OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
