"""The zoo: one file per family of networks, variants as data.

    net = build("resnet18", classes=10, input_size=32, stem="small")

Every net is an ordinary `torch.nn.Module` with a class attribute `head` (the dotted name of its last layer), a
method ``forward_features(x) -> (B, D)``, and, when it was built here, `spec`: a JSON-able dict with which
``build(**net.spec)`` makes the same net again.
"""

from .registry import (
    builder,
    change_head,
    engineered,
    example,
    facts,
    head_of,
    in_file,
    names,
    one_size,
    options,
    register,
    smallest_picture,
)
from .weights import build, load_weights, preprocess_for, save_for_timm

__all__ = [
    "build",
    "builder",
    "change_head",
    "engineered",
    "example",
    "facts",
    "head_of",
    "in_file",
    "load_weights",
    "names",
    "one_size",
    "options",
    "preprocess_for",
    "register",
    "save_for_timm",
    "smallest_picture",
]
