"""Receptive fields where positions move, mix or get lost: against gradients, and what is shown where none is known."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.anatomy import advise, compare, to_csv, to_svg
from neocog.anatomy.trace import trace
from neocog.anatomy.whole import Anatomy


class Applied(nn.Module):
    """A function of the module and its arguments; `parts` become attributes."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


class Windows(nn.Module):
    """Attention within windows of `side` x `side` tokens, shifted by `shift` (Liu et al. 2021), on (B, H, W, C)."""

    def __init__(self, width: int, side: int, shift: int, fused: bool) -> None:
        super().__init__()
        self.side, self.shift, self.fused = side, shift, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        (b, h, w, c), n = x.shape, self.side
        y = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        y = y.view(b, h // n, n, w // n, n, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, n * n, c)
        q, k, v = self.qkv(y).reshape(-1, n * n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.transpose(-2, -1)).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(-1, n * n, c))
        y = y.view(b, h // n, w // n, n, n, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return x + (torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)


class Swin(nn.Module):
    def __init__(self, *shifts: int, fused: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, 2)
        self.blocks = nn.Sequential(*(Windows(4, 4, shift, fused) for shift in shifts))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.patches(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def conv(kernel: int = 3, channels: int = 1) -> nn.Conv2d:
    return nn.Conv2d(1, channels, kernel, padding=kernel // 2)


def overwritten(net: Any, x: Tensor) -> Tensor:
    y = x.new_zeros(x.shape[0], 1, 34, 34)
    y[:, :, 1:-1, 1:-1] = net.conv(x)
    return net.conv(y)


def mixed(net: Any, x: Tensor) -> Tensor:
    y = net.patches(x).flatten(2).transpose(1, 2)
    y = y + net.tokens(y.transpose(1, 2)).transpose(1, 2)
    return y.transpose(1, 2).unflatten(2, (4, 4))


def patched(net: Any, x: Tensor) -> Tensor:
    y = x.view(-1, 1, 8, 4, 8, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, 16)
    return net.fc(y).transpose(1, 2).unflatten(2, (8, 8))


def weighted(net: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, net.fc(x.mean((2, 3)))[0].view(1, 1, 3, 3), padding=1)


ROLLED = Applied(lambda net, x: x + torch.roll(net.conv(x), 5, 2), conv=conv())
GATHERED = Applied(
    lambda net, x: x + net.conv(x).gather(3, torch.arange(32).flip(0).expand(x.shape[0], 1, 32, 32)), conv=conv()
)
INVERTED = Applied(lambda net, x: x + torch.linalg.inv(net.conv(x)), conv=conv())
# net, and the rows and columns that a position sees: None where only a bound, "*" where also the whole picture
CASES: dict[str, tuple[nn.Module, Any]] = {
    "roll": (ROLLED, (7, 3)),
    "roll both ways": (Applied(lambda net, x: x + net.conv(x).roll((5, -3), (2, 3)), conv=conv()), (7, 5)),
    "roll by all but two": (Applied(lambda net, x: x + net.conv(x).roll(30, 3), conv=conv()), (3, 4)),
    "windows": (Swin(0), (8, 8)),
    "windows, one operator": (Swin(0, fused=True), (8, 8)),
    "shifted windows": (Swin(0, 2), (16, 16)),
    "three blocks": (Swin(0, 2, 0), (24, 24)),
    "mixer": (Applied(mixed, patches=nn.Conv2d(1, 4, 8, 8), tokens=nn.Linear(16, 16)), "*"),
    "columns mixed": (Applied(lambda net, x: x + net.fc(x), fc=nn.Linear(32, 32)), (1, 32)),
    "transposed": (Applied(lambda net, x: x + net.conv(x).transpose(2, 3), conv=conv()), None),
    "flip": (Applied(lambda net, x: x + net.conv(x).flip(3), conv=conv()), None),
    "fourier": (Applied(lambda net, x: x + torch.fft.ifft2(torch.fft.fft2(x) * net.w).real, w=nn.Parameter(
        torch.ones(32, 32))), "*"),
    "softmax over the map": (Applied(lambda net, x: x * net.conv(x).flatten(2).softmax(-1).view_as(x),
                                     conv=conv()), "*"),
    "group norm": (nn.Sequential(conv(), nn.GroupNorm(1, 1)), "*"),
    "layer norm of channels": (Applied(lambda net, x: F.layer_norm(net.conv(x).movedim(1, -1), (4,)).movedim(-1, 1),
                                       conv=conv(3, 4)), (3, 3)),
    "gather": (GATHERED, None),
    "inverse": (INVERTED, None),
    "circular padding": (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), conv()), (5, 5)),
    "overwritten": (Applied(overwritten, conv=nn.Conv2d(1, 1, 3, padding=1)), (5, 5)),
    "space to depth": (nn.Sequential(conv(), nn.PixelUnshuffle(2), nn.Conv2d(4, 1, 3)), (8, 8)),
    "patches by hand": (Applied(patched, fc=nn.Linear(16, 3)), (4, 4)),
    "weights made of the picture": (Applied(weighted, fc=nn.Linear(1, 9)), "*"),
    "unfold": (Applied(lambda net, x: x.unfold(2, 3, 2).unfold(3, 3, 2).sum((4, 5)) * net.w, w=nn.Parameter(
        torch.ones(1))), (3, 3)),
    "repeat": (Applied(lambda net, x: net.conv(x).repeat(1, 2, 1, 1), conv=conv()), (3, 3)),
    "running sum": (Applied(lambda net, x: x + net.conv(x).cumsum(3), conv=conv()), None),
}  # fmt: skip


def extent(seen: Tensor) -> int:
    """Length of the shortest interval that holds all pixels that are seen, on a ring."""
    where = seen.nonzero().flatten().tolist()
    gaps = [b - a for a, b in pairwise([*where, where[0] + len(seen)])]
    return len(seen) - max(gaps) + 1


def most_seen(net: nn.Module, size: int = 32) -> tuple[int, int]:
    """Rows and columns that the position sees which sees most, of some positions; by gradients."""
    torch.manual_seed(0)
    net = net.double().eval()
    x = torch.rand(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    out, found = net(x), []
    mix = torch.rand(out.shape[1], dtype=torch.float64)  # so that channels do not cancel one another
    for i, j in torch.randint(0, out.shape[2], (12, 2)).tolist():
        (gradient,) = torch.autograd.grad(out[0, :, i, j % out.shape[3]] @ mix, x, retain_graph=True)
        seen = gradient[0, 0] != 0
        found.append((extent(seen.any(1)), extent(seen.any(0))))
    net.float()
    return max(n for n, _ in found), max(n for _, n in found)


@pytest.mark.parametrize("name", CASES)
def test_no_position_sees_more_than_the_field_says(name: str) -> None:
    net, expected = CASES[name]
    field = trace(net, (1, 32, 32)).receptive_field
    seen = most_seen(net)
    assert field is not None
    if field.whole or field.at_least:
        assert expected == "*" if field.whole else expected is None
        return
    assert seen[0] <= field.size[0] and seen[1] <= field.size[1]
    if expected is not None:
        assert (field.size, seen) == (expected, expected)


def test_swin_of_the_paper() -> None:
    """Patches of 4 and windows of 7: 28 rows behind the first block, 56 behind the second, with shifted windows."""
    net = Swin(0, 3)
    net.patches = nn.Conv2d(3, 4, 4, 4)
    for block in net.blocks:
        block.side = 7
    anatomy = trace(net, (3, 112, 112))
    fields = {total.name: total.field for total in anatomy.totals()}
    sizes = [fields[name].size for name in ("patches", "blocks.0", "blocks.1")]  # type: ignore[union-attr]
    assert sizes == [(4, 4), (28, 28), (56, 56)]
    assert anatomy.field_lost_at is None


def test_a_second_input_that_is_no_picture_changes_nothing() -> None:
    """A step of time or a class, as in diffusion nets."""
    net = Applied(lambda net, x, t: net.conv(x) + net.fc(t)[:, :, None, None], conv=conv(), fc=nn.Linear(3, 1))
    field = trace(net, [(1, 32, 32), (3,)]).receptive_field
    assert field is not None and (field.size, field.whole, field.at_least) == ((3, 3), False, False)


def test_class_token() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        tokens = torch.cat([net.token, net.patches(x).flatten(2).transpose(1, 2)], 1)
        return net.head((tokens + net.attention(tokens, tokens, tokens)[0])[:, 0])

    net = Applied(
        forward, patches=nn.Conv2d(1, 4, 4, 4), token=nn.Parameter(torch.zeros(1, 1, 4)),
        attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 3),
    )  # fmt: skip
    anatomy = trace(net, (1, 32, 32))
    assert anatomy.field_lost_at is None
    cat, head = anatomy.layer(":cat").field, anatomy.layer("head").field
    assert cat is not None and head is not None
    assert (cat.size, cat.stride, cat.whole) == ((4, 4), (4, 4), False)
    assert (head.size, head.whole) == ((32, 32), True)


@pytest.fixture(scope="module")
def lost() -> Anatomy:
    """What is behind an inverse is unknown; joined with a known path, it is a lower bound."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.after(torch.linalg.inv(net.conv(x)))
        return net.last(x + y)

    return trace(Applied(forward, conv=conv(), after=conv(), last=conv()), (1, 32, 32))


def test_what_is_not_known_is_marked_in_the_table(lost: Anatomy) -> None:
    assert lost.layer("conv").field is not None and not lost.layer("conv").field_unknown
    assert lost.layer("after").field is None and lost.layer("after").field_unknown
    last = lost.layer("last").field
    assert last is not None and (last.size, last.at_least) == ((3, 3), True)
    assert lost.receptive_field == last
    text = str(lost)
    assert ">= 3" in text and "unknown" in text
    assert "from :linalg_inv_ex on" in text
    assert "&gt;= 3" in lost._repr_html_()


def test_what_is_not_known_is_marked_in_files(lost: Anatomy) -> None:
    found = lost.as_dict()
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert found["receptive_field"]["at_least"] and by_name["after"]["field_unknown"]
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(to_csv(lost)))}
    assert (rows["last"]["receptive_field"], rows["last"]["at_least"]) == ("3x3", "1")
    assert (rows["after"]["receptive_field"], rows["conv"]["at_least"]) == ("unknown", "0")
    assert "receptive field at least 3" in to_svg(lost)
    assert compare({"lost": lost}).entries[0].receptive_field is None


def test_a_net_whose_last_map_is_lost_has_no_field() -> None:
    anatomy = trace(Applied(lambda net, x: torch.linalg.inv(net.conv(x)), conv=conv()), (1, 32, 32))
    assert anatomy.receptive_field is None
    assert anatomy.last_map is not None and anatomy.last_map.field_unknown


def test_advice_is_silent_where_the_field_is_not_known(lost: Anatomy) -> None:
    known = trace(nn.Sequential(conv(), conv()), (1, 32, 32))
    assert "receptive-field" in {item.rule for item in advise(known)}
    assert "receptive-field" not in {item.rule for item in advise(lost)}
