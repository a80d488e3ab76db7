"""Batches for the loop: pictures held as one uint8 tensor, or decoded as they are needed.

Which pictures an epoch shows, in which order and how changed, is a function of (seed, epoch) alone. So a training
can be continued at any step, and N processes see between them what one would see.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neocog.data import augment as aug
from neocog.data.pictures import Gathered, Held, Input, Streamed, workers
from neocog.data.ready import NOTHING, Read, Ready, Targets, some_of
from neocog.data.ready import Known as Known
from neocog.data.warp import Warp
from neocog.errors import DataError
from neocog.records import Preprocess


@dataclass(frozen=True, slots=True)
class Mix:
    """Each picture of a batch was mixed with another: it counts for `share` of the answer, the partner for the rest."""

    partner: Tensor  # int64 (B,), within the batch
    share: float


@dataclass(slots=True)
class Batch:
    """What a step carries.

    Attributes:
        inputs: normalised pictures (B, C, H, W), channels-last; what a trunk made of them (B, F); or what a reader made
            of other inputs, such as texts as integers (B, L); one tensor for each input that a sample has.
        targets: their annotations, as the task collates them.
        rows: int64 (B,) on the CPU: which pictures they are.
        valid: bool (B,): the others could not be read; they must not count.
        warp: what was done to their geometry, where the task asks for it.
        mix: how they were mixed, or None.
    """

    inputs: tuple[Tensor, ...]
    targets: Targets
    rows: Tensor
    valid: Tensor
    warp: Warp | None = None
    mix: Mix | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def x(self) -> Tensor:
        """The (first) pictures."""
        return self.inputs[0]

    def part(self, rows: slice) -> Batch:
        """Some of its samples, as a batch. Raises: ValueError if they were mixed: partners may be anywhere in it."""
        if self.mix is not None:
            raise ValueError("a mixed batch cannot be split")
        return Batch(
            tuple(x[rows] for x in self.inputs),
            {name: value[rows] for name, value in self.targets.items()},
            self.rows[rows],
            self.valid[rows],
            None if self.warp is None else self.warp[rows],
        )


class Feed(ABC):
    """Where the loop's batches come from.

    Attributes:
        waited: seconds that the loop has waited for it.
    """

    seed: int
    steps_per_epoch: int
    waited: float = 0.0

    @abstractmethod
    def stream(self, step: int) -> Iterator[Batch]:
        """Batches from `step` on, without end; what they hold depends on nothing but the seed and the step.

        And on the weights, where the net makes its batches itself; then a stream begins at step 0, where another one
        ended, or where `load` says.
        """

    def figures(self) -> dict[str, float]:
        """For the log, of what came since this was asked last."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it; nothing where a batch depends on the seed and the step alone."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Go on from what `state` gave."""


class _Shown(NamedTuple):
    """What a step shows, and what chance says of each: of pictures, of which view or text, of other inputs."""

    rows: Tensor
    draws: list[aug.Draws]
    choices: Tensor
    changes: list[Tensor | None]


class Batches(Feed):
    """Training batches of `pictures`, without end; what a step shows depends on nothing but the arguments.

    Args:
        pictures: Held, Streamed or Ready; several for samples that have several inputs.
        known: their annotations.
        batch_size: of all processes together; each gets its `rank`-th part.
        order: the order of an epoch from a generator (``Task.order``); None or a result of None: each once, by chance.
        dtype: of the pictures that come out.
        texts: of the texts that a sample has, so many are shown, chosen anew in each epoch; 0: all.
        pieces: how often an epoch shows each picture; of tiles, as many as cover it.
    """

    def __init__(
        self,
        pictures: Input | Sequence[Input],
        known: Known,
        how: aug.Augment,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        order: Callable[[torch.Generator], Tensor | None] | None = None,
        rank: int = 0,
        world: int = 1,
        texts: int = 0,
        pieces: int = 1,
    ) -> None:
        self.all = tuple(pictures) if isinstance(pictures, Sequence) else (pictures,)
        self.pictures = self.all[0]
        if len(self.pictures) == 0:
            raise DataError("no training picture is left; 'neocog check' says what is wrong with them")
        self.known, self.how, self.seed = known, how, seed
        self.pieces, shown = pieces, len(self.pictures) * pieces
        self.batch_size = min(batch_size, shown)
        if self.batch_size % world:
            raise DataError(f"a batch of {self.batch_size} cannot be divided among {world} processes; use a multiple")
        self.steps_per_epoch = shown // self.batch_size
        self.device, self.dtype, self.order = device, dtype, order
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.rank, self.world, self.texts = rank, world, texts
        self._epoch = -1

    def _begin(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        n, g = len(self.pictures), aug.generator(self.seed, epoch, 0)
        orders = [(self.order(g) if self.order else None, k * n) for k in range(self.pieces)]
        # a place is that of a picture, and n more for each further time that it is shown
        self._order = torch.cat([(torch.randperm(n, generator=g) if o is None else o) + more for o, more in orders])
        n *= self.pieces
        self._draws = [aug.draw(self.how, n, self.seed + 7919 * k, epoch) for k in range(len(self.all))]
        self._changes = [
            torch.rand(n, one.reader.draws, generator=aug.generator(self.seed + 7919 * k, epoch, 5))
            if isinstance(one, Read)
            else None
            for k, one in enumerate(self.all)
        ]
        # which view of each input, and which of its texts
        self._choices = torch.rand(len(self.all) + 1, n, generator=aug.generator(self.seed, epoch, 4))
        self._epoch = epoch

    def _rows(self, step: int) -> _Shown:
        epoch, within = divmod(step, self.steps_per_epoch)
        self._begin(epoch)
        share = self.batch_size // self.world
        first = within * self.batch_size + self.rank * share
        places = self._order[first : first + share]
        changes = [None if one is None else one[places] for one in self._changes]
        draws = [one.at(places) for one in self._draws]
        return _Shown(places % len(self.pictures), draws, self._choices[:, places], changes)

    def stream(self, step: int) -> Iterator[Batch]:
        """Batches from `step` on, without end. What has to be decoded is decoded a few batches ahead."""
        late = self.known.slow or any(one.streamed for one in self.all)
        ahead: list[tuple[_Shown, list[list[Any]], Any]] = []
        pool = ThreadPoolExecutor(workers(), thread_name_prefix="neocog-decode")  # has no threads before they are asked
        try:
            while True:
                begin = time.perf_counter()
                while len(ahead) < (3 if late else 1):
                    shown = self._rows(step + len(ahead))
                    asked = zip(self.all, shown.draws, strict=True)
                    jobs = [self._submit(pool, one, shown.rows, draws) for one, draws in asked]
                    ahead.append((shown, jobs, self.known.ahead(pool, shown.rows)))
                if late:
                    begin = time.perf_counter()
                shown, jobs, values = ahead.pop(0)
                parts = [
                    one.gathered([job.result() for job in job_list], u) if one.streamed else one.held(shown.rows, u)
                    for one, job_list, u in zip(self.all, jobs, shown.choices, strict=False)
                ]
                batch = self._finish(parts, shown, self._some(values(), shown.choices), step)
                self.waited += time.perf_counter() - begin
                yield batch
                step += 1
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _some(self, values: dict[str, Any], choices: Tensor) -> dict[str, Any]:
        """The values, with as many texts of each sample as are shown."""
        if not self.texts:
            return values
        return {
            role: [some_of(of or (), self.texts, float(u)) for of, u in zip(every, choices[-1], strict=True)]
            if self.known.columns[role].kind == "texts"
            else every
            for role, every in values.items()
        }

    def _submit(self, pool: ThreadPoolExecutor, one: Input, rows: Tensor, draws: aug.Draws) -> list[Any]:
        if not one.streamed:
            return []
        boxes = draws.box if self.how.resized_crop or one.pre.fit == "tile" else [None] * len(rows)
        return [pool.submit(one.read, int(r), b, self.how.resized_crop) for r, b in zip(rows, boxes, strict=True)]

    def _finish(self, parts: list[Gathered], shown: _Shown, values: dict[str, Any], step: int = 0) -> Batch:
        """Bytes to a normalised, augmented batch and its targets."""
        rows, draws = shown.rows, shown.draws
        inputs, warp = [], None
        valid = torch.ones(len(rows), dtype=torch.bool)
        for k, (one, part, draw) in enumerate(zip(self.all, parts, draws, strict=True)):
            valid &= part.valid
            if isinstance(one, Ready):
                inputs.append(one.finish(part.pixels.to(self.device), shown.changes[k]))
                continue
            x, field = self._changed(one, part.pixels.to(self.device), draw)
            if k == 0 and self.known.warps:
                height, width = x.shape[2:]
                cropped = bool(self.how.resized_crop) and isinstance(one, Streamed)
                moved = aug.geometry(draw, self.how, height, width, cropped=cropped)
                window = aug.left_over(draw, height, width)
                window = aug.moved_points(aug.inverted(part.places), window.reshape(-1, 2, 2)).reshape(-1, 4)
                warp = Warp(aug.compose(moved, part.places), part.sizes, (height, width), field, window)
            inputs.append(x)
        inputs[0], mix = self._mixed(inputs[0], step) if self.pictures.mixes else (inputs[0], None)
        ready = tuple(self._laid(x) for x in inputs)
        targets = to(self.known.collate(values, warp, valid), self.device)
        return Batch(ready, targets, rows, valid.to(self.device), warp, mix)

    def _laid(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        return x.to(self.dtype).contiguous(memory_format=self.layout if x.ndim == 4 else torch.contiguous_format)

    def _changed(self, one: Input, pixels: Tensor, draws: aug.Draws) -> tuple[Tensor, Tensor | None]:
        """Bytes (B, H, W, C), augmented and normalised, (B, C, H, W); and how they were bent."""
        how = self.how
        pixels = aug.shift_and_flip(pixels, draws, black=how.crop > how.translate)
        x = pixels.permute(0, 3, 1, 2).float() / 255.0  # (B, C, H, W); the strides make it channels-last
        if how.colour:
            x = aug.jitter_colour(x, draws)
        x, field = normalised(x, one.pre), None
        if how.moves or (how.resized_crop and isinstance(one, Held)):
            height, width = x.shape[2:]
            still = dataclasses.replace(draws, flip=torch.zeros_like(draws.flip), shift=torch.zeros_like(draws.shift))
            matrix = aug.geometry(still, how, height, width, cropped=isinstance(one, Streamed))
            field = aug.bends(draws, how, height, width)
            x = aug.resampled(x, matrix, field, padding="zeros" if how.moves else "reflection")
        if how.cutout:
            x = aug.cut_out(x, draws, how.cutout)
        return x, field

    def _mixed(self, x: Tensor, step: int) -> tuple[Tensor, Mix | None]:
        x, partner, share = aug.mix(x, self.how, aug.generator(self.seed, step, 3))
        return x, None if partner is None else Mix(partner, share)


def normalised(x: Tensor, pre: Preprocess) -> Tensor:
    """Pictures (B, C, H, W) in 0 to 1 as a net wants them: minus the mean, over the deviation. The one place for it."""
    mean, std = (torch.tensor(v[: pre.channels], device=x.device)[None, :, None, None] for v in (pre.mean, pre.std))
    return (x - mean) / std


def ordered(order: Tensor | None, one: Input, batch: int, g: torch.Generator) -> Tensor | None:
    """An epoch's order, where a task has none: inputs of about the same length in a batch, so that little is padded."""
    lengths = one.lengths if isinstance(one, Read) and order is None else None
    if lengths is None or len(lengths) < 2 * batch:
        return order
    some = torch.randperm(len(lengths), generator=g)
    some = torch.cat([part[lengths[part].argsort(stable=True)] for part in some.split(20 * batch)])
    parts = list(some[: len(some) // batch * batch].split(batch))
    return torch.cat([parts[int(k)] for k in torch.randperm(len(parts), generator=g)])


def to(targets: Any, device: torch.device) -> Any:
    """Tensors in dicts and lists, on a device."""
    if isinstance(targets, Tensor):
        return targets.to(device)
    if isinstance(targets, dict):
        return {name: to(value, device) for name, value in targets.items()}
    return [to(value, device) for value in targets] if isinstance(targets, list) else targets


def in_order(
    pictures: Input | Sequence[Input],
    batch_size: int,
    device: torch.device,
    *,
    known: Known = NOTHING,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    chosen: Tensor | None = None,
) -> Iterator[Batch]:
    """Every picture once (or those in `chosen`), unchanged. Pictures that cannot be read are left out.

    They stand in ``pictures.problems``.
    """
    every = tuple(pictures) if isinstance(pictures, Sequence) else (pictures,)
    rows = torch.arange(len(every[0])) if chosen is None else chosen
    if len(rows) == 0:
        return
    how = aug.Augment()
    plain = Batches(every, known, how, batch_size, seed=0, device=device, dtype=dtype, channels_last=channels_last)
    pool = ThreadPoolExecutor(workers()) if known.slow or any(one.streamed for one in every) else None
    try:
        for some in rows.split(batch_size):
            parts = [
                one.gathered(list(pool.map(one.read, some.tolist()))) if pool and one.streamed else one.held(some)
                for one in every
            ]
            good = torch.stack([part.valid for part in parts]).all(0)
            parts, some = [Gathered(*(v[good] for v in part)) for part in parts], some[good]
            if len(some):
                values = known.ahead(pool, some)() if pool else known.values(some)
                still = aug.draw(how, len(some), 0, 0)
                yield plain._finish(parts, _Shown(some, [still] * len(every), some, [None] * len(every)), values)
    finally:
        if pool:
            pool.shutdown()
