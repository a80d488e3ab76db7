"""Features by name of layer: against a forward pass written out, and kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from neocog import nets
from neocog.data import open_source
from neocog.data.batches import Known
from neocog.data.pictures import Streamed
from neocog.errors import UsageError
from neocog.fit.device import Device
from neocog.fit.extract import extract
from neocog.fit.features import Tapped, Taps, build, features_of, layer_names, plain_head
from neocog.fit.job import Split
from neocog.fit.kept import Kept, fingerprint, neighbours
from neocog.fit.parallel import World
from neocog.fit.show import Show
from neocog.nets.taps import LAST
from neocog.records import Preprocess
from neocog.tasks import Label

CPU = Device("cpu", channels_last=True)
PRE = Preprocess(32, 32)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nets.build("cifar_resnet20", classes=4).eval()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def seen(net: nn.Module, layer: str, x: torch.Tensor) -> torch.Tensor:
    """A layer's output by a hook that copies it."""
    found: list[torch.Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _i, out: found.append(out.clone()))
    with torch.no_grad():
        net(x)
    handle.remove()
    return found[-1]


def test_pooled_spatial_and_joined(net: nn.Module, x: torch.Tensor) -> None:
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    early, late = names[1], names[-1]
    a, b = seen(net, early, x), seen(net, late, x)
    assert a.shape[2:] != b.shape[2:]
    with torch.no_grad():
        assert torch.allclose(Taps(net, [early])(x), a.mean((2, 3)), atol=1e-6)
        assert torch.allclose(Taps(net, [early], "max")(x), a.amax((2, 3)))
        assert torch.equal(Taps(net, [late], "spatial")(x), b)
        joined = Taps(net, [late, early])(x)
        assert torch.allclose(joined, torch.cat((b.mean((2, 3)), a.mean((2, 3))), 1), atol=1e-6)
        maps = Taps(net, [early, late], "spatial")(x)
        enlarged = F.interpolate(b, a.shape[2:], mode="bilinear")
        assert torch.allclose(maps, torch.cat((a, enlarged), 1), atol=1e-6)
        mixed = Taps(net, [LAST, early], "spatial")(x)  # a vector and a map
        assert torch.allclose(mixed, torch.cat((net.forward_features(x), a.flatten(1)), 1), atol=1e-6)  # type: ignore[operator]


def test_a_pass_ends_early_and_gives_the_same(net: nn.Module, x: torch.Tensor) -> None:
    name = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    passes: list[int] = []
    handle = net.register_forward_hook(lambda *_: passes.append(1))
    taps = Taps(net, [name])
    with torch.no_grad():
        first, second = taps(x), taps(x)
    handle.remove()
    assert torch.equal(first, second) and len(passes) == 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_layer_used_twice_counts_with_its_last_output() -> None:
    class Twice(nn.Module):
        head = "last"

        def __init__(self) -> None:
            super().__init__()
            self.relu, self.last = nn.ReLU(inplace=True), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.relu(self.relu(x) - 1))

    net, x = Twice().eval(), torch.tensor([[0.5, 1.5, -1.0, 3.0]])
    taps = Taps(net, ["relu"])
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(taps(x.clone()), torch.tensor([[0.0, 0.5, 0.0, 2.0]]))


def test_names_that_do_not_exist(net: nn.Module) -> None:
    assert layer_names(" a.b, c ,,c") == ("a.b", "c") == layer_names(["a.b", "c"])
    assert layer_names(None) == ()
    with pytest.raises(UsageError, match=r"no layer 'conv2' .did you mean 'conv1'"):
        Taps(net, ["conv2"])
    with pytest.raises(UsageError, match=r"unknown pooling 'mea' .did you mean 'mean'"):
        Taps(net, [LAST], "mea")


def test_a_net_of_layers_keeps_its_trunk_and_comes_back_whole(net: nn.Module, x: torch.Tensor) -> None:
    spec = dict(net.spec)  # type: ignore[arg-type]
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)][2:4]
    taps = {"layers": layers, "pool": "mean"}
    made = build(spec, taps, Label("abcdefg"))
    assert isinstance(made, Tapped)
    made.trunk.load_state_dict(net.state_dict())
    again = build(spec, taps, Label("abcdefg"))
    again.load_state_dict(made.state_dict())
    with torch.no_grad():
        a, b = made.eval()(x), again.eval()(x)
        assert a.shape == (3, 7) and torch.equal(a, b)
        assert torch.allclose(made.forward_features(x), Taps(net, layers)(x))
        assert torch.allclose(nets.head_of(made)(made.forward_features(x)), a)


