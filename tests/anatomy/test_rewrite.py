"""Rewrites: the exact ones keep the function, the others give what they promise, and none touches the given module."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from neocog import nets
from neocog.anatomy.rewrite import REWRITES, rewrite
from neocog.anatomy.trace import trace
from neocog.errors import NetError, UsageError

EXACT = [key for key, rule in REWRITES.items() if rule.exact]


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net in float64 and evaluation mode, with BN statistics, scales, shifts and biases that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    net = net.double().eval()
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            if m.running_mean is not None:
                m.running_mean.uniform_(-1, 1, generator=generator)
                m.running_var.uniform_(0.3, 2, generator=generator)
            if m.affine:
                m.weight.data.uniform_(-1.5, 1.5, generator=generator)
                m.bias.data.uniform_(-1, 1, generator=generator)
        elif getattr(m, "bias", None) is not None and isinstance(m.bias, Tensor):
            m.bias.data.uniform_(-1, 1, generator=generator)
    return net


def pictures(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def assert_same(a: Tensor, b: Tensor) -> None:
    a, b = a.detach(), b.detach()
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 1e-6 * max(1.0, float(b.abs().max()))


class Snapshot:
    """State, modes and gradients of a module, to compare later."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.state = {k: v.clone() for k, v in net.state_dict().items()}
        self.objects = {k: id(v) for k, v in net.state_dict(keep_vars=True).items()}
        self.modes = {k: m.training for k, m in net.named_modules()}
        self.kinds = {k: type(m) for k, m in net.named_modules()}
        self.attributes = {k: sorted(m.__dict__) for k, m in net.named_modules()}
        self.random = torch.get_rng_state()

    def check(self, random: bool = True) -> None:
        now = self.net.state_dict(keep_vars=True)
        assert {k: id(v) for k, v in now.items()} == self.objects
        assert all(torch.equal(v, self.state[k]) for k, v in now.items())
        assert {k: m.training for k, m in self.net.named_modules()} == self.modes
        assert {k: type(m) for k, m in self.net.named_modules()} == self.kinds
        assert {k: sorted(m.__dict__) for k, m in self.net.named_modules()} == self.attributes
        if random:
            assert torch.equal(torch.get_rng_state(), self.random)


# --- nets that are not ours ------------------------------------------------------------------------------------------


class Backwards(nn.Module):
    """Its layers are defined in another order than they run, and one BN is called by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.bn_b = nn.BatchNorm2d(6)
        self.bn_a = nn.BatchNorm2d(6)
        self.conv_a = nn.Conv2d(3, 6, 3, bias=False)
        self.conv_b = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn_a(self.conv_a(x)))
        return x + self.bn_b(self.conv_b(x))


class Returns(nn.Module):
    """Puts out what stands before its BN, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return self.bn(y), y


class Twice(nn.Module):
    def __init__(self, shared: str) -> None:
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        if shared == "weights":
            self.conv2.weight = self.conv.weight
        elif shared == "conv":
            self.conv2 = self.conv
        elif shared == "bn":
            self.bn2 = self.bn

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(torch.relu(self.bn(self.conv(x)))))


