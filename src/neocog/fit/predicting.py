"""Using trained nets: a run folder as an object, and predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neocog.data import open_source
from neocog.data.batches import Batch, normalised
from neocog.data.decode import placed
from neocog.data.pictures import gathered_pictures, workers
from neocog.data.places import read_place
from neocog.data.reader import PICTURE, Reader
from neocog.data.warp import Warp
from neocog.errors import DataError, NetError, RunError, UsageError
from neocog.fit.card import read_card, task_in
from neocog.fit.device import Device, choose
from neocog.fit.evaluating import Telling, averaged, floated
from neocog.fit.features import build
from neocog.fit.graphed import Graphed
from neocog.fit.job import reader_of
from neocog.fit.run import damaged, load_state, read_json, read_tensors
from neocog.fit.words import Decided, decided, of_pairs, of_tables
from neocog.records import Preprocess, counted, speak_of, worded
from neocog.tasks import Task
from neocog.tasks.label import Prediction
from neocog.tasks.unknown import Unknown

__all__ = ["Prediction", "Run", "match_texts", "predict"]


class Run:
    """A finished training, read from its folder. Weights are loaded when they are first needed."""

    def __init__(self, folder: str | Path) -> None:
        """Raises: RunError if the folder holds no run."""
        self.folder = Path(folder)
        self.settings: dict[str, Any] = read_json(self.folder / "run.json")
        if not (self.folder / "net.json").exists():
            raise RunError(f"the training of {folder} is not finished; continue it with 'neocog resume {folder}'")
        self._card = read_card(self.folder)
        self._net: nn.Module | None = None
        self._unknown: Unknown | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def task(self) -> Task:
        """What the net answers, with what was chosen after training."""
        return task_in(self._card, self.folder / "net.json")

    @cached_property
    def reader(self) -> Reader | None:
        """What reads the inputs; None: they are pictures."""
        return reader_of(self.task, self._card.get("reader"))

    @property
    def kind(self) -> str:
        """The kind of its inputs: picture, text, sound, clip or game."""
        return self.reader.kind if self.reader else PICTURE

    @property
    def reads_pairs(self) -> bool:
        """Whether it is asked of two texts, see `match_texts`."""
        return {"first", "second"} <= self.task.needs.keys()

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
        """How pictures become the net's input. Raises: UsageError: it reads no pictures."""
        if self.reader is not None:
            raise UsageError(f"{self.folder} was trained on {self.kind}s; this is for runs on pictures")
        return Preprocess.from_json(self._card["preprocess"])

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
            card, path = self.folder / "net.json", self.folder / "weights.safetensors"
            tensors, _ = read_tensors(path)
            try:
                net = build(self.spec, self.taps, self.task)
            except (NetError, TypeError, ValueError) as error:
                raise damaged(card, f"the net that it describes cannot be built ({error})") from error
            head = tensors.get(f"{net.head}.weight")
            if head is not None and self.task.outputs not in (None, len(head)):
                raise damaged(
                    card,
                    f"it names {counted(self.task.outputs, 'class')} for a net with {counted(len(head), 'output')}",
                )
            load_state(net, tensors, str(path))
            self._net = net.eval()
        return self._net

    def detector(self) -> Unknown | None:
        """What recognises pictures unlike the training data; None if there were too few pictures to fit it."""
        path = self.folder / "unknown.safetensors"
        if self._unknown is None and path.exists():
            self._unknown = Unknown.load({k: v.numpy() for k, v in read_tensors(path)[0].items()})
        return self._unknown

    def predict(self, pictures: Any, *, top: int = 5) -> list[Any]:
        """What the net says of one picture or many: paths, encoded bytes or uint8 arrays; a folder means its pictures.

        Of a run on other inputs these, as its reader takes them: texts, tables and files of them, sounds, clips.
        Each answer is an `Answer` of the run's task, a `Prediction` of the task label.
        """
        if self.reader is not None:
            pictures = [pictures] if isinstance(pictures, (str, Path, bytes, np.ndarray)) else pictures
        elif isinstance(pictures, (str, Path)) and Path(pictures).is_dir():
            source = open_source(Path(pictures))
            pictures = [source.path(i) or source.read(i) for i in range(len(source))]
        elif isinstance(pictures, (str, Path, bytes)) or (
            isinstance(pictures, np.ndarray) and (pictures.ndim == 2 or pictures.shape[2:] in ((1,), (3,)))
        ):
            pictures = [pictures]
        return list(predict(self, pictures, top=top))

    def sample(self, n: int = 64, *, seed: int = 0) -> np.ndarray:
        """New pictures, uint8 (n, H, W, 1 or 3), of a run of the task vae or gan; the same seed gives the same ones.

        Raises: UsageError: a run of another task, or no picture is asked for.
        """
        if n < 1:
            raise UsageError(f"at least one picture has to be asked for, not {n}")
        return self.task.sample(self.net(), n, seed)

    def decided(self, text: Any, what: str | None = None) -> Decided:
        """Which words and windows of words decided that the net says `what` of a text; see ``fit.words.decided``."""
        return decided(self.task, self.net(), self.reader, text, what)

    def summary(self) -> list[str]:
        """The result in a few lines."""
        m, lines = self.metrics, []
        for split, name in (("test", "test"), ("val", "validation")):
            figures = {k.removeprefix(f"{split}_"): v for k, v in m.items() if k.startswith(f"{split}_")}
            if figures:
                speak_of(self.kind)
                lines.append(worded(f"{name} {self.task.headline(figures)}"))
        goal = f"cv_{self.task.goal[0]}"
        if goal in m:
            value, low, high = (self.task.shown(v) for v in (m[goal], *m[f"{goal}_interval"]))
            lines.append(
                f"cross-validated {self.task.figure} {value} (95 % interval {low} to {high}; {m['cv_repeats']} times "
                f"{m['cv_folds']}-fold, n = {m['cv_n']:,})"
            )
        return [*lines, f"report: {self.report}"]


