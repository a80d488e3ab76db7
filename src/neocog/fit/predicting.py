"""Using trained nets: a run folder as an object, predictions, and the evaluation of one or several runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neocog.data import open_source, prepare
from neocog.data.batches import Held, Streamed, workers
from neocog.errors import DataError, DecodeError, RunError, UsageError
from neocog.fit.device import Device, choose
from neocog.fit.features import build
from neocog.fit.outputs import averaged, outputs_of
from neocog.fit.run import load_state, read_json, read_tensors
from neocog.records import SPLITS, Preprocess
from neocog.tasks.measures import evaluate_logits, softmax
from neocog.tasks.unknown import Unknown


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a net says of one picture. `problem` is the reason if it could not be read; the rest is empty then.

    `probability` is calibrated on the validation pictures. `unknown` is true for a picture unlike the training data:
    its `strangeness`, a distance in feature space, is beyond what 95 % of the validation pictures have.
    """

    key: str
    label: str = ""
    probability: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    unknown: bool = False
    strangeness: float = 0.0
    problem: str | None = None


class Run:
    """A finished training, read from its folder. Weights are loaded when they are first needed."""

    def __init__(self, folder: str | Path) -> None:
        """Raises: RunError if the folder holds no run."""
        self.folder = Path(folder)
        self.settings: dict[str, Any] = read_json(self.folder / "run.json")
        path = self.folder / "net.json"
        if not path.exists():
            raise RunError(f"the training of {folder} is not finished; continue it with 'neocog resume {folder}'")
        self._card: dict[str, Any] = read_json(path)
        self._net: nn.Module | None = None
        self._unknown: Unknown | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the net's outputs."""
        return tuple(self._card["classes"])

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures of the test and the validation split."""
        return dict(self._card["metrics"])

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become the net's input."""
        values = self._card["preprocess"]
        return Preprocess(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    @property
    def views(self) -> dict[str, Any]:
        """The test-time views that the metrics and the temperature belong to."""
        return {"tta": self._card["tta"], "mirror": self._card["mirror"]}

    @property
    def spec(self) -> dict[str, Any]:
        """With which ``neocog.nets.build`` makes the net, or the trunk whose layers are read (see `taps`)."""
        return dict(self._card["net"])

    @property
    def taps(self) -> dict[str, Any] | None:
        """The layers by which the net names classes (see ``neocog.fit.features.Tapped``), None for a plain net."""
        return self._card.get("taps")

    @property
    def temperature(self) -> float:
        """Logits are divided by this before the softmax."""
        return float(self._card["temperature"])

    def net(self) -> nn.Module:
        """The trained net, in eval mode, on the CPU."""
        if self._net is None:
            net = build(self.spec, self.taps, len(self.classes))
            path = self.folder / "weights.safetensors"
            load_state(net, read_tensors(path)[0], str(path))
            self._net = net.eval()
        return self._net

    def detector(self) -> Unknown | None:
        """What tells pictures unlike the training data; None if there were too few pictures to fit it."""
        path = self.folder / "unknown.safetensors"
        if self._unknown is None and path.exists():
            self._unknown = Unknown.load({k: v.numpy() for k, v in read_tensors(path)[0].items()})
        return self._unknown

    def predict(self, pictures: Any, *, top: int = 5) -> list[Prediction]:
        """Predictions for one picture or many: paths, encoded bytes or uint8 arrays; a folder means its pictures."""
        if isinstance(pictures, (str, Path)) and Path(pictures).is_dir():
            source = open_source(Path(pictures))
            pictures = [source.path(i) or source.read(i) for i in range(len(source))]
        elif isinstance(pictures, (str, Path, bytes)) or (isinstance(pictures, np.ndarray) and _single(pictures)):
            pictures = [pictures]
        return list(predict(self, pictures, top=top))

    def summary(self) -> list[str]:
        """The result in a few lines."""
        m, lines = self.metrics, []
        for split, name in (("test", "test"), ("val", "validation")):
            if f"{split}_accuracy" in m:
                low, high = m[f"{split}_accuracy_interval"]
                lines.append(
                    f"{name} accuracy {100 * m[f'{split}_accuracy']:.2f} % (95 % interval {100 * low:.1f} to "
                    f"{100 * high:.1f}, n = {m[f'{split}_n']:,}), macro-F1 {m[f'{split}_macro_f1']:.4f}"
                )
        if "cv_accuracy" in m:
            low, high = m["cv_accuracy_interval"]
            lines.append(
                f"cross-validated accuracy {100 * m['cv_accuracy']:.2f} % (95 % interval {100 * low:.1f} to "
                f"{100 * high:.1f}; {m['cv_repeats']} times {m['cv_folds']}-fold, n = {m['cv_n']:,})"
            )
        return [*lines, f"report: {self.report}"]


def _single(array: np.ndarray) -> bool:
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))


