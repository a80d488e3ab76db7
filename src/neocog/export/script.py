"""The small Python file that lies beside an exported model: from an input to outputs, without neocog."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from inspect import getsource
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from neocog.data.read_clip import ClipReader
from neocog.data.read_sound import SoundReader
from neocog.data.read_text import TextReader, plain
from neocog.data.sound import written
from neocog.fit.predicting import Run
from neocog.records import Preprocess
from neocog.text import tokens

NAME, SUBWORDS = "prepare.py", "tokenizer.json"

_HEAD = '''"""Makes of {one} what {file} reads, and runs it: python {name} {words} ...  Needs {needs}."""

from __future__ import annotations

import json, pathlib, sys

import numpy as np
'''
_PICTURE = '''from PIL import Image, ImageOps


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
        "onnxruntime",
        """    import os

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports its use to its makers otherwise
    import onnxruntime

    session = onnxruntime.InferenceSession(str(here / "model.onnx"))
    names = [one.name for one in session.get_outputs()]
    run = lambda x: dict(zip(names, session.run(names, {session.get_inputs()[0].name: x})))
""",
    ),
    "openvino": (
        "openvino",
        """    import openvino

    model = openvino.Core().compile_model(str(here / "model.xml"), "CPU")
    run = lambda x: {port.get_any_name(): value for port, value in model(x).items()}
""",
    ),
    "torch": (
        "torch",
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
        found = run(prepare({file})[None])
{say}"""
_LABEL = """        chances = found["probabilities"][0]
        print(file, card["classes"][chances.argmax()], f"{chances.max():.1%}")
"""
_OTHER = """        print(file, {name: value.shape for name, value in found.items()})  # CARD.md says how to read them
"""


_TEXT = '''{imports}
HERE = pathlib.Path(__file__).parent
TOKENIZER = json.loads((HERE / "net.json").read_text("utf-8"))["reader"]["tokenizer"]

_BROKEN = re.compile("{broken}")


{sources}

_SPACED = _Spaces()
{table}

def prepare(text):
    """A text -> int32 ({shape}): {what}, 0 behind the last one."""
    {rows}
    {made}
'''
_WAVE = '''import soundfile, soxr


def prepare(file):
    """A sound file -> int16 ({samples},): {rate} samples a second, the loudest 32767, its middle in the middle."""
    wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
    wave = wave.mean(1)
    if rate != {rate}:
        wave = soxr.resample(wave, rate, {rate})
{trim}    wave = (wave * (32767 / (float(np.abs(wave).max(initial=0)) or 1))).round().astype(np.int16)
    room = max({samples}, len(wave)) + (max(0, len(wave) - {samples}) % 2) - len(wave)
    wave = np.pad(wave, (room // 2, room - room // 2))
    first = (len(wave) - {samples}) // 2
    return wave[first : first + {samples}]
'''
_TRIM = """    size = {size}  # samples in 20 ms; {trim:g} decibels under the loudest is silence, and is cut off
    parts = np.pad(wave, (0, -len(wave) % size)).reshape(-1, size).astype(np.float64)
    power = (parts**2).mean(1)
    loud = np.flatnonzero(power > power.max(initial=0) * {least!r})
    if len(loud):
        wave = wave[loud[0] * size : (loud[-1] + 1) * size]
"""