def predict(
    run: Run | str | Path,
    inputs: Iterable[Any],
    *,
    top: int = 5,
    batch_size: int = 64,
    device: str | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Iterator[Any]:
    """Answers for pictures one batch at a time, in their order; one that cannot be read gets a `problem`.

    Args:
        inputs: paths, encoded bytes, or uint8 arrays (H, W) or (H, W, 3); of a run on other inputs what its reader
            takes (``reader.Reader.inputs``), and of one on pairs of texts tables of them.
        top: guesses for each picture, where a task has several.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``; None takes a GPU if there is one.
        say: takes a line on the engine that computes, once it is chosen.

    Raises:
        RunError: the run cannot be used. UsageError: `top` below 1.
    """
    run = run if isinstance(run, Run) else Run(run)
    if top < 1:
        raise UsageError(f"--top needs at least 1, got {top}")
    if run.reads_pairs:
        yield from of_tables(run.task, run.net(), inputs)
        return
    task, reader, where = run.task, run.reader, here(device)
    items: Iterable[tuple[str, Any]]
    read: Callable[[Any], Any]
    if reader is not None:
        items, read, answers = reader.inputs(inputs), reader.encode, _of_inputs(run, reader, where)
    else:
        pre, ahead = run.preprocess, len(inputs) if isinstance(inputs, Sized) else None
        batch_size = {"pad": min(batch_size, 8), "tile": 1}.get(pre.fit, batch_size)
        items = ((str(x) if isinstance(x, (str, Path)) else f"picture {k}", x) for k, x in enumerate(inputs))
        read = partial(_placed, pre=pre)
        answers = _of_pictures(run, where, ahead, say)

    def tried(one: tuple[str, Any]) -> tuple[Any, str | None]:
        try:
            return read(one[1]), None
        except DataError as error:
            return None, str(error)
        except OSError as error:
            return None, error.strerror or str(error)

    with ThreadPoolExecutor(workers()) as pool:
        given = iter(items)
        while some := list(islice(given, batch_size)):
            made = list(pool.map(tried, some))
            good = [(key, one) for (key, _), (one, problem) in zip(some, made, strict=True) if problem is None]
            with torch.inference_mode():
                found = iter(answers([one for _, one in good], [key for key, _ in good], top) if good else ())
            for (key, raw), (_, problem) in zip(some, made, strict=True):
                yield next(found).beside(raw) if problem is None else task.unread(key, problem)


Answering = Callable[[list[Any], list[str], int], list[Any]]  # from what was read, keys, and how many guesses


def _placed(item: Any, pre: Preprocess) -> tuple[Any, ...]:
    """A picture (H, W, C) ready for a net, and where it went; also one that is no file of its own, by its place."""
    if isinstance(item, (str, Path)):
        item = Path(item).read_bytes() if os.path.isfile(item) else read_place(os.fspath(item))
    made, matrix, size = placed(item, pre)
    return made.transpose(1, 2, 0), matrix, size


def _of_pictures(run: Run, device: Device, ahead: int | None, say: Callable[[str], object]) -> Answering:
    task, views, detector = run.task, run.views, run.detector() if run.task.knows_strangers else None
    net = ready(run, device, ahead, say, features=detector is not None)

    def answers(pictures: list[Any], keys: list[str], top: int) -> list[Any]:
        batch = pictures_only(pictures, run.preprocess, device)
        with device.autocast():
            outputs, seen = averaged(net, task, batch, views["tta"], views["mirror"], features=detector is not None)
        found: list[Any] = task.answers(outputs, batch, keys, top)
        if detector is None or seen is None:
            return found
        distances = detector.score(seen.cpu().numpy()).tolist()
        return [one.judged(d, detector.threshold) for one, d in zip(found, distances, strict=True)]

    return answers


def _of_inputs(run: Run, reader: Reader, device: Device) -> Answering:
    net, task = run.net().to(device.torch), run.task

    def answers(made: list[Any], keys: list[str], top: int) -> list[Any]:
        x = reader.finish(reader.collate(made).to(device.torch))
        batch = Batch((x,), {}, torch.arange(len(x)), torch.ones(len(x), dtype=torch.bool))
        with device.autocast():
            return list(task.answers(floated(task.run(net, batch)), batch, keys, top))

    return answers


def match_texts(run: Run | str | Path, pairs: Sequence[tuple[str, str]]) -> list[Any]:
    """Whether the texts of each pair belong together: cosine, the probability that they say the same, and the words.

    Args:
        run: of the task match, trained on a table of pairs of texts.

    Returns:
        A ``tasks.match_texts.Pair`` for each pair.

    Raises:
        UsageError: the run was trained on pictures.
    """
    run = run if isinstance(run, Run) else Run(run)
    if not run.reads_pairs:
        raise UsageError(f"{run.folder} was trained for the task {run.task.name} not on pairs of texts")
    return of_pairs(run.task, run.net(), pairs)


def pictures_only(pictures: list[Any], pre: Preprocess, device: Device) -> Batch:
    """A batch of prepared pictures (see ``data.batches.Placed``) without annotations."""
    part = gathered_pictures(pictures, pre)
    x = normalised(part.pixels.to(device.torch).permute(0, 3, 1, 2).float() / 255.0, pre)
    x = x.contiguous(memory_format=device.layout)
    warp = Warp(part.places, part.sizes, (x.shape[2], x.shape[3]))
    return Batch((x,), {}, torch.arange(len(x)), part.valid.to(device.torch), warp)


def ready(
    run: Run,
    device: Device,
    ahead: int | None,
    say: Callable[[str], object] = lambda text: None,
    *,
    features: bool = False,
) -> nn.Module:
    """A run's net on a device, computed by the fastest engine where its task asks it for nothing but its answers."""
    net, plain = device.placed(run.net()), getattr(run.task.run, "__func__", None) is Task.run
    if run.reader is not None or not plain or run.preprocess.fit in ("pad", "tile"):
        return net
    return Graphed(Telling(net) if features else net, device, ahead, say)


def here(device: str | None) -> Device:
    """A GPU if there is one; on the CPU float32, so that a picture gets the same answer alone and among others."""
    if device == "cpu" or (device is None and not torch.cuda.is_available() and not torch.backends.mps.is_available()):
        return Device("cpu", channels_last=True)
    return choose(device)
