"""Diagnosis: healthy and sick nets and curves, and that nothing is left changed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from neocog.data.batches import Batch
from neocog.errors import UsageError
from neocog.fit import diagnose as d
from neocog.fit import findings
from neocog.fit.training import losses_of
from neocog.tasks import Label, Losses


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(512, 4)
    )


def batch(n: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 8, 8), torch.arange(n) % 4


def losses(x: Tensor, y: Tensor, smoothing: float = 0.0) -> Callable[[nn.Module], Losses]:
    """The losses of a net for a batch, as the loop computes them."""
    task, n = Label("abcd", smoothing), len(x)
    some = Batch((x,), {"label": y}, torch.arange(n), torch.ones(n, dtype=torch.bool))
    return lambda net: losses_of(task, net, some)


@pytest.mark.parametrize(
    ("loss", "verdict"), [(2.31, "good"), (2.9, "good"), (4.0, "warn"), (8.0, "bad"), (0.5, "warn"), (math.nan, "bad")]
)
def test_initial_loss(loss: float, verdict: str) -> None:
    finding = findings.initial_loss(loss, 10)
    assert finding.verdict == verdict and "2.303" in finding.evidence
    assert bool(finding.advice) == (verdict != "good")


def test_overfits_one_batch_and_leaves_everything_as_it_was() -> None:
    net = small_net()
    net[1].eval()  # a mixed mode must come back too
    x, y = batch()
    net(x).sum().backward()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    gradient = net[0].weight.grad.clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    finding = d.overfit_one_batch(net, losses(x, y), len(x))

    assert finding.verdict == "good" and "16 pictures" in finding.evidence
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(gradient, net[0].weight.grad)
    assert [module.training for module in net] == [True, False, True, True, True, True]
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()


def test_overfits_with_label_smoothing() -> None:
    assert d.overfit_one_batch(small_net(), losses(*batch(), smoothing=0.2), 16).verdict == "good"


def test_overfits_inside_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        finding = d.overfit_one_batch(small_net(), losses(*batch()), 16)
    assert finding.verdict == "good"


def test_a_net_that_does_not_see_its_input_cannot_overfit() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            random.random()
            return self.bias.expand(len(x), 4)

    state = random.getstate()
    finding = d.overfit_one_batch(Blind(), losses(*batch()), 16, steps=20)
    assert finding.verdict == "bad" and "1.386" in finding.evidence and finding.advice
    assert random.getstate() == state


def test_a_likelihood_need_not_fall_to_half() -> None:
    class Likelihood(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(1))

    def of(net: nn.Module) -> Losses:
        return Losses({"surprise": 7 + 4 * (next(net.parameters()) - 1).square().sum()}, 16.0)

    finding = d.overfit_one_batch(Likelihood(), of, 16)
    assert finding.verdict == "warn" and "labels" not in finding.advice


def test_a_frozen_net_is_refused_and_a_frozen_trunk_is_not() -> None:
    net = small_net().requires_grad_(False)
    with pytest.raises(UsageError, match="all frozen"):
        d.overfit_one_batch(net, losses(*batch()), 16)
    net[-1].requires_grad_(True)
    with torch.no_grad():  # even when the caller has switched gradients off
        assert d.overfit_one_batch(net, losses(*batch()), 16).verdict == "good"


@given(st.floats(1e-6, 10), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
@settings(deadline=None, max_examples=30)
def test_update_ratio_of_a_scaled_weight(share: float, dtype: torch.dtype) -> None:
    before = {"w": torch.randn(5, 3).double(), "count": torch.tensor(3)}
    after = {"w": before["w"] * (1 + share), "count": torch.tensor(4)}
    ratios = d.update_ratios(before, after)
    assert ratios == {"w": pytest.approx(share, rel=1e-6)}
    zero = {"w": torch.zeros(3, dtype=dtype)}
    assert d.update_ratios(zero, {"w": torch.ones(3, dtype=dtype)}) == {"w": 1.0}
    assert d.update_ratios(zero, zero) == {"w": 0.0}


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ({"a.weight": 1e-3, "b.weight": 3e-3, "b.bias": 1.0}, "good"),
        ({"a.weight": 2e-2}, "warn"),
        ({"a.weight": 0.3}, "bad"),
        ({"a.weight": 1e-7}, "warn"),
        ({"a.weight": 1e-3, "b.weight": 1e-3, "c.weight": 0.0}, "warn"),
        ({"a.weight": math.nan}, "bad"),
        ({}, "warn"),
    ],
)
def test_reading_update_ratios(ratios: dict[str, float], verdict: str) -> None:
    finding = findings.read_update_ratios(ratios)
    assert finding.verdict == verdict and bool(finding.advice) == (verdict != "good")


def test_muon_takes_longer_steps() -> None:
    ratios = {"conv.weight": 0.06, "conv2.weight": 0.05}
    assert [findings.read_update_ratios(ratios, optimizer).verdict for optimizer in ("sgd", "muon")] == ["bad", "good"]


def dead_bias(layer: nn.Module, share: float) -> None:
    """Make the first `share` of a layer's outputs negative for every input."""
    with torch.no_grad():
        layer.weight.mul_(0.01)
        layer.bias.fill_(1.0)
        layer.bias[: round(len(layer.bias) * share)] = -100.0


