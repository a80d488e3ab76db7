"""Writing an exported folder: the model, what prepares pictures for it, its card, and the proof that it agrees."""

from __future__ import annotations

import contextlib
import logging
import os
import runpy
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

import neocog
from neocog import nets
from neocog.engine.engines import silent
from neocog.engine.graph import write_graph
from neocog.errors import NetError, UsageError, closest
from neocog.export import card, parity
from neocog.export.given import Given, Pixels
from neocog.export.portable import FEATURES, FILES, Exported, Portable, is_exported, missing, runner
from neocog.export.script import NAME, as_file, script, write_more
from neocog.fit.predicting import Run
from neocog.fit.run import free_folder, write_json
from neocog.fit.start import open_start
from neocog.library.concepts import vocabulary
from neocog.tasks import Label
from neocog.tasks.task import saved

_CALIBRATED = 128  # training pictures by which int8 is calibrated
_IN_8_BITS = [
    "Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu", "Clip",
]  # fmt: skip


class Published(Run):
    """A net of the zoo with published weights, as if it were a run of the task label."""

    def __init__(self, name: str, say: Callable[[str], object]) -> None:
        """Raises: NetError, FetchError: no weights are known, or they cannot be had."""
        start = open_start(name, say=say)
        task = nets.facts(name).task
        if task != "label":
            raise UsageError(f"{name} with published weights is no net for the task label but {task}; train a run")
        classes = vocabulary("imagenet").classes
        if len(classes) != start.spec["classes"]:
            classes = tuple(f"class_{k}" for k in range(start.spec["classes"]))
        self.folder, self.settings, self._net, self._unknown = start.path, {}, start.net, None
        self._card = {
            "neocog": neocog.__version__,
            "task": saved(Label(classes)),
            "net": start.spec,
            "classes": list(classes),
            "preprocess": asdict(start.preprocess),
            "tta": "none",
            "mirror": False,
            "metrics": {},
            "temperature": 1.0,
        }


@dataclass
class _Export:
    """One export under way."""

    run: Run
    to: str
    folder: Path
    shown: parity.Pictures
    say: Callable[[str], object]
    about: dict[str, Any] = field(default_factory=dict)  # what net.json says of it

    @property
    def given(self) -> Given:
        return self.shown.given

    @property
    def model(self) -> Path:
        return self.folder / FILES[self.to]

    @property
    def graph(self) -> Path:
        """ONNX, from which other formats are made."""
        return self.folder / FILES["onnx"]

    @property
    def names(self) -> list[str]:
        return [one["name"] for one in self.about["outputs"]]


def export(
    subject: Run | str | Path,
    to: str = "onnx",
    *,
    int8: bool = False,
    out: str | Path | None = None,
    pictures: Any = None,
    say: Callable[[str], object] = lambda line: None,
) -> Exported:
    """Write a run, or a net of the zoo with its ImageNet weights, as a folder that needs no neocog.

    Args:
        to: one of `FILES`: "onnx", "openvino", "torch".
        int8: weights and activations of 8 bits, calibrated on the training pictures (or on `pictures`).
        out: the folder; it must not be there yet. None: ``exported/NAME-TO``.
        pictures: what to compare on (see ``open_source``); None: the run's own test pictures, else drawn ones.

    Raises:
        UsageError: what was asked for is not possible; says why. NetError: the net cannot be written, or the model
            does not answer as the run does; nothing is left then. MissingExtra: an engine is not installed.
    """
    if to not in FILES:
        raise UsageError(f"unknown format {to!r}{closest(to, FILES)}; expected one of {', '.join(FILES)}")
    if int8 and to == "torch":
        raise UsageError("--int8 is for onnx and openvino; a PyTorch program is written in float32")
    run = _opened(subject, say)
    name = run.folder.name if run.settings else run.spec["name"]
    folder = Path(out) if out else free_folder(f"{name}-{to}{'-int8' if int8 else ''}", Path("exported"))
    if folder.exists():
        raise UsageError(f"{folder} is there already; choose another --out, or remove it")
    _refuse(run)
    if int8 and run.reader is not None:
        raise UsageError("--int8 is for nets on pictures; leave it out")
    shown = parity.pictures_of(run, pictures)
    raw = list(shown.raw(shown.given.most))
    if not raw:
        raise UsageError(f"none of the {shown.said} can be read, so nothing can be compared; give some with --pictures")
    with _whole(folder) as part:
        work = _Export(run, to, part, shown, say)
        _write_model(work)
        _write_files(work)
        expected = parity.answered(run, raw)
        bounds = parity.Bounds()
        if int8:
            before = parity.figures(Exported(part), shown)
            _to_int8(work)
            bounds = parity.Bounds.of_int8(run.task, before, parity.figures(Exported(part), shown))
            work.about["figures"] = [bounds.said] * bool(bounds.said)
            _write_files(work)
        exported = Exported(part)
        found = {"on": shown.said, **parity.compared(run, exported, raw, expected, bounds)}
        prepare = runpy.run_path(str(part / NAME))["prepare"]
        found["script"] = parity.compared_script(exported, raw, lambda one: prepare(as_file(one, run)))
        write_json(part / "parity.json", found)
        (part / card.FILE).write_text(card.text(run, work.about, found), "utf-8")
    if bounds.said:
        say(bounds.said)
    say(
        f"compared on {len(raw)} {shown.said}: {found['equal_answers']:.1%} equal answers, outputs differ by "
        f"{found['largest_difference']:.2g} at most; prepared by {NAME}: {found['script']['equal_answers']:.1%}"
    )
    return Exported(folder)


