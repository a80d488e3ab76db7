"""A trained net whose forward pass is computed by the engine that is fastest here, wherever a net is only asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.engine import choice
from neocog.engine.engines import Shared
from neocog.engine.graph import leaves, rebuilt, write_graph
from neocog.fit.device import Device

WORTH = 200  # pictures that repay writing a graph, which takes about two seconds


class Graphed(nn.Module):
    """The same answers as `net`, from an engine once there is enough to do; until then, and without one, from the net.

    Args:
        net: in eval mode, of one input (B, ...), with tensors (B, ...) in a tensor, tuple, list or dict as answer.
        device: anything but the CPU leaves everything to PyTorch; with `bf16` the engine may use it as well.
        ahead: inputs that will come, None if nobody knows: then the engine comes in after `WORTH` of them.
    """

    def __init__(
        self, net: nn.Module, device: Device, ahead: int | None = None, say: Callable[[str], object] = lambda text: None
    ) -> None:
        super().__init__()
        self.net = net
        self.tells = getattr(net, "tells", False)  # see `evaluating.Telling`
        self._device, self._say = device, say
        self._seen = WORTH if ahead is not None and ahead >= WORTH else 0
        self._alone = device.kind != "cpu" or (ahead is not None and ahead < WORTH)
        self._engine: Shared | None = None
        self._like: Any = None
        self.how = ""
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """As the net's."""
        if self._engine is None and not self._alone and self._seen >= WORTH:
            self._choose(x)
        self._seen += len(x)
        if self._engine is None:
            return self.net(x)
        return rebuilt(self._like, map(torch.from_numpy, self._engine.run(np.ascontiguousarray(x.numpy()))))

    def _choose(self, x: Tensor) -> None:
        self._alone = True  # whatever comes of it, it is tried once
        example = x[:2].float().contiguous().cpu()
        if len(example) < 2:
            example = torch.cat([example, example.flip(-1)])
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            self._like = self.net(example)
        size = tuple(x.shape[1:])

        def reference(given: np.ndarray, bf16: bool) -> list[np.ndarray]:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.no_grad():
                return [one.float().numpy() for one in leaves(self.net(torch.from_numpy(given))).values()]

        engine = choice.graph_of(
            choice.place(_fingerprint(self.net), size), lambda path: write_graph(self.net, example, path), reference,
            np.ascontiguousarray(x[:8].float().numpy()), structure=f"{_told(self.net)} of {size}",
            fast=self._device.bf16, say=self._say,
        )  # fmt: skip
        if engine is not None:
            self._engine, self.how = Shared(engine), engine.how
            self._say(f"{engine.how} computes")


def _told(net: nn.Module) -> str:
    """The structure of a net, in 16 hexadecimal digits."""
    return hashlib.blake2b(repr(net).encode(), digest_size=8).hexdigest()


def _fingerprint(net: nn.Module) -> str:
    """The structure and the numbers of a net, in 32 hexadecimal digits."""
    digest = hashlib.blake2b(repr((net, getattr(net, "spec", None))).encode(), digest_size=16)
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
