"""The training loop. It knows no task and no data set by name, and reads top to bottom."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from neocog.data.augment import generator, smaller
from neocog.data.batches import Batch, Feed
from neocog.errors import RunError
from neocog.fit.device import Device
from neocog.fit.diagnose import update_ratios
from neocog.fit.evaluating import floated
from neocog.fit.guides import Guide
from neocog.fit.job import Job
from neocog.fit.optim import set_rates
from neocog.fit.parallel import World, share_gradients, total
from neocog.fit.schedules import Clock, side
from neocog.fit.state import CHECKPOINT, State
from neocog.nets.layers import WithAuxiliaries
from neocog.tasks import Losses, Task
from neocog.tasks.experience import judging


def fit(
    job: Job,
    state: State,
    clock: Clock,
    *,
    validate: Callable[[nn.Module], dict[str, Any]],
    inspect: Callable[[nn.Module, Batch], dict[str, Any]] | None = None,
    show: Callable[[float, str], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Train ``state.net`` until the clock says that it is over, or validation says that it is enough.

    A checkpoint is written at the end of each epoch, and within it every ``job.save_every`` seconds.

    Args:
        validate: the figures of a net on the validation split (an empty dict if there is none).
        inspect: further figures for the log, from a net and a batch, once an epoch.
        show: gets the progress in [0, 1] and a line of text after every step.
        interrupted: asked after every step; if true, a checkpoint is written and KeyboardInterrupt raised.

    Raises:
        RunError: the loss became NaN or infinite. The last good weights are in the checkpoint, if there is one.
    """
    task, device, world, batches, log, recipe = job.task, job.device, job.world, job.batches, job.log, state.recipe
    folder, seed, (goal, better) = job.folder, job.batches.seed, task.goal
    net: Any = torch.compile(state.net) if device.compile else state.net
    chunk = recipe.chunk if device.kind == "cpu" else 0  # a GPU is kept busy by whole batches
    stream = batches.stream(state.step)
    for guide in job.guides:
        guide.begin(state.step)
    tally = Tally(device.torch)
    saved = time.monotonic()
    clock.before, clock._begin = state.elapsed, time.monotonic()
    state.net.train()
    progress = clock.progress(state.step)  # asked once a step: time that is over is over for all that follows
    while progress < 1.0:
        task.progress = progress
        factor = set_rates(state.opts, recipe, progress, state.scale)
        torch.manual_seed(int(generator(seed, state.step, world.rank).initial_seed()))  # dropout, stochastic depth
        batch = next(stream)
        batch.inputs = tuple(
            smaller(x, side(x.size(-2), recipe.small, recipe.small_until, progress)) if x.ndim == 4 else x
            for x in batch.inputs
        )
        loss, count = gradients(net, batch, task, device, chunk, tally, job.guides)
        share_gradients(state.net, count, world)
        for guide in job.guides:
            guide.share(world)
        penalise(state.net, recipe, state.step / batches.steps_per_epoch)
        if recipe.clip:
            nn.utils.clip_grad_norm_(state.net.parameters(), recipe.clip)
        epoch_ends = (state.step + 1) % batches.steps_per_epoch == 0
        before = weights_of(state.net) if epoch_ends and world.first else None
        if device.kind == "cpu" or epoch_ends:
            stop_if_lost(loss, job, state)
        for opt in state.opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        state.step += 1
        state.update_averages()
        progress = clock.progress(state.step)
        if show:
            show(progress, tally.text(state.step / batches.steps_per_epoch))

        over = progress >= 1.0
        if epoch_ends or over:
            stop_if_lost(loss_now(state.net, batch, task, device), job, state)
            figures = validate(state.final_net)
            figure, val_loss = figures.get(f"val_{goal}", math.nan), figures.get("val_loss", math.nan)
            score = figure if better == "max" else -figure
            state.note(score, val_loss, figures.get("val_error", 0.0))
            stop = judge(state, score, val_loss)
            log.write(
                "epoch",
                epoch=state.step / batches.steps_per_epoch,
                step=state.step,
                **tally.figures(batches, world),
                **{k: v for k, v in figures.items() if isinstance(v, (int, float))},
                lr=factor,
                elapsed=clock.elapsed,
                update_ratio=update_ratios(before, weights_of(state.net)) if before else {},
                **(inspect(state.net, batch) if inspect and world.first else {}),
            )
            state.net.train()
            tally = Tally(device.torch)
            batches.waited = 0.0
            if stop:
                break
        stopping = interrupted()
        if world.first and (epoch_ends or over or stopping or time.monotonic() - saved > job.save_every):
            if not (epoch_ends or over or task.whole_batch):
                stop_if_lost(loss_now(state.net, batch, task, device), job, state, alone=True)
            state.elapsed, state.log_size = clock.elapsed, log.size
            state.beside = job.beside()
            state.save(folder)
            saved = time.monotonic()
        if stopping:
            raise KeyboardInterrupt
    stream.close()  # type: ignore[attr-defined]
    state.elapsed, state.log_size = clock.elapsed, log.size


