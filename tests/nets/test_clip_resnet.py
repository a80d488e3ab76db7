"""CLIP's residual nets: their attention, their names, their sizes."""

from __future__ import annotations

import pytest
import torch
from nets.counting import trainable

from neocog import nets
from neocog.errors import NetError
from neocog.nets.clip_resnet import AttentionPool
from neocog.text.clip import shapes


def test_attention_over_the_map_is_what_the_paper_says() -> None:
    """Slow and obvious: one head and one picture at a time, all tokens ask, and the answer of the first is taken."""
    torch.manual_seed(0)
    pool = AttentionPool(128, 3, 10).double()
    maps = torch.randn(2, 128, 3, 3, dtype=torch.float64)
    for picture, found in zip(maps, pool(maps), strict=True):
        places = [picture[:, y, x] for y in range(3) for x in range(3)]
        tokens = torch.stack([picture.mean((1, 2)), *places]) + pool.positional_embedding
        said = []
        for head in range(2):
            own = slice(64 * head, 64 * head + 64)
            q, k, v = (layer(tokens)[:, own] for layer in (pool.q_proj, pool.k_proj, pool.v_proj))
            said.append(torch.softmax(q @ k.T / 8, 1) @ v)
        torch.testing.assert_close(pool.c_proj(torch.cat(said, 1)[0]), found)


def test_sizes_are_those_of_the_released_clips() -> None:
    with torch.device("meta"):
        tower = trainable(nets.build("clip_resnet50"))
    text = sum(torch.Size(shape).numel() for shape in shapes(49408, 512, 12, 77, 1024).values())
    assert (tower, tower + text) == (38_316_896, 102_007_137)


def test_names_are_open_clips() -> None:
    with torch.device("meta"):
        names = set(nets.build("clip_resnet50").state_dict())
    assert {"conv1.weight", "bn3.running_var", "layer1.0.downsample.0.weight", "layer1.0.downsample.1.bias"} <= names
    assert {f"attnpool.{name}_proj.bias" for name in "qkvc"} | {"attnpool.positional_embedding"} <= names
    assert "layer4.2.conv3.weight" in names and len(names) == 339


def test_pictures_of_another_size_are_refused() -> None:
    net = nets.build("clip_resnet50", input_size=64, stages=[1, 1, 1, 1], width=8, dimensions=16).eval()
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 16)
    with pytest.raises(NetError, match=r"maps of 2x2 at its end, got 3x3; resize the pictures to about 64x64"):
        net(torch.randn(1, 3, 96, 96))