class Mixed(nn.Module):
    """One activation of every way of writing it, each with its own known share of dead channels."""

    def __init__(self) -> None:
        super().__init__()
        shares = (0.25, 0.5, 0.75, 0.125, 0.25, 0.5)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in shares)
        for conv, share in zip(self.convs, shares, strict=True):
            dead_bias(conv, share)
        self.relu = nn.ReLU(inplace=True)
        self.late = nn.Linear(8, 8)
        dead_bias(self.late, 0.75)
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.convs[0](x))
        x = self.relu(self.convs[1](x))
        x = F.relu(self.convs[2](x))
        x = self.convs[3](x).clamp(min=0)
        x = F.relu6(self.convs[4](x))
        x = F.silu(self.convs[5](x))
        x = x / x.norm().clamp(min=1e-6)  # not an activation
        x = self.gelu(self.late(x.permute(0, 2, 3, 1)))  # (B, H, W, C), as ConvNeXt has it
        return x.mean(dim=(1, 2))


def test_dead_units_however_they_are_written() -> None:
    net = Mixed().train()
    assert d.dead_units(net, torch.rand(32, 8, 5, 3)) == {
        "relu": 0.25,
        "relu#2": 0.5,
        "net": 0.75,
        "net#2": 0.125,
        "net#3": 0.25,
        "net#4": 0.5,
        "gelu": 0.75,
    }