@torch.no_grad()
def loss_now(net: nn.Module, batch: Batch, task: Task, device: Device, most: int = 500) -> Tensor:
    """Loss of the weights as they are, in evaluation mode, so that a checkpoint never holds weights that are lost."""
    some = dataclasses.replace(batch, mix=None).part(slice(0, most))
    with judging(net, device):
        outputs = task.run(net, some)
    return task.losses(floated(outputs), some).total


def gradients(
    net: nn.Module,
    batch: Batch,
    task: Task,
    device: Device,
    chunk: int,
    tally: Tally,
    guides: Sequence[Guide] = (),
) -> tuple[Tensor, Tensor]:
    """Add the gradients of a batch's loss times its count to the net's parameters, `chunk` pictures at a time (0: all).

    Pieces of a batch stay in the processor's cache: 500 pictures of 32x32 at a time are 7 % faster than 1,000.

    Returns:
        The mean loss, and the count that it is a mean over.
    """
    # a mixed batch refers to partners by their place in it, so it stays whole
    whole = batch.mix is not None or task.whole_batch or any(guide.whole_batch for guide in guides)
    size = chunk if chunk and not whole and chunk < len(batch) else len(batch)
    loss = torch.zeros((), device=batch.x.device)
    count = torch.zeros((), device=batch.x.device)
    for first in range(0, len(batch), size):
        part = batch if size == len(batch) else batch.part(slice(first, first + size))
        also = [x for guide in guides if (x := guide.beside(net, part)) is not None]
        with device.training():
            made = task.run(net, dataclasses.replace(part, inputs=(torch.cat([part.x, *also]),)) if also else part)
        out = floated(weighted(made)[0][0])
        found = loss_of(task, first_rows(made, len(part)) if also else made, part)
        for guide in guides:
            guide.add(found, out[: len(part)], out[len(part) :], part)
        times = torch.as_tensor(found.count, dtype=loss.dtype, device=loss.device)
        total = found.total * times
        total.backward()
        loss += total.detach()
        count += times
        tally.add(found, times)
    tally.step(len(batch))
    return loss / count.clamp(min=1e-6), count


def first_rows(made: Any, n: int) -> Any:
    """What a net puts out, for the first `n` samples that it was shown."""
    return tree_map(lambda v: v[:n] if isinstance(v, Tensor) else v, made)


def weighted(made: Any) -> list[tuple[Any, float]]:
    """What a net puts out in training, with the weight of each in the loss: its output, then its auxiliary heads'."""
    if not isinstance(made, WithAuxiliaries):
        return [(made, 1.0)]
    return [(made.logits, 1.0), *((auxiliary, made.weight) for auxiliary in made.auxiliaries)]


def loss_of(task: Task, made: Any, batch: Batch) -> Losses:
    """The losses of a net's output, and those of its auxiliary heads, weighted."""
    (out, _), *others = weighted(made)
    found = task.losses(floated(out), batch)
    for number, (auxiliary, weight) in enumerate(others, 1):
        found.parts[f"auxiliary_{number}"] = weight * task.losses(floated(auxiliary), batch).total
    return found