def predict(
    run: Run | str | Path, inputs: Iterable[Any], *, top: int = 5, batch_size: int = 64, device: str | None = None
) -> Iterator[Prediction]:
    """Predict pictures one batch at a time, in their order; one that cannot be read gets a `problem`.

    Args:
        inputs: paths, encoded bytes, or uint8 arrays (H, W) or (H, W, 3).
        top: classes in `Prediction.top`.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``; None takes a GPU if there is one.

    Raises:
        RunError: the run cannot be used. UsageError: `top` below 1.
    """
    run = run if isinstance(run, Run) else Run(run)
    if top < 1:
        raise UsageError(f"--top needs at least 1, got {top}")
    pre, chosen = run.preprocess, _here(device)
    net = run.net().to(chosen.torch).to(memory_format=chosen.layout)  # type: ignore[call-overload]
    detector = run.detector()
    mean = torch.tensor(pre.mean[: pre.channels])[:, None, None]
    std = torch.tensor(pre.std[: pre.channels])[:, None, None]

    def read(one: tuple[int, Any]) -> tuple[str, np.ndarray | None, str | None]:
        number, item = one
        key = str(item) if isinstance(item, (str, Path)) else f"picture {number}"
        try:
            data = Path(item).read_bytes() if isinstance(item, (str, Path)) else item
            return key, prepare(data, pre), None
        except DecodeError as error:
            return key, None, str(error)
        except OSError as error:
            return key, None, error.strerror or str(error)

    def answer(batch: list[tuple[str, np.ndarray | None, str | None]]) -> Iterator[Prediction]:
        pixels = [p for _, p, _ in batch if p is not None]
        rows: Iterator[tuple[np.ndarray, float]] = iter(())
        if pixels:
            x = ((torch.from_numpy(np.stack(pixels)) / 255.0 - mean) / std).to(chosen.torch)
            x = x.contiguous(memory_format=chosen.layout)
            with torch.inference_mode(), chosen.autocast():
                logits, seen = averaged(net, x, run.views["tta"], run.views["mirror"], features=detector is not None)
            probabilities = softmax(logits.cpu().numpy(), run.temperature)
            strange = np.zeros(len(pixels)) if seen is None or not detector else detector.score(seen.cpu().numpy())
            rows = iter(list(zip(probabilities, strange.tolist(), strict=True)))
        for key, picture, problem in batch:
            if picture is None:
                yield Prediction(key, problem=problem)
                continue
            p, distance = next(rows)
            best = np.argsort(-p, kind="stable")[:top]
            guesses = tuple((run.classes[k], float(p[k])) for k in best)
            odd = detector is not None and distance > detector.threshold
            yield Prediction(key, guesses[0][0], guesses[0][1], guesses, odd, float(distance))

    with ThreadPoolExecutor(workers()) as pool:
        batch: list[Any] = []
        for one in enumerate(inputs):
            batch.append(one)
            if len(batch) == batch_size:
                yield from answer(list(pool.map(read, batch)))
                batch = []
        yield from answer(list(pool.map(read, batch)))


def _here(device: str | None) -> Device:
    """A GPU if there is one; on the CPU float32, so that a picture gets the same answer alone and among others."""
    if device == "cpu" or (device is None and not torch.cuda.is_available() and not torch.backends.mps.is_available()):
        return Device("cpu", channels_last=True)
    return choose(device)


def evaluate(
    runs: Sequence[Run | str | Path], data: Any, *, split: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Figures of one or several runs on labelled pictures, and of the mean of their probabilities.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``; None takes test if the data declare one, else everything.

    Returns:
        ``{"data", "split", "n", "runs": [figures with "run"], "ensemble": figures or None}``.

    Raises:
        DataError: no labelled picture, or classes that the runs do not know. RunError: runs of different classes.
    """
    opened = [r if isinstance(r, Run) else Run(r) for r in runs]
    if not opened:
        raise UsageError("evaluate needs at least one run")
    classes = opened[0].classes
    for other in opened[1:]:
        if set(other.classes) != set(classes):
            raise RunError(
                f"{other.folder} and {opened[0].folder} were trained on different classes, so their probabilities "
                "cannot be averaged"
            )
    source = open_source(data)
    source.require_labels()
    unknown = [c for c in source.classes if c not in classes]
    if unknown:
        raise DataError(f"the runs do not know the class {unknown[0]!r}; they know {', '.join(classes[:8])}")
    chosen = source.labels >= 0
    if split is None:
        split = "test" if (source.splits == SPLITS.index("test")).any() else None
    if split is not None:
        chosen &= source.splits == SPLITS.index(split)
    rows = np.flatnonzero(chosen)
    if not len(rows):
        raise DataError(f"{source.name} has no labelled picture in the split {split or 'all'}")
    number = np.array([classes.index(c) for c in source.classes])
    labels = number[source.labels[rows]].astype(np.int64)
    where = choose(device)
    figures, probabilities, common = [], [], np.ones(len(rows), dtype=bool)
    for run in opened:
        pictures: Held | Streamed = Streamed(source, rows, run.preprocess)
        net = run.net().to(where.torch).to(memory_format=where.layout)  # type: ignore[call-overload]
        found, logits, _ = outputs_of(net, pictures, where, **run.views)
        order = np.array([run.classes.index(c) for c in classes])
        logits = logits[:, order]
        result = evaluate_logits(logits, labels[found], classes, run.temperature)
        figures.append({"run": str(run.folder), **result})
        whole = np.full((len(rows), len(classes)), np.nan, dtype=np.float64)
        whole[found] = softmax(logits, run.temperature)
        common &= ~np.isnan(whole[:, 0])
        probabilities.append(whole)
    ensemble = None
    if len(opened) > 1:
        mean = np.mean([p[common] for p in probabilities], axis=0)
        ensemble = evaluate_logits(np.log(np.maximum(mean, 1e-30)), labels[common], classes)
    return {
        "data": source.name,
        "split": split or "all",
        "n": int(common.sum()),
        "runs": figures,
        "ensemble": ensemble,
    }
