"""Every net of the zoo is written as a graph, or stands here with the reason why it cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_every_net import GIANTS

from neocog import nets
from neocog.engine.engines import OnnxRuntime
from neocog.engine.graph import write_graph
from neocog.errors import NetError

# docs/take-it-elsewhere.md lists the same
CANNOT = {name: "ONNX has no unpooling, as PyTorch writes it" for name in ("segnet", "deconvnet")}
CANNOT["dcgan_spectral"] = "ONNX has no product of vectors, as PyTorch writes spectral norm's"
CANNOT["descriptors"] = "its histograms and grids are not written"
_FIRSTS = ("lenet1", "lenet5", "cifar_resnet20", "speednet")  # of the quick tests; the others are slow


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in _FIRSTS else pytest.mark.slow) for n in nets.names() if n not in GIANTS],
)
def test_a_net_of_the_zoo_is_written_and_computes_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    facts = nets.facts(name)
    classes = {} if facts.task in ("reconstruct", "vae", "embed") else {"classes": 7}
    net = nets.build(name, input_size=facts.smallest, **classes).eval()
    if name in CANNOT:
        with pytest.raises(NetError, match="cannot be written as an ONNX graph"):
            write_graph(net, nets.example(net, 2), tmp_path / "net.onnx")
        return
    write_graph(net, nets.example(net, 2), tmp_path / "net.onnx")
    engine = OnnxRuntime(tmp_path / "net.onnx")
    for number in (2, 1, 3):
        x = nets.example(net, number)
        with torch.no_grad():
            expected = net(x).numpy()
        found = engine.run(x.numpy())[0]
        assert np.abs(found - expected).max() <= 1e-3 * max(1.0, np.abs(expected).max()), number