def penalise(net: nn.Module, recipe: Any, epoch: float) -> None:
    """Add the gradients of the L1 and L2 penalties on filters and matrices (together: the elastic net)."""
    if (recipe.l1 or recipe.l2) and epoch >= recipe.penalty_from:
        for p in net.parameters():
            if p.grad is not None and p.ndim > 1:
                p.grad.add_(recipe.l1 * p.detach().sign() + recipe.l2 * p.detach())


def stop_if_lost(loss: Tensor, job: Job, state: State, *, alone: bool = False) -> None:
    """Raise if the loss is not a number any more, in any process (`alone`: in this one)."""
    bad, folder = (~torch.isfinite(loss)).float(), job.folder
    if (bad if alone else total(bad, job.world)).item():
        rate = state.opts[0].param_groups[0]["lr"]
        kept = f"the last good weights are in {folder}" if (folder / CHECKPOINT).exists() else "no weights were saved"
        raise RunError(
            f"the loss became {loss.item()} at step {state.step} (learning rate {rate:.3g}); {kept}. "
            f"Try a tenth of the rate (--set lr={state.recipe.lr / 10:.3g}), gradient clipping "
            "(--set clip=1), a warm-up (--set warmup=0.05), or find a rate with --find-lr"
        )


def judge(state: State, figure: float, loss: float) -> bool:
    """Lower the learning rate when the validation figure stalls. True if the training should stop."""
    if not math.isfinite(figure):
        return False
    recipe = state.recipe
    # of a net that does not believe wrong labels the loss on them rises, while its accuracy on them stays
    by_loss = recipe.early_stop and math.isfinite(loss) and not recipe.noisy
    score = -loss if by_loss else figure
    if score > state.best:
        state.best, state.stale = score, 0
        return False
    state.stale += 1
    if recipe.stall and state.stale >= recipe.stall:
        state.scale, state.stale = state.scale / 10, 0
        return state.scale < 0.5e-3  # Krizhevsky 2012: divided three times, then the training ends
    return bool(recipe.early_stop and state.stale >= recipe.early_stop)


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """A copy of the trainable weights of two or more dimensions."""
    return {k: p.detach().clone() for k, p in net.named_parameters() if p.requires_grad and p.ndim > 1}


class Tally:
    """Running sums of an epoch, on the device, so that no step waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.sums: dict[str, Tensor] = {}
        self.pictures = 0
        self.steps = 0
        self.begin = time.perf_counter()
        self.device = device

    def add(self, found: Losses, count: Tensor) -> None:
        """Count a piece of a batch."""
        parts = {name: value.detach() * count for name, value in found.parts.items()}
        several = parts if len(parts) > 1 else {}
        whole = torch.stack(list(parts.values())).sum()
        for name, value in {"count": count, "loss": whole, **several, **found.figures}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def step(self, pictures: int) -> None:
        """Count a step."""
        self.pictures += pictures
        self.steps += 1

    def text(self, epoch: float) -> str:
        """A line for the progress bar."""
        if self.device.type != "cpu":  # reading the loss would wait for the device
            return f"epoch {epoch:.2f}"
        mean = self.sums["loss"].item() / max(1e-6, self.sums["count"].item())
        return f"epoch {epoch:.2f}  loss {mean:.3f}"

    def figures(self, batches: Feed, world: World) -> dict[str, float]:
        """The epoch's figures for the log, over all processes."""
        names = sorted(self.sums)
        sums = total(torch.stack([self.sums[name].float() for name in names]), world).tolist()
        found = dict(zip(names, sums, strict=True))
        count = max(1e-6, found.pop("count"))
        seconds = time.perf_counter() - self.begin
        return {
            **{f"train_{name}": value / count for name, value in found.items()},
            "seconds": seconds,
            "pictures_per_second": self.pictures * world.size / seconds,
            "waiting": batches.waited / seconds,
            **batches.figures(),
        }
