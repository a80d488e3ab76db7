"""The small Python file that lies beside an exported model: from a picture file to outputs, without neocog."""

from __future__ import annotations

from neocog.export.portable import INPUT, is_whole
from neocog.fit.predicting import Run
from neocog.records import Preprocess

NAME = "prepare.py"

_HEAD = '''"""Makes of a picture file what {file} reads, and runs it: python {name} PICTURE ...  Needs {needs}."""

import json, pathlib, sys

import numpy as np
from PIL import Image, ImageOps


def prepare(file):
    """A picture file -> uint8 {shape}, upright."""
    picture = Image.open(file)
{size}{draft}    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    picture = picture.convert("RGB")
'''
_DRAFT = "    picture.draft(None, ({side}, {side}))  # a large JPEG file is decoded at a half, a quarter or an eighth\n"
_SIZE = "    width, height = picture.size[:: -1 if picture.getexif().get(274, 1) > 4 else 1]\n"
_CROP = """    short = min(picture.size)
    width, height = (max({resize}, (2 * side * {resize} + short) // (2 * short)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - {size}) // 2, (height - {size}) // 2
    picture = picture.crop((left, top, left + {size}, top + {size}))
"""
_PAD = """    scale = min({height} / height, {width} / width)
    width, height = max(1, min({width}, round(width * scale))), max(1, min({height}, round(height * scale)))
    ground = Image.new("RGB", ({width}, {height}), (124, 116, 104))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    ground.paste(picture, (({width} - width) // 2, ({height} - height) // 2))
    picture = ground
"""
_LAST = {
    3: "    return np.asarray(picture)\n",
    1: '    return np.asarray(picture.convert("L"))[:, :, None]\n',
}
_RUN = {
    "onnx": (
        "numpy, pillow, onnxruntime",
        """    import os

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports its use to its makers otherwise
    import onnxruntime

    session = onnxruntime.InferenceSession(str(here / "model.onnx"))
    names = [one.name for one in session.get_outputs()]
    run = lambda x: dict(zip(names, session.run(names, {"INPUT": x})))
""".replace("INPUT", INPUT),
    ),
    "openvino": (
        "numpy, pillow, openvino",
        """    import openvino

    model = openvino.Core().compile_model(str(here / "model.xml"), "CPU")
    run = lambda x: {port.get_any_name(): value for port, value in model(x).items()}
""",
    ),
    "torch": (
        "numpy, pillow, torch",
        """    import torch

    net = torch.export.load(here / "model.pt2").module()
    run = lambda x: {name: value.detach().numpy() for name, value in net(torch.tensor(x)).items()}
""",
    ),
}
_MAIN = """

if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    card = json.loads((here / "net.json").read_text("utf-8"))
{run}    for file in sys.argv[1:]:
        found = run(prepare(file)[None])
{say}"""
_LABEL = """        chances = found["probabilities"][0]
        print(file, card["classes"][chances.argmax()], f"{chances.max():.1%}")
"""
_OTHER = """        print(file, {name: value.shape for name, value in found.items()})  # CARD.md says how to read them
"""


def script(run: Run, to: str, file: str) -> str:
    """The text of the file."""
    pre, (needs, runs) = run.preprocess, _RUN[to]
    parts = [
        _HEAD.format(
            file=file,
            name=NAME,
            needs=needs,
            shape=_shape(pre),
            size=_SIZE if pre.fit == "pad" else "",
            draft=_draft(pre),
        ),
        {"crop": _CROP, "pad": _PAD}.get(pre.fit, "").format(
            size=pre.size, resize=pre.resize, height=pre.input[0], width=pre.input[1]
        ),
        _LAST[pre.channels],
        _MAIN.format(run=runs, say=_LABEL if run.task.classifies else _OTHER),
    ]
    return "".join(parts)


def _shape(pre: Preprocess) -> str:
    sides = f"{pre.input[0]}, {pre.input[1]}" if is_whole(pre) else "height, width"
    return f"({sides}, {pre.channels})"


def _draft(pre: Preprocess) -> str:
    side = {"crop": pre.resize, "pad": min(pre.input)}.get(pre.fit)
    return "" if side is None else _DRAFT.format(side=side)
