"""A net written as an ONNX graph, which ONNX Runtime, OpenVINO and others compute without PyTorch.

The net is traced (``torch.onnx.export(dynamo=False)``). Of PyTorch 2.13's two exporters this one takes 2 s where the
newer takes 20 to 70 s (MobileNet v1 0.75, ResNet-18, GoogLeNet on two cores), and it follows the hooks by which
``nets.Trunk`` reads maps.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from neocog.errors import MissingExtra, NetError
from neocog.files import write_atomically

OPSET = 17  # of ONNX: what engines of 2022 and later read
_tracing = threading.Lock()  # PyTorch traces one net at a time


def leaves(out: Any, name: str = "output") -> dict[str, Tensor]:
    """The tensors in what a net answers, by name, in order; None is left out.

    A tensor is called `name`; those of a dict by their keys, those of a sequence by their numbers: ``boxes_0``.

    Raises: NetError for anything else than tensors, dicts and sequences.
    """
    if out is None:
        return {}
    if isinstance(out, Tensor):
        return {name: out}
    if isinstance(out, dict):
        parts = {str(key) if name == "output" else f"{name}_{key}": value for key, value in out.items()}
    elif isinstance(out, (list, tuple)):
        parts = {f"{name}_{i}": value for i, value in enumerate(out)}
    else:
        raise NetError(f"expected tensors, dicts and sequences of a net that is written, got {type(out).__name__}")
    return {key: tensor for part, value in parts.items() for key, tensor in leaves(value, part).items()}


def rebuilt(like: Any, values: Iterator[Any]) -> Any:
    """`values` in the form of `like`: the inverse of `leaves`."""
    if like is None:
        return None
    if isinstance(like, Tensor):
        return next(values)
    if isinstance(like, dict):
        return {key: rebuilt(part, values) for key, part in like.items()}
    parts = [rebuilt(part, values) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def _pooled(g: Any, x: Any, size: Any) -> Any:
    """``adaptive_avg_pool2d`` in ONNX: as two products with matrices, where windows are not all of one size."""
    from torch.onnx.symbolic_helper import parse_args

    @parse_args("v", "is")  # type: ignore[untyped-decorator]
    def symbolic(g: Any, x: Any, size: list[int]) -> Any:
        given = (x.type().varyingSizes() or [None, None])[-2:]
        if set(size) == {1}:
            return g.op("GlobalAveragePool", x)
        if None in given:
            raise NetError("adaptive pooling is written for one size of pictures only")
        if all(have % want == 0 for have, want in zip(given, size, strict=True)):
            steps = [have // want for have, want in zip(given, size, strict=True)]
            return g.op("AveragePool", x, kernel_shape_i=steps, strides_i=steps)
        rows, columns = (_windows(have, want) for have, want in zip(given, size, strict=True))
        made = g.op("MatMul", g.op("Constant", value_t=rows), x)
        return g.op("MatMul", made, g.op("Constant", value_t=columns.T.contiguous()))

    return symbolic(g, x, size)


def _windows(have: int, want: int) -> Tensor:
    """(want, have): row i is the mean over the cells of the i-th window of adaptive pooling."""
    made = torch.zeros(want, have)
    for i in range(want):
        first, last = i * have // want, -(-(i + 1) * have // want)
        made[i, first:last] = 1 / (last - first)
    return made


class _Flat(nn.Module):
    """A net that answers with a plain tuple."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaves(self.net(*inputs)).values())


def write_graph(
    net: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    path: str | os.PathLike[str],
    *,
    inputs: Sequence[str] = ("input",),
    outputs: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    dynamic_size: bool | Sequence[int] = False,
) -> list[str]:
    """Write a net in evaluation mode as an ONNX file (weights inside); return the names of its outputs.

    Batch normalisation is folded into convolutions on the way. The net itself is not changed.

    A graph holds what the net did with `example`: what its code decides in Python (a padding computed from a size, a
    loop over boxes) is decided once. Where that matters the graph answers something else, or nothing, at another batch
    or size; nobody tells before it is tried, so compare it with the net on other inputs before it is used.

    Args:
        net: on the CPU, float32.
        example: inputs that the net takes, (B, ...) each; B of at least 2 if `dynamic_batch`, as 1 may be treated
            specially.
        inputs, outputs: names in the graph; of outputs, None takes those of `leaves`.
        dynamic_batch: the first axis of inputs may have any length.
        dynamic_size: so may the axes after the channels, or those of these numbers.

    Raises:
        MissingExtra: the package onnx is not installed.
        NetError: an operator that ONNX lacks, an answer that is no tensor, more than 2 GB of weights.
    """
    if find_spec("onnx") is None:
        raise MissingExtra("writing a net as a graph needs the package onnx; type: pip install onnx")
    given = example if isinstance(example, tuple) else (example,)
    kind = getattr(net, "spec", None) or {}
    name = kind.get("name", type(net).__name__)
    modes = {module: module.training for module in net.modules()}
    flat = _Flat(net).eval()  # which changes the net's mode; it is given back below
    axes: dict[str, dict[int, str]] = {
        key: ({0: "batch"} if dynamic_batch else {})
        | {axis: f"size_{axis - 1}" for axis in (range(2, x.ndim) if dynamic_size is True else dynamic_size or ())}
        for key, x in zip(inputs, given, strict=True)
    }
    try:
        with (
            _tracing, torch.no_grad(), torch.autocast("cpu", enabled=False),
            warnings.catch_warnings(), redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder,
            patch.object(torch._C, "_jit_onnx_log", create=True),  # it writes what failed, half a megabyte, to stdout
        ):  # fmt: skip
            warnings.simplefilter("ignore")  # that this exporter is the older one; that sizes become constants
            found = leaves(net(*given))
            names = list(outputs or found)
            axes |= {key: {0: "batch"} for key in names if dynamic_batch}
            file = Path(folder) / "net.onnx"
            torch.onnx.register_custom_op_symbolic("aten::adaptive_avg_pool2d", _pooled, OPSET)
            torch.onnx.export(
                flat, given, str(file), dynamo=False, opset_version=OPSET, verbose=False,
                input_names=list(inputs), output_names=names, dynamic_axes=axes,
            )  # fmt: skip
            write_atomically(Path(path), file.read_bytes())
    except (NetError, OSError):
        raise
    except Exception as error:  # whatever the exporter, or the net's own code while it is traced, makes of it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise NetError(f"{name} cannot be written as an ONNX graph: {reason}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    return names