_CLIP = '''import av, re
from PIL import Image


def prepare(file):
    """A video, a GIF, a folder of frames, or frames uint8 (T, H, W, 3) -> uint8 (3, {frames}, {side}, {side})."""
    if isinstance(file, np.ndarray):
        pictures = list(map(Image.fromarray, file))
    elif not hasattr(file, "read") and pathlib.Path(file).is_dir():
        order = lambda one: [int(part) if part.isdigit() else part for part in re.split(r"(\\d+)", one.name)]
        files = sorted((one for one in pathlib.Path(file).iterdir() if one.name[0] != "."), key=order)
        pictures = [Image.open(one).convert("RGB") for one in files]
    else:
        pictures = None
    if pictures:  # 25 a second
        starts, seconds = np.arange(len(pictures)) / 25, len(pictures) / 25
    else:
        with av.open(file if hasattr(file, "read") else str(file)) as video:
            stream = video.streams.video[0]
            seconds = float((stream.duration or 0) * stream.time_base) or (video.duration or 0) / 1e6
            shown = [one for one in video.decode(stream) if one.time is not None]
        first = float((stream.start_time or 0) * stream.time_base)
        starts = np.array([one.time - first for one in shown])
        upright = [np.rot90(one.to_ndarray(format="rgb24"), round(one.rotation / 90)) for one in shown]
        pictures = list(map(Image.fromarray, upright))
        seconds = seconds or starts[-1]
    every, made = {every}, []
    for k in range({frames}):
        time = (seconds - every * {last}) / 2 + k * every if every else (k + 0.5) * seconds / {frames}
        time = min(max(0.0, time), seconds)
        one = pictures[max(0, np.searchsorted(starts, time + 1e-4, "right") - 1)]
        short = min(one.size)
        left, top = (one.width - short) // 2, (one.height - short) // 2
        one = one.crop((left, top, left + short, top + short)).resize(({side}, {side}), Image.Resampling.BILINEAR)
        made.append(np.asarray(one))
    return np.ascontiguousarray(np.stack(made).transpose(3, 0, 1, 2))
'''


def script(run: Run, to: str, about: Mapping[str, Any]) -> str:
    """The text of the file. `about`: what net.json says of the export."""
    reader, (engine, runs) = run.reader, _RUN[to]
    one, words, needs, given = "a picture file", "PICTURE", ["numpy", "pillow", engine], "file"
    if reader is None:
        body = _of_pictures(run.preprocess)
    elif isinstance(reader, TextReader):
        one, words, needs, given = "a text file", "FILE", ["numpy", engine], 'pathlib.Path(file).read_text("utf-8")'
        body = _of_texts(reader, about["input"]["shape"][1:])
        if reader.tokenizer.kind in _BY_SUBWORDS:
            needs.insert(1, "tokenizers")
    elif isinstance(reader, SoundReader):
        one, words, needs = "a sound file", "FILE", ["numpy", "soundfile", "soxr", engine]
        body = _of_sounds(reader)
    else:
        assert isinstance(reader, ClipReader)
        one, words, needs = "a clip", "CLIP", ["numpy", "pillow", "av", engine]
        side = about["input"]["shape"][-1]
        body = _CLIP.format(frames=reader.frames, last=reader.frames - 1, every=reader.every, side=side)
    head = _HEAD.format(one=one, file=about["file"], name=NAME, words=words, needs=", ".join(needs))
    return head + body + _MAIN.format(run=runs, file=given, say=_LABEL if run.task.classifies else _OTHER)


def as_file(raw: Any, run: Run) -> Any:
    """An input of a source as the script's ``prepare`` takes it: a file in memory; of texts, the text."""
    if run.reader is None:
        if not isinstance(raw, bytes):
            out = BytesIO()
            Image.fromarray(raw[:, :, 0] if raw.shape[2:] == (1,) else raw).save(out, "PNG")
            raw = out.getvalue()
        return BytesIO(raw)
    if isinstance(run.reader, TextReader):
        return plain((raw or ("",))[0] if isinstance(raw, tuple) else raw)
    if isinstance(run.reader, ClipReader):
        return BytesIO(raw) if isinstance(raw, bytes) else raw
    if isinstance(raw, (bytes, Path)):
        return BytesIO(raw if isinstance(raw, bytes) else raw.read_bytes())
    assert isinstance(run.reader, SoundReader)
    wave, rate = raw if isinstance(raw, tuple) else (raw, run.reader.spectrum.rate)
    return BytesIO(written(wave, rate))


def write_more(run: Run, folder: Path) -> None:
    """What the script reads beside net.json: the subwords of texts."""
    if isinstance(run.reader, TextReader) and run.reader.tokenizer.kind in _BY_SUBWORDS:
        shutil.copyfile(tokens.package_file("tokenizers/l2_supercat_tokenizer_config.json"), folder / SUBWORDS)