def test_dead_units_leave_the_net_as_it_was_even_after_an_error() -> None:
    net = small_net()
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x, _ = batch()
    state = torch.get_rng_state()
    assert set(d.dead_units(net, x)) == {"2"}
    with pytest.raises(RuntimeError):
        d.dead_units(net, torch.zeros(1, 5, 8, 8))
    assert [module.training for module in net] == [True, False, True, True, True, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_linear_features_after_a_residual_sum() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv2d(8, 8, 1), nn.Linear(8, 8)
            dead_bias(self.conv, 0.5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            gate = self.gate(y.mean(dim=(2, 3))).sigmoid()  # a linear layer between the convolution and the ReLU
            return F.relu(y * gate[:, :, None, None])

    assert d.dead_units(Block(), torch.rand(16, 8, 4, 6)) == {"net": 0.5}


@pytest.mark.parametrize(
    ("dead", "verdict"), [({"a": 0.1}, "good"), ({"a": 0.1, "b": 0.5}, "warn"), ({"a": 1.0}, "bad"), ({}, "good")]
)
def test_reading_dead_units(dead: dict[str, float], verdict: str) -> None:
    finding = findings.read_dead(dead)
    assert finding.verdict == verdict and bool(finding.advice) == (verdict != "good")


def test_scan_finds_a_rate_that_trains() -> None:
    net = nn.Linear(20, 4)
    x = torch.randn(256, 20)
    y = (x @ torch.randn(20, 4)).argmax(dim=1)

    def step(lr: float) -> float:
        loss = F.cross_entropy(net(x), y)
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= lr * parameter.grad
        return loss.item()

    rates = d.sweep(1e-4, 1e5, 120)
    points, suggestion = d.lr_scan(step, rates)
    assert [point["lr"] for point in points] == rates[: len(points)]
    assert suggestion.lr is not None and 0.05 < suggestion.lr < 30
    assert suggestion.diverged is None or suggestion.lr <= suggestion.diverged / 10 * 1.0001


def test_scan_stays_ten_times_below_divergence() -> None:
    def step(lr: float) -> float:
        return 2 - math.log10(lr / 1e-5) * 0.1 if lr < 0.1 else 2 + (lr / 0.1) ** 2

    points, suggestion = d.lr_scan(step, d.sweep(1e-5, 100, 141))
    assert suggestion.diverged is not None and 0.1 < suggestion.diverged < 1
    assert suggestion.lr == pytest.approx(min(suggestion.steepest, suggestion.diverged / 10))
    assert points[-1]["lr"] == suggestion.diverged


@pytest.mark.parametrize("loss", [2.3, math.nan])
def test_scan_without_an_answer_says_why(loss: float) -> None:
    _, suggestion = d.lr_scan(lambda lr: loss, d.sweep())
    assert suggestion.lr is None and suggestion.reason


def test_sweep_is_geometric() -> None:
    rates = np.array(d.sweep(1e-3, 10, 9))
    np.testing.assert_allclose(rates[1:] / rates[:-1], 10**0.5)
    with pytest.raises(UsageError, match="low < high"):
        d.sweep(1, 0.1)


def epochs(train: list[float], val: list[float], val_loss: list[float] | None = None, lr: float = 0.1) -> list[dict]:
    losses = [2.3 - 2 * share for share in train]
    val_loss = val_loss or [2.3 - 2 * share for share in val]
    return [
        {"epoch": i + 1.0, "train_loss": losses[i], "train_accuracy": train[i], "val_loss": val_loss[i],
         "val_accuracy": val[i], "lr": lr}
        for i in range(len(train))
    ]  # fmt: skip


def verdicts(records: list[dict], **recipe: object) -> dict[str, findings.Finding]:
    return {finding.name: finding for finding in findings.read_curves(records, {"net": "x", "recipe": recipe})}


RISE = [0.3, 0.5, 0.7, 0.85, 0.9, 0.93, 0.94, 0.945, 0.947, 0.948]


def test_healthy_curves() -> None:
    found = verdicts(epochs(RISE, [v - 0.01 for v in RISE]))
    assert {finding.verdict for finding in found.values()} == {"good"}
    assert set(found) == {"divergence", "overfitting", "capacity", "over-confidence", "length"}


def test_overfitting_names_what_is_on_and_what_to_turn_on() -> None:
    found = verdicts(
        epochs([*RISE[:-1], 1.0], [*[v * 0.8 for v in RISE[:-1]], 0.72]),
        flip="none",
        cutout=8,
        weight_decay=5e-4,
        dropout=-1,
    )
    finding = found["overfitting"]
    assert finding.verdict == "bad" and "28.0 points" in finding.evidence
    assert "on: weight decay, cutout" in finding.evidence and "flip=random" in finding.advice
    assert "cutout" not in finding.advice and "early_stop" in finding.advice and "capacity" not in found


@pytest.mark.parametrize(("kind", "net", "mixes"), [("text", "sentence_cnn", False), ("sound", "tdnn", True)])
def test_what_changes_pictures_is_not_advised_for_other_inputs(kind: str, net: str, mixes: bool) -> None:
    rising = [{**epoch, "val_loss": 0.1 * epoch["epoch"]} for epoch in epochs(RISE, [v * 0.8 for v in RISE])]
    settings = {"net": {"name": net}, "reader": {"kind": kind}, "mirror": False, "recipe": {"weight_decay": 0.01}}
    found = {one.name: one.advice for one in findings.read_curves(rising, settings)}
    assert ("mixup=0.2" in found["overfitting"]) == ("mixup" in found["over-confidence"]) == mixes
    assert "label_smoothing=0.1" in found["overfitting"] and "translate" not in found["overfitting"]
    assert ("dropout=0.2" in found["overfitting"]) == mixes  # the net of texts has its own
    low = findings.read_curves(epochs([0.4] * 9, [0.4] * 9), settings)
    assert not any("pretrained" in one.advice or "pictures" in one.advice for one in low)


def test_all_regularisers_on_still_gives_advice() -> None:
    every = dict.fromkeys(
        ["flip", "translate", "weight_decay", "cutout", "mixup", "label_smoothing", "cutmix", "colour", "dropout"], 1
    )
    finding = verdicts(epochs(RISE, [v * 0.8 for v in RISE]), **every)["overfitting"]
    assert "smaller net" in finding.advice and "mixed pictures" in finding.evidence


def test_no_gap_and_low_means_capacity() -> None:
    low = [0.3, 0.4, 0.45, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    found = verdicts(epochs(low, low))
    assert found["capacity"].verdict == "warn" and found["overfitting"].verdict == "good"


def test_still_falling_means_longer() -> None:
    steady = [0.1 * i for i in range(1, 10)]
    found = verdicts(epochs(steady, steady))
    assert found["length"].verdict == "warn" and "longer" in found["length"].advice


def test_few_steps_are_no_reason_for_another_net() -> None:
    for n in (1, 2, 3):
        low = [0.1, 0.11, 0.12][:n]
        records = [{**r, "step": i + 1, "val_n": 200} for i, r in enumerate(epochs(low, low, [2.3, 2.3, 2.3][:n]))]
        found = verdicts(records)
        assert "good" not in {finding.verdict for finding in found.values()}  # nothing was shown yet
        assert set(found) == {"length"} and f"only {n} steps" in found["length"].evidence
        assert "train longer" in found["length"].advice and "pretrained weights" in found["length"].advice
    (started,) = findings.read_curves(records, {"start": {"regime": "all"}})
    assert "train longer" in started.advice and "pretrained" not in started.advice


def test_a_loss_that_still_falls_comes_before_another_net() -> None:
    steady = [0.1 + 0.06 * i for i in range(8)]
    found = verdicts([{**r, "step": 100 * i + 100} for i, r in enumerate(epochs(steady, steady))])
    assert "capacity" not in found and found["length"].verdict == "warn"
    assert "train longer" in found["length"].advice and "pretrained weights" in found["length"].advice
    # three epochs of many steps: the slope is known, the end is not
    found = verdicts([{**r, "step": 1000 * i + 1000} for i, r in enumerate(epochs(steady[:3], steady[:3]))])
    assert found["length"].verdict == "warn" and "capacity" not in found
    flat = [0.3, 0.3, 0.3]
    found = verdicts([{**r, "step": 1000 * i + 1000} for i, r in enumerate(epochs(flat, flat, [2.3, 1.7, 1.7]))])
    assert "length" not in found and "capacity" not in found


def test_good_needs_enough_validation_pictures() -> None:
    curves = epochs(RISE, [v - 0.01 for v in RISE])
    many, few = (verdicts([{**r, "val_n": n} for r in curves]) for n in (400, 12))
    assert many["overfitting"].verdict == "good" and "overfitting" not in few
    wide = verdicts([{**r, "val_n": 12} for r in epochs(RISE, [v * 0.5 for v in RISE])])["overfitting"]
    assert wide.verdict == "bad" and "only 12 validation pictures" in wide.evidence


def test_validation_above_training_is_no_gap() -> None:
    curves = epochs([v * 0.7 for v in RISE], RISE)
    many, few = (verdicts([{**r, "val_n": n} for r in curves]) for n in (400, 12))
    assert many["overfitting"].verdict == "good" and many["overfitting"].evidence.count("no gap") == 1
    assert "-" not in many["overfitting"].evidence and "overfitting" not in few


def test_a_loss_that_falls_without_gain_is_long_enough() -> None:
    perfect = [0.9] + [1.0] * 9
    found = verdicts(epochs(perfect, perfect, [1.0 * 0.8**i for i in range(10)]))
    assert found["length"].verdict == "good" and "+0.0 points" in found["length"].evidence


def test_surer_of_its_errors() -> None:
    found = verdicts(epochs(RISE, RISE, [1.0, 0.8, 0.6, 0.5, 0.5, 0.52, 0.55, 0.6, 0.65, 0.7]))
    assert found["over-confidence"].verdict == "warn" and "epoch 4" in found["over-confidence"].evidence


@pytest.mark.parametrize(
    "losses", [[2.3, 1.5, 1.0, 2.2], [2.3, 1.0, math.nan], [2.303, 2.302, 2.303], [2.3, 1.0, math.inf]]
)
def test_divergence_is_said_alone(losses: list[float]) -> None:
    records = [{"epoch": i, "train_loss": loss, "val_accuracy": 0.1} for i, loss in enumerate(losses)]
    (finding,) = findings.read_curves(records, {})
    assert finding.name == "divergence" and finding.verdict == "bad" and finding.advice


def test_a_training_loss_that_jumps_is_no_divergence_where_validation_falls() -> None:
    losses = zip([1.08, 0.58, 0.32, 0.53, 0.14, 0.56], [0.99, 0.2, 0.12, 0.05, 0.01, 0.01], strict=True)
    records = [{"epoch": i, "step": 2 * i, "train_loss": a, "val_loss": b} for i, (a, b) in enumerate(losses, 1)]
    assert [f.name for f in findings.read_curves(records, {}) if f.verdict == "bad"] == []


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "lr"]),
            st.one_of(st.none(), st.floats(0, 1), st.just(math.nan)),
        ),
        max_size=12,
    )
)
@settings(deadline=None, max_examples=100)
def test_any_log_can_be_read(records: list[dict]) -> None:
    for finding in findings.read_curves(records, {}):
        assert finding.verdict in ("good", "warn", "bad")
        assert json.loads(json.dumps(finding.to_json()))["name"] == finding.name