def _opened(subject: Run | str | Path, say: Callable[[str], object]) -> Run:
    if isinstance(subject, Run) and not isinstance(subject, Exported):
        return subject
    path = subject.folder if isinstance(subject, Run) else Path(subject)
    if is_exported(path):
        raise UsageError(f"{path} is exported already; export the run that it was made of")
    if str(subject) in nets.names() and not (path / "net.json").exists():
        return Published(str(subject), say)
    if not path.exists():
        raise UsageError(
            f"no run {str(subject)!r}{closest(str(subject), nets.names())}; expected a run folder, or the name of a net"
        )
    return Run(path)


def _refuse(run: Run) -> None:
    """Raises: UsageError for nets whose answers are no fixed sequence of operations."""
    for part in getattr(run.task, "parts", {"": run.task}).values():
        if part.unportable:
            raise UsageError(f"a run of the task {part.name} cannot be exported: {part.unportable}")
        if (kind := getattr(part, "kind", "one")) in ("two", "gated"):
            raise UsageError(
                f"a detector with head={kind} chooses boxes inside the net, in a loop of which no fixed graph can be "
                "made; train with --task-option head=one to export"
            )


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder that appears whole under its name, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_model(work: _Export) -> None:
    """The model in float32, and what is known of it."""
    run, given = work.run, work.given
    portable, example = Portable(run).eval(), given.example(run.net())
    with torch.no_grad():
        sample = portable(example)
    outputs = [
        {"name": k, "shape": ["B" if i == 0 and n == len(example) else n for i, n in enumerate(v.shape)],
         "read": k not in portable.readings}
        for k, v in sample.items()
    ]  # fmt: skip
    work.about = {
        "neocog": neocog.__version__,
        "format": work.to,
        "file": work.model.name,
        "precision": "float32",
        "input": {"name": given.name, "type": given.type, "layout": given.layout},
        "outputs": outputs,
        "dynamic": ["batch"],
        "margin": int(getattr(run.net(), "margin", 0)),
        "views": run.views,
    }
    if not _write_of_any_length(work, portable, example):
        if given.layout == "BLT":
            raise NetError(
                f"{run.spec['name']} is written as {work.to} for texts of one length only, and words of several parts "
                f"have none; train with --input-option tokens=words{', or try --to onnx' * (work.to == 'torch')}"
            )
        _write(work, portable, example)
    free = given.axes if len(work.about["dynamic"]) > 1 else ()
    shape = [None if axis in (0, *free) else n for axis, n in enumerate(example.shape)]
    work.about["input"]["shape"] = shape  # null: any
    if work.to == "openvino":
        _to_openvino(work)


def _write(work: _Export, portable: Portable, example: Tensor, axes: Sequence[int] = ()) -> None:
    if work.to == "torch":
        _write_program(portable, example, work.model, axes)
    else:
        write_graph(portable, example, work.graph, inputs=[work.given.name], outputs=work.names, dynamic_size=axes)