@pytest.mark.parametrize(("name", "plain"), [("cifar_resnet20", True), ("speednet", False), ("nin_cifar", False)])
def test_which_last_layers_can_hold_any_linear_function(name: str, plain: bool) -> None:
    assert plain_head(nets.build(name)) is plain


def test_extract_reads_pictures(net: nn.Module, tmp_path: Path) -> None:
    source = open_source("drawn:n=12,size=32")
    found = extract(net, source, preprocess=PRE, device="cpu")
    assert found.rows.tolist() == list(range(12)) and not found.problems
    assert found.labels.tolist() == source.labels.tolist() and found.classes == source.classes
    assert found.label_sets is None
    taps = Taps(net, ["conv1"], "spatial")
    rows, values = features_of(net, taps, Streamed(source, np.arange(12), PRE), CPU)
    maps = extract(net, source, "conv1", pool="spatial", preprocess=PRE, device="cpu")
    assert rows.tolist() == maps.rows.tolist() and maps.values.ndim == 4
    assert maps.values == pytest.approx(values, abs=0.1)  # the device may compute in bfloat16
    with pytest.raises(UsageError, match="need its preprocessing"):
        extract(net, source)


def test_extract_gives_the_labels_of_the_pictures_that_could_be_read(net: nn.Module, tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    table = tmp_path / "table.csv"
    table.write_text("path,label\nbroken.png,dog\na.png,cat\nb.png,\nc.png,dog\n")
    found = extract(net, table, preprocess=PRE, device="cpu")
    assert len(found.problems) == 1 and found.rows.tolist() == [1, 2, 3]
    assert found.labels.tolist() == [0, -1, 1] and found.classes == ("cat", "dog")
    table.write_text("path,labels\nbroken.png,dog\na.png,cat|dog\nb.png,dog\n")
    found = extract(net, table, preprocess=PRE, device="cpu")
    assert found.label_sets == (("cat", "dog"), ("dog",)) and found.labels[0] == -1


class _Counted(nn.Module):
    """Features that say how many pictures have been seen."""

    head = "fc"

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.pictures = nn.Linear(3, 2), 0

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        self.pictures += len(x)
        return x.mean((2, 3))


def test_features_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neocog.fit.kept._PART", 10)  # three files
    net = _Counted()

    def kept(run: str, key: str = "k") -> Kept:
        folder = tmp_path / run
        folder.mkdir(exist_ok=True)
        return Kept(net, key, folder, neighbours(folder), CPU, World(), Show(False))

    source = open_source("drawn:n=25,size=32")
    pictures = Streamed(source, np.arange(25), PRE)
    first = kept("a")
    rows, values = first.of(pictures, "train")
    assert rows.tolist() == list(range(25)) and values.shape == (25, 3) and net.pictures == first.seen == 25
    first.of(pictures, "train")
    assert kept("a").of(pictures, "train")[1] == pytest.approx(values) and net.pictures == 25
    assert kept("b").of(pictures, "train")[1] == pytest.approx(values) and net.pictures == 25  # of its neighbour
    # another key, or a damaged file, is computed again: all of it, or that part
    assert kept("c", key="other").of(pictures, "train")[1].shape == (25, 3) and net.pictures == 50
    (tmp_path / "a" / "features" / "train-10.safetensors").write_bytes(b"broken")
    assert kept("a").of(pictures, "train")[1] == pytest.approx(values) and net.pictures == 60
    # logits are those of the last layer
    chosen, task = np.array([3, 20]), Label(source.classes)
    split = Split((pictures,), source, np.arange(25), Known({"label": source.columns["label"]}, task.collate))
    found, some = kept("a").observed(task, split, "train", chosen)
    assert found["rows"].tolist() == [3, 20] and found["labels"].tolist() == source.labels[chosen].tolist()
    assert found["logits"] == pytest.approx(net.fc(torch.from_numpy(some)).detach().numpy(), abs=1e-6)
    assert net.pictures == 60


def test_fingerprints_see_names_values_and_types() -> None:
    base = {"a": torch.zeros(3), "head.weight": torch.ones(2)}
    assert fingerprint(base) == fingerprint(dict(reversed(base.items())))
    others = [{**base, "a": torch.full((3,), 1e-30)}, {**base, "a": torch.zeros(3).half()}, {"b": base["a"]}]
    assert len({fingerprint(one) for one in [base, *others]}) == 4
    assert fingerprint(base, without=["head"]) == fingerprint({"a": base["a"]})
    assert fingerprint({}) and fingerprint({"empty": torch.zeros(0)})
