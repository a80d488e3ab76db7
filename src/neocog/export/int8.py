"""8-bit integers after training, by ONNX Runtime's static quantisation."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from neocog.engine.engines import silent
from neocog.export.portable import INPUT

_LAYERS = [
    "Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu", "Clip",
]  # fmt: skip


def quantise(graph: Path, pictures: list[np.ndarray]) -> None:
    """Replace a graph by one whose convolutions and linear layers compute with 8 bits.

    Args:
        pictures: uint8 (H, W, C) each, from which the ranges of activations are taken.
    """
    q: Any = silent("onnxruntime.quantization")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        left = iter(pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            one = next(self.left, None)
            return None if one is None else {INPUT: one[None]}

    with TemporaryDirectory() as folder:
        ready, done = Path(folder) / "ready.onnx", Path(folder) / "done.onnx"
        logging.disable(logging.WARNING)  # it recommends what has been done
        try:
            quant_pre_process(str(graph), str(ready), skip_symbolic_shape=True)
            q.quantize_static(
                str(ready), str(done), Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=_LAYERS,
                activation_type=q.QuantType.QInt8, weight_type=q.QuantType.QInt8,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        graph.write_bytes(done.read_bytes())