def _of_pictures(pre: Preprocess) -> str:
    parts = [
        _PICTURE.format(shape=_shape(pre), size=_SIZE if pre.fit == "pad" else "", draft=_draft(pre)),
        {"crop": _CROP, "pad": _PAD}.get(pre.fit, "").format(
            size=pre.size, resize=pre.resize, height=pre.input[0], width=pre.input[1]
        ),
        _LAST[pre.channels],
    ]
    return "".join(parts)


_BY_SUBWORDS = ("subwords", "pieces")
_WORDS = "split_words([text])[0][:{longest}]"
_PARTS = """made = np.zeros(({length}, {parts}), np.int32)
    for row, ids in zip(made, rows):
        row[: len(ids)] = ids
    return made"""
_IDS = "return np.pad(np.array(rows, np.int32), (0, {length} - len(rows)))"
_TABLE = '\nIDS = {{word: k for k, word in enumerate(TOKENIZER["{name}"], {first})}}\n'
_SUBWORDS = f"""
import tokenizers

IDS = tokenizers.Tokenizer.from_file(str(HERE / "{SUBWORDS}"))
"""


def _of_texts(reader: TextReader, shape: list[int | None]) -> str:
    """The functions that split texts are those of `text.tokens`, as they stand there."""
    kind, longest = reader.tokenizer.kind, reader.longest
    ids = "[k + 1 for k in IDS.encode(word, add_special_tokens=False).ids]"
    words = _WORDS.format(longest=longest)
    rows = {
        "words": f"[IDS.get(word, 1) for word in {words}]",
        "characters": f'[IDS.get(one, 1) for one in " ".join(normal(text).split())[:{longest}]]',
        "trigrams": f"[[IDS.get(one, 1) for one in trigrams_of(word)] for word in {words}]",
        "subwords": f"[k for word in normal(text).split() for k in {ids}][:{longest}]",
        "pieces": f"[{ids}[:{tokens.MOST_PIECES}] for word in {words}]",
    }
    table = {"words": ("words", 4), "characters": ("words", 4), "trigrams": ("trigrams", 2)}.get(kind)
    parts: list[Any] = [
        tokens.split_words,
        tokens.normal,
        tokens._spaced,
        tokens._quoted,
        tokens._Spaces,
        tokens._alone,
    ]
    if kind == "trigrams":
        parts.append(tokens.trigrams_of)
    wide = kind in ("trigrams", "pieces")
    return _TEXT.format(
        imports="import re, unicodedata\nfrom itertools import chain\n",
        broken=tokens._BROKEN.pattern.encode("unicode_escape").decode(),
        sources="\n\n".join(map(getsource, parts)),
        table=_TABLE.format(name=table[0], first=table[1]) if table else _SUBWORDS,
        shape="length, parts of a word" if wide else "length,",
        what=f"{kind}, {longest} at most",
        rows=f"rows = {rows[kind]}",
        made=(_PARTS if wide else _IDS).format(
            length=shape[0] or "max(1, len(rows))", parts=shape[-1] or "max(1, *map(len, rows), 1)"
        ),
    )


def _of_sounds(reader: SoundReader) -> str:
    of, trim = reader.spectrum, ""
    if reader.trim:
        trim = _TRIM.format(size=max(1, round(0.02 * of.rate)), trim=reader.trim, least=10 ** (-reader.trim / 10))
    return _WAVE.format(samples=reader.samples, rate=of.rate, trim=trim)


def _shape(pre: Preprocess) -> str:
    sides = f"{pre.input[0]}, {pre.input[1]}" if pre.fit != "tile" else "height, width"
    return f"({sides}, {pre.channels})"


def _draft(pre: Preprocess) -> str:
    side = {"crop": pre.resize, "pad": min(pre.input)}.get(pre.fit)
    return "" if side is None else _DRAFT.format(side=side)
