"""Nets that are data: what a design says is what is built, and what it cannot mean is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from neocog import nets
from neocog.errors import NetError
from neocog.nets.designed import Block, scaled


@pytest.mark.parametrize(
    ("how", "kernels"),
    [
        ({"expand": 0, "group": 0}, [(3, 1), (3, 1)]),
        ({"expand": 0, "group": 1}, [(3, 8), (1, 1)]),
        ({"expand": 0.5, "group": 0}, [(1, 1), (3, 1), (1, 1)]),
        ({"expand": 1, "group": 4}, [(1, 1), (3, 4), (1, 1)]),
    ],
)
def test_a_block_has_the_convolutions_of_its_kind(how: dict[str, float], kernels: list[tuple[int, int]]) -> None:
    block = Block(8, 16, stride=2, kernel=3, gate=0, **how)  # type: ignore[arg-type]
    convs = [m for m in block.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(conv.kernel_size[0], conv.groups) for conv in convs] == kernels
    assert block(torch.zeros(2, 8, 9, 9)).shape == (2, 16, 5, 5)


def test_a_block_adds_its_input_where_there_are_not_fewer_maps() -> None:
    for channels, width, more in ((8, 8, True), (8, 16, True), (16, 8, False)):
        block = Block(channels, width, stride=1, kernel=3, expand=0, group=1, gate=0).eval()
        torch.nn.init.zeros_(block.branch[-1].weight)
        x = torch.rand(1, channels, 4, 4)
        assert torch.equal(block(x)[:, :8], x[:, :8] if more else torch.zeros(1, 8, 4, 4))


def test_widths_are_scaled_to_multiples_that_fit() -> None:
    design = {"stages": [{"width": 64, "expand": 1, "group": 16}, {"width": 100}], "head": {"width": 0}}
    made = scaled(design, 0.3)
    assert [one["width"] for one in made["stages"]] == [16, 32]
    assert (made["stem"]["width"], made["head"]["width"]) == (8, 0)


@pytest.mark.parametrize(
    ("design", "said"),
    [
        ({"stages": []}, "a design is"),
        ({"stages": [{}], "tail": {}}, "no 'tail'"),
        ({"stages": [{"withd": 8}]}, r"stages\[0\] of a design has no 'withd' .did you mean 'width'"),
        ({"stages": [{"kernel": 4}]}, "kernel must be odd"),
        ({"stages": [{"depth": 0}]}, "depth must be a number of at least 1"),
        ({"stages": [{"group": 8}]}, "needs expand above 0"),
        ({"stages": [{"width": 24, "expand": 1, "group": 16}]}, "read 16 at a time"),
    ],
)
def test_what_cannot_be_built_is_named(design: dict[str, object], said: str) -> None:
    with pytest.raises(NetError, match=said):
        nets.build("designed", design=design)


def test_a_file_is_a_net(tmp_path: Path) -> None:
    design = {"stages": [{"width": 8, "stride": 1}]}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"net": {"name": "designed", "classes": 3, "input_size": 32, "design": design}}))
    net = nets.build(str(file), in_channels=1)
    assert net.spec == {"name": "designed", "classes": 3, "in_channels": 1, "input_size": 32, "design": design}
    assert nets.build(**net.spec)(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("{", "describes no net"),
        ('{"net": {"name": "designt"}}', "did you mean 'designed'"),
        ('{"net": {"name": "speednet", "wide": 2}}', "no option 'wide'"),
    ],
)
def test_a_file_that_is_no_net_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(NetError, match=said):
        nets.build(str(file))