def _write_of_any_length(work: _Export, portable: Portable, example: Tensor) -> bool:
    """Write a model for pictures of any size or texts of any length; False where the net has none."""
    given, spec = work.given, work.run.spec
    if (
        not given.axes
        or work.run.taps
        or (given.kind == "picture" and (work.to == "torch" or nets.one_size(spec["name"])))
    ):
        return False
    with contextlib.suppress(NetError):  # some operators are written for one size only
        _write(work, portable, example, given.axes)
        longer = given.example(work.run.net(), 32)
        if work.to == "torch" or all(agrees(portable, work.graph, work.names, x) for x in (longer, example)):
            work.about["dynamic"] += given.sizes
            return True
    return False


def agrees(portable: Portable, graph: Path, names: list[str], x: Tensor) -> bool:
    """Whether a graph does the same as the net with these inputs, alone and together."""
    try:
        run = runner(graph, names)
        for some in (x, x[:1]):
            found = run(some.numpy())
            with torch.inference_mode():
                for name, value in portable(some).items():
                    off = np.abs(found[name] - value.numpy()).max(initial=0)
                    if not off <= parity.DIFFERENCE * max(1.0, float(value.abs().max())):
                        return False
    except Exception:  # whatever an engine raises where sizes were fixed in tracing
        return False
    return True


def _write_program(portable: Portable, example: Tensor, file: Path, axes: Sequence[int] = ()) -> None:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about its own files
            # as `Portable.forward` calls it
            shapes = {"given": {axis: torch.export.Dim(f"size_{axis}" if axis else "batch") for axis in (0, *axes)}}
            program = torch.export.export(portable, (example,), dynamic_shapes=shapes, strict=False)
            torch.export.save(program, file)
    except Exception as error:  # whatever PyTorch makes of the net's own code
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise NetError(f"the net cannot be written as a PyTorch program: {reason}") from error


def _to_openvino(work: _Export) -> None:
    try:
        openvino: Any = silent("openvino")
    except ImportError:
        raise missing("OpenVINO's format is written") from None
    openvino.save_model(openvino.convert_model(work.graph), work.model, compress_to_fp16=False)
    work.graph.unlink()


def _write_files(work: _Export) -> None:
    """net.json (the run's, with what was exported), the script, and what recognises strangers."""
    run, folder = work.run, work.folder
    views = {"tta": "none", "mirror": False} if work.given.whole else run.views
    write_json(folder / "net.json", {**run._card, **views, "export": work.about})
    (folder / NAME).write_text(script(run, work.to, work.about), "utf-8")
    if FEATURES in work.names:
        shutil.copyfile(run.folder / "unknown.safetensors", folder / "unknown.safetensors")
    write_more(run, folder)


def _to_int8(work: _Export) -> None:
    """Put a model of 8 bits in the place of the one in float32."""
    shown, run = work.shown, work.run
    rows = shown.rows if shown.data is None else shown.split("train")
    if not len(rows) or (shown.data is None and not shown.named):
        raise UsageError(
            "--int8 is calibrated on training pictures, and those of the run are not there; give some with --pictures"
        )
    source = shown.source if shown.data is None else shown.data.source
    training = parity.Pictures(source, rows, "", shown.given)
    if work.to == "openvino":  # which reads the 8-bit operators of a graph
        given = work.given
        write_graph(Portable(run).eval(), given.example(run.net()), work.graph, inputs=[given.name], outputs=work.names)
        work.about["dynamic"] = ["batch"]
    quantise(work.graph, [work.given.array(work.given.read(one)) for one in training.raw(_CALIBRATED)])
    if work.to == "openvino":
        _to_openvino(work)
    work.about["precision"] = "int8"


def quantise(graph: Path, pictures: list[np.ndarray], name: str = Pixels.name) -> None:
    """Replace a graph by one whose convolutions and linear layers compute with 8 bits, by ONNX Runtime.

    Args:
        pictures: uint8 (H, W, C) each, from which the ranges of activations are taken.
    """
    q: Any = silent("onnxruntime.quantization")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        left = iter(pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            one = next(self.left, None)
            return None if one is None else {name: one[None]}

    with TemporaryDirectory() as folder:
        ready, done = Path(folder) / "ready.onnx", Path(folder) / "done.onnx"
        logging.disable(logging.WARNING)  # it recommends what has been done
        try:
            quant_pre_process(str(graph), str(ready), skip_symbolic_shape=True)
            q.quantize_static(
                str(ready), str(done), Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=_IN_8_BITS,
                activation_type=q.QuantType.QInt8, weight_type=q.QuantType.QInt8,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        graph.write_bytes(done.read_bytes())