class Relued(nn.Module):
    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.conv, self.between, self.bn = nn.Conv2d(3, 4, 3), between, nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.between(self.conv(x)))


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Hidden(nn.Module):
    """Keeps a BN where PyTorch does not look for modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.steps = [self.conv, self.bn]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class Head(nn.Module):
    """Trunk and fully connected head, flattened in forward()."""

    def __init__(self, pooled: int | None = None) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.pool = nn.Identity() if pooled is None else nn.AdaptiveAvgPool2d(pooled)
        self.fc1 = nn.Linear(8 * (pooled or 4) ** 2, 20)
        self.bn = nn.BatchNorm1d(20)
        self.drop = nn.Dropout(0.5)
        self.fc2 = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != 3:
            raise ValueError(f"bad shape {tuple(x.shape)}")
        x = self.pool(self.trunk(x))
        x = self.drop(F.relu(self.bn(self.fc1(torch.flatten(x, 1)))))
        return F.log_softmax(self.fc2(x), dim=1)


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.aux = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
        self.never = nn.Sequential(nn.Linear(4, 50), nn.BatchNorm1d(50))
        self.lost = nn.Parameter(torch.zeros(9))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.conv(x).mean((2, 3))
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


# --- random nets -----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = make()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@st.composite
def conv_nets(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A random net of convolutions in one to three dimensions, BN or not, residual or not, with a head or without."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    axes = draw(st.sampled_from((1, 2, 2, 3)))
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    turned = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[axes]
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[axes]
    channels = draw(st.sampled_from((2, 4)))
    side = {1: 16, 2: 9, 3: 5}[axes]
    layers: list[nn.Module] = []
    size, width = side, channels
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(("conv", "conv", "turned", "block", "pool")))
        bias, with_norm, affine = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
        groups = draw(st.sampled_from((1, 2)))
        if kind == "conv":
            new = 2 * draw(st.integers(1, 3))
            layers.append(conv(width, new, 3, padding=1, groups=groups, bias=bias))
            width = new
        elif kind == "turned":
            new = 2 * draw(st.integers(1, 3))
            layers.append(turned(width, new, 3, padding=1, groups=groups, bias=bias))
            width = new
        elif kind == "pool" and size > 3:
            layers.append({1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[axes](2))
            size //= 2
            continue
        else:
            layers.append(
                Block(lambda w=width, b=bias: nn.Sequential(conv(w, w, 3, padding=1, bias=b), norm(w), nn.ReLU()))
            )
        if with_norm:
            layers.append(norm(width, affine=affine, track_running_stats=draw(st.integers(0, 4)) > 0))
        if draw(st.booleans()):
            layers.append(nn.ReLU(inplace=draw(st.booleans())))
    if draw(st.booleans()):
        layers += [nn.Flatten(), nn.Linear(width * size**axes, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)]
    net = shaken(nn.Sequential(*layers), draw(st.integers(0, 100)))
    return net.train(draw(st.booleans())), (channels, *(side,) * axes)


@settings(max_examples=40)
@given(conv_nets(), st.sampled_from(EXACT))
def test_exact_rewrites_keep_the_function_of_random_nets(made: tuple[nn.Module, tuple[int, ...]], rule: str) -> None:
    net, shape = made
    before = Snapshot(net)
    try:
        result = rewrite(net, rule, shape)
    except NetError as error:
        assert "nothing to do" in str(error) or "no linear layer" in str(error)
        before.check()
        return
    before.check()
    assert result.changed
    assert {k: m.training for k, m in result.module.named_modules()}[""] == net.training
    x = pictures(3, *shape)
    again = result.module.eval()
    with torch.no_grad():
        assert_same(again(x), copy.deepcopy(net).eval()(x))
    with torch.no_grad():  # nothing is shared with the given module
        for parameter in result.module.parameters():
            parameter.add_(1)
    before.check()


def test_every_bn_of_a_chain_is_folded():
    net = shaken(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Linear(5, 5)))
    result = rewrite(net, "fold-bn", (2, 7, 7))
    assert result.changed == ("0",)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in result.module.modules())
    assert_same(result.module(pictures(2, 2, 7, 7)), net(pictures(2, 2, 7, 7)))


# --- folding BN ------------------------------------------------------------------------------------------------------


def test_bn_is_found_by_data_flow_not_by_order():
    net = shaken(Backwards())
    result = rewrite(net, "fold-bn", (3, 8, 8))
    assert set(result.changed) == {"conv_a", "conv_b"}
    assert result.after is not None and result.before is not None
    assert result.before.params - result.after.params == 2 * 12 - 6  # four vectors of BN for one new bias
    assert_same(result.module(pictures(2, 3, 8, 8)), net(pictures(2, 3, 8, 8)))


@pytest.mark.parametrize(
    ("net", "shape", "reason"),
    [
        (Returns(), (3, 8, 8), "alone"),
        (Twice("conv"), (4, 8, 8), "more than once"),
        (Twice("bn"), (4, 8, 8), "more than once"),
        (Twice("weights"), (4, 8, 8), "shared"),
        (Relued(nn.ReLU(inplace=True)), (3, 8, 8), "alone"),
        (Relued(nn.ReLU()), (3, 8, 8), "nothing to do"),
        (Relued(nn.Dropout(0.5)), (3, 8, 8), "alone"),
        (nn.Sequential(Scaled(3, 4, 3), nn.BatchNorm2d(4)), (3, 8, 8), "nothing to do"),
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(3)), (3, 5), "another dimension"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), (3, 8, 8), "statistics"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)), (3, 8, 8),
         "nothing to do"),
    ],
)  # fmt: skip
def test_a_pair_that_is_not_one_function_is_left_alone(net: nn.Module, shape: tuple[int, ...], reason: str) -> None:
    with pytest.raises(NetError, match=reason):
        rewrite(shaken(net), "fold-bn", shape)


def test_a_bn_that_is_kept_out_of_sight_is_noticed():
    with pytest.raises(NetError, match="cannot see them"):
        rewrite(shaken(Hidden()), "fold-bn", (3, 8, 8))


def test_dead_biases_are_dead_in_training_too():
    net = shaken(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    result = rewrite(net, "remove-dead-bias", (3, 8, 8))
    assert result.changed == ("0",)
    assert result.module[0].bias is None and result.module[3].bias is not None
    x = pictures(4, 3, 8, 8)
    net.train(), result.module.train()
    for _ in range(3):
        assert_same(result.module(x), net(x))
    net.eval(), result.module.eval()
    assert_same(result.module(x), net(x))


def test_what_only_training_reads_is_not_unused():
    net = Auxiliary().eval()
    result = rewrite(net, "remove-unused", (3, 8, 8))
    assert set(result.changed) == {"never", "lost"}
    assert any("aux" in note and "training" in note for note in result.notes)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(result.module(x), net(x))
    assert torch.equal(result.module.train()(x)[1], net.train()(x)[1])
    assert "never.0.weight" not in result.module.state_dict()


# --- fully connected heads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [None, 4, 2])
def test_fc_to_conv_takes_larger_pictures(pooled: int | None):
    net = shaken(Head(pooled))
    result = rewrite(net, "fc-to-conv", (3, 16, 16))
    maps = rewrite(net, "fc-to-conv", (3, 16, 16), average=False).module
    x = pictures(2, 3, 16, 16)
    assert_same(result.module(x), net(x))
    assert_same(maps(x)[:, :, 0, 0], net(x))

    large = pictures(1, 3, 24, 20)
    answers = maps(large)
    assert answers.shape == (1, 7, 3, 2) if pooled is None else answers.shape[1] == 7
    assert_same(result.module(large), answers.mean((2, 3)))


def test_each_answer_of_the_map_is_that_of_its_crop():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 5))
    net = shaken(net)
    maps = rewrite(net, "fc-to-conv", (3, 8, 8), average=False).module
    x = pictures(1, 3, 14, 12)
    answers = maps(x)
    assert answers.shape == (1, 5, 4, 3)
    for row in range(4):
        for column in range(3):
            crop = x[:, :, 2 * row : 2 * row + 8, 2 * column : 2 * column + 8]
            assert_same(answers[:, :, row, column], net(crop))


def test_fc_to_conv_is_ready_to_train():
    net = rewrite(Head(4), "fc-to-conv", (3, 16, 16)).module.train()
    net(torch.randn(4, 3, 20, 20)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert net.drop.training


def test_a_net_of_any_size_has_nothing_to_convert():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(NetError, match="no linear layer behind a flattened map"):
        rewrite(net, "fc-to-conv", (3, 8, 8))


def test_global_pool_reads_the_mean_of_each_map():
    net = shaken(Head())
    result = rewrite(net, "global-pool", (3, 16, 16))
    assert result.module.fc2.in_features == 8
    x = pictures(2, 3, 16, 16)
    features = result.module.trunk(x).mean((2, 3))
    assert_same(result.module(x), F.log_softmax(result.module.fc2(F.relu(features)), dim=1))
    result.module(pictures(2, 3, 32, 24))  # any size


# --- filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "links"), [(5, 1, 2, 2), (7, 1, 3, 3), (5, 1, 0, 2), (7, 2, 3, 2), (11, 4, 2, 3)]
)
def test_a_chain_makes_a_map_of_the_same_size_and_sees_as_much(kernel: int, stride: int, padding: int, links: int):
    net = nn.Sequential(nn.Conv2d(32, 32, kernel, stride, padding))
    result = rewrite(net, "chain-3x3", (32, 63, 63))
    assert result.before is not None and result.after is not None
    assert result.before.outputs == result.after.outputs
    convs = [m for m in result.module.modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size for m in convs] == [(3, 3)] * links
    assert result.after.layers[-1].field.size >= result.before.layers[-1].field.size
    if stride == 1:
        assert result.after.layers[-1].field == result.before.layers[-1].field
        weights = sum(m.weight.numel() for m in convs)
        assert weights == 9 * links * 32 * 32  # 18 C C for 25, 27 for 49


def test_depthwise_leaves_one_k_th_and_one_ninth():
    net = nn.Sequential(nn.Conv2d(64, 128, 3, padding=1, bias=False))
    result = rewrite(net, "depthwise", (64, 14, 14))
    weights = sum(m.weight.numel() for m in result.module.modules() if isinstance(m, nn.Conv2d))
    assert weights / (9 * 64 * 128) == pytest.approx(1 / 128 + 1 / 9)


def test_groups_and_the_mixing_behind_them():
    net = nn.Sequential(nn.Conv2d(64, 128, 3, padding=1))
    mixed = rewrite(net, "groups", (64, 14, 14), groups=4).module
    assert [(m.groups, m.kernel_size) for m in mixed.modules() if isinstance(m, nn.Conv2d)] == [
        (4, (3, 3)),
        (1, (1, 1)),
    ]
    plain = rewrite(net, "groups", (64, 14, 14), groups=4, mix=False).after
    assert plain is not None and plain.params == 9 * 64 * 128 // 4 + 128
    with pytest.raises(NetError, match="divided by 5"):
        rewrite(net, "groups", (64, 14, 14), layers=["0"], groups=5)


@pytest.mark.parametrize("stride", [1, 2])
def test_low_rank_of_full_rank_is_the_old_function(stride: int):
    net = shaken(nn.Sequential(nn.Conv2d(4, 6, (3, 5), stride, (1, 2))))
    full = rewrite(net, "low-rank", (4, 11, 11), layers=["0"], rank=12).module
    assert_same(full(pictures(2, 4, 11, 11)), net(pictures(2, 4, 11, 11)))
    thin = rewrite(net, "low-rank", (4, 11, 11), layers=["0"], rank=2)
    weight = net[0].weight.detach()
    down, across = (m.weight.detach() for m in thin.module.modules() if isinstance(m, nn.Conv2d))
    product = torch.einsum("rchx,krwj->kchj", down, across)
    error = ((product - weight).norm() / weight.norm()).item()
    singular = torch.linalg.svdvals(weight.permute(1, 2, 3, 0).reshape(12, 30))
    assert error == pytest.approx((singular[2:].norm() / singular.norm()).item(), rel=1e-6)  # the best there is
    assert f"relative error of the filters {error:.3g}" in thin.notes[0]


def test_low_rank_splits_linear_layers_that_are_named():
    net = shaken(nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5)))
    full = rewrite(net, "low-rank", (40,), layers=["0"], rank=30).module
    assert_same(full(pictures(3, 40)), net(pictures(3, 40)))
    assert rewrite(net, "low-rank", (40,), layers=["0"]).after.params == 7 * 70 + 30 + 155


def test_rewritten_nets_learn_in_every_parameter():
    net = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 64, 5),
    )  # fmt: skip
    for rule in ("chain-3x3", "depthwise", "groups", "low-rank", "global-pool"):
        changed = rewrite(net, rule, (3, 16, 16)).module
        assert changed.training
        changed(torch.randn(4, 3, 16, 16)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in changed.parameters()), rule
        assert all(p.grad is None for p in net.parameters())


# --- dilation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 37])
def test_dilation_keeps_the_values_at_the_old_positions(size: int):
    torch.manual_seed(0)
    net = shaken(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.MaxPool2d(3, 2, 1),
            Block(lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=2, dilation=2), nn.BatchNorm2d(4))),
            nn.AvgPool2d(2), nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 2, 1),
        )
    )  # fmt: skip
    x = pictures(1, 3, size, size)
    coarse = net(x)
    for most, times in ((8, 2), (4, 4), (2, 8)):
        result = rewrite(net, "dilate", (3, size, size), stride=most)
        fine = result.module(x)
        assert_same(fine[:, :, ::times, ::times], coarse)
        assert fine.shape[2] > coarse.shape[2]
        assert {k: v.shape for k, v in result.module.state_dict().items()} == {
            k: v.shape for k, v in net.state_dict().items()
        }
    assert rewrite(net, "dilate", (3, size, size), layers=["6"]).changed == ("6", "7")


def test_dilation_of_resnet18_and_of_a_converted_head():
    torch.manual_seed(0)
    net = shaken(nets.build("resnet18", classes=4))
    net.fc = nn.Identity()
    trunk = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4)
    x = pictures(1, 3, 65, 64)
    dilated = rewrite(trunk, "dilate", (3, 65, 64)).module
    assert_same(dilated(x)[:, :, ::4, ::4], trunk(x))

    head = shaken(Head())
    with pytest.raises(NetError, match="fc-to-conv"):
        rewrite(head, "dilate", (3, 16, 16), stride=2)
    maps = rewrite(head, "fc-to-conv", (3, 16, 16), average=False).module
    large = pictures(1, 3, 32, 32)
    fine = rewrite(maps, "dilate", (3, 32, 32), stride=2).module
    assert_same(fine(large)[:, :, ::2, ::2], maps(large))


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2)], "cannot skip positions"),
        ([nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")], "padding"),
        ([nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(3, 1, ceil_mode=True), nn.MaxPool2d(3, 2, ceil_mode=True)], "cut off"),
        ([nn.Conv2d(3, 4, 3, 2, 1), nn.AvgPool2d(3, 1, 1)], "mean with padding"),
        ([nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(2)], "fixed size"),
        ([nn.Conv2d(3, 4, 3, 1, 1)], "never shrinks"),
    ],
)
def test_dilation_says_what_cannot_follow(layers: list[nn.Module], reason: str):
    with pytest.raises(NetError, match=reason):
        rewrite(nn.Sequential(*layers), "dilate", (3, 16, 16), stride=1)


# --- nets of the zoo -------------------------------------------------------------------------------------------------


def test_a_rewritten_net_claims_nothing_that_is_no_longer_true():
    net = nets.build("resnet18", classes=5, input_size=64)
    spec = dict(net.spec)
    folded = rewrite(net, "fold-bn")  # the size is that of the net
    assert folded.before is not None and folded.before.inputs == ((1, 3, 64, 64),)
    assert net.spec == spec
    assert not hasattr(folded.module, "spec")
    assert folded.module.rewritten == {"spec": spec, "rules": ("fold-bn",)}
    again = rewrite(folded.module, "chain-3x3").module
    assert again.rewritten["rules"] == ("fold-bn", "chain-3x3")
    nets.change_head(again, 9)
    assert again(torch.randn(1, 3, 64, 64)).shape == (1, 9)


def test_figures_before_and_after_on_the_meta_device():
    with torch.device("meta"):
        net = nets.build("vgg16")
    pooled = rewrite(net, "global-pool")
    assert dict((row[0], row[1:]) for row in pooled.rows())["parameters"] == (138_357_544, 14_714_688 + 513_000)
    assert pooled.module.classifier[6].weight.is_meta
    assert "138,357,544" in str(pooled) and "global average" not in str(pooled.rows())
    converted = rewrite(net, "fc-to-conv")
    assert converted.after is not None and converted.before is not None
    assert converted.after.params == converted.before.params
    assert converted.after.macs == converted.before.macs
    assert trace(converted.module, (3, 384, 384)).outputs == ((1, 1000),)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("vgg11_bn", "fold-bn"), ("vgg11_bn", "remove-dead-bias"), ("alexnet", "fc-to-conv"), ("resnet50", "fold-bn"),
        ("mobilenet_v2", "fold-bn"), ("googlenet", "fold-bn"), ("densenet121", "fold-bn"),
    ],
)  # fmt: skip
def test_nets_of_the_zoo_keep_their_function(name: str, rule: str):
    torch.manual_seed(0)
    net = nets.build(name, classes=6)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_var.uniform_(0.5, 2), m.running_mean.uniform_(-0.2, 0.2)
    net = net.double().eval()
    x = pictures(1, 3, 224, 224)
    with torch.no_grad():
        assert_same(rewrite(net, rule).module(x), net(x))


def test_wrappers_are_taken_off():
    net = shaken(Backwards())
    result = rewrite(nn.DataParallel(net), "fold-bn", (3, 8, 8))
    assert type(result.module) is Backwards and set(result.changed) == {"conv_a", "conv_b"}


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_say_what_to_type():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(UsageError, match="did you mean 'fold-bn'"):
        rewrite(net, "fold_bn", (3, 8, 8))
    with pytest.raises(UsageError, match="did you mean 'rank'"):
        rewrite(net, "low-rank", (3, 8, 8), ranks=3)
    with pytest.raises(UsageError, match=r"rewrite\(net, rule, \(3, 224, 224\)\)"):
        rewrite(net, "fold-bn")
    with pytest.raises(NetError, match="no layer 'conv'"):
        rewrite(net, "chain-3x3", (3, 8, 8), layers=["conv"])
    with pytest.raises(NetError, match="not an ordinary convolution"):
        rewrite(net, "chain-3x3", (3, 8, 8), layers=["1"])
    with pytest.raises(NetError, match="cannot compute"):
        rewrite(net, "fold-bn", (5, 8, 8))


@pytest.mark.parametrize("rule", REWRITES)
def test_the_module_is_left_alone_even_where_a_rewrite_fails(rule: str):
    for net, shape in ((Head(), (3, 16, 16)), (Backwards(), (3, 8, 8)), (Auxiliary(), (3, 8, 8))):
        before = Snapshot(net)
        try:
            result = rewrite(net, rule, shape)
        except NetError:
            before.check()
            continue
        before.check(random=REWRITES[rule].exact)
        assert str(result)
        assert len(result.rows()) == 5
