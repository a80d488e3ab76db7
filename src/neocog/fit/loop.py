"""The training loop. It knows no task and no data set by name, and reads top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neocog.data.augment import generator, smaller
from neocog.data.batches import Batch, Batches
from neocog.errors import RunError
from neocog.fit.clock import Clock
from neocog.fit.device import Device
from neocog.fit.diagnose import update_ratios
from neocog.fit.optim import set_rates
from neocog.fit.parallel import World, share_gradients, total
from neocog.fit.run import Log
from neocog.fit.schedules import side
from neocog.fit.state import State
from neocog.nets.layers import WithAuxiliaries
from neocog.tasks import Task


def fit(
    state: State,
    batches: Batches,
    task: Task,
    device: Device,
    clock: Clock,
    folder: Path,
    log: Log,
    *,
    validate: Callable[[nn.Module], dict[str, Any]],
    inspect: Callable[[nn.Module, Batch], dict[str, Any]] | None = None,
    show: Callable[[float, str], None] | None = None,
    world: World | None = None,
    save_every: float = 60.0,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Train ``state.net`` until the clock says that it is over, or validation says that it is enough.

    Args:
        validate: the figures of a net on the validation split (an empty dict if there is none).
        inspect: further figures for the log, from a net and a batch, once an epoch.
        show: is told the progress in [0, 1] and a line of text after every step.
        save_every: seconds between checkpoints within an epoch; one is written at the end of each epoch, too.
        interrupted: asked after every step; if true, a checkpoint is written and KeyboardInterrupt raised.

    Raises:
        RunError: the loss became NaN or infinite. The last good weights are in the checkpoint.
    """
    world, recipe, seed = world or World(), state.recipe, batches.seed
    net: Any = torch.compile(state.net) if device.compile else state.net
    chunk = recipe.chunk if device.kind == "cpu" else 0  # a GPU is kept busy by whole batches
    stream = batches.stream(state.step)
    tally = Tally(device.torch)
    saved = time.monotonic()
    clock.before, clock._begin = state.elapsed, time.monotonic()
    state.net.train()
    progress = clock.progress(state.step)  # asked once a step: time that is over is over for all that follows
    while progress < 1.0:
        factor = set_rates(state.opts, recipe, progress, state.scale)
        torch.manual_seed(int(generator(seed, state.step, world.rank).initial_seed()))  # dropout, stochastic depth
        batch = next(stream)
        batch.x = smaller(batch.x, side(batch.x.size(-2), recipe.small, recipe.small_until, progress))
        loss = gradients(net, batch, task, device, chunk, tally)
        penalise(state.net, recipe, state.step / batches.steps_per_epoch)
        share_gradients(state.net, world)
        if recipe.clip:
            nn.utils.clip_grad_norm_(state.net.parameters(), recipe.clip)
        epoch_ends = (state.step + 1) % batches.steps_per_epoch == 0
        before = weights_of(state.net) if epoch_ends and world.first else None
        if device.kind == "cpu" or epoch_ends:
            stop_if_lost(loss, state, world)
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
            figures = validate(state.final_net)
            stop = judge(state, figures.get(f"val_{task.better}"), figures.get("val_loss"))
            log.write(
                "epoch",
                epoch=state.step / batches.steps_per_epoch,
                step=state.step,
                **tally.figures(batches, world),
                **figures,
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
        if world.first and (epoch_ends or over or stopping or time.monotonic() - saved > save_every):
            stop_if_lost(loss_now(state.net, batch, task, device), state, World())
            state.elapsed, state.log_size = clock.elapsed, log.size
            state.save(folder)
            saved = time.monotonic()
        if stopping:
            raise KeyboardInterrupt
    stream.close()  # type: ignore[attr-defined]
    state.elapsed, state.log_size = clock.elapsed, log.size


@torch.no_grad()
def loss_now(net: nn.Module, batch: Batch, task: Task, device: Device, most: int = 500) -> Tensor:
    """Loss of the weights as they are, in evaluation mode, so that a checkpoint never holds weights that are lost."""
    net.eval()
    with device.autocast():
        outputs = net(batch.x[:most])
    net.train()
    return task.loss(outputs.float(), batch.y[:most], None, 1.0)


def gradients(net: nn.Module, batch: Batch, task: Task, device: Device, chunk: int, tally: Tally) -> Tensor:
    """Add the gradients of a batch's mean loss to the net's parameters, `chunk` pictures at a time (0: all).

    Pieces of a batch stay in the processor's cache: 500 pictures of 32x32 at a time are 7 % faster than 1,000.
    """
    count = len(batch.y)
    # a mixed batch refers to partners anywhere in it, so it stays whole
    size = chunk if chunk and batch.partner is None and chunk < count else count
    loss = torch.zeros((), device=batch.y.device)
    for first in range(0, count, size):
        x, y = batch.x[first : first + size], batch.y[first : first + size]
        with device.training():
            made = net(x)
        part = loss_of(task, made, y, batch) * (len(y) / count)
        part.backward()
        loss += part.detach()
        tally.right += task.right(weighted(made)[0][0].detach().float(), y)
    tally.add(loss, count)
    return loss


def weighted(made: Tensor | WithAuxiliaries) -> list[tuple[Tensor, float]]:
    """What a net puts out in training, with the weight of each in the loss: its output, then its auxiliary heads'."""
    if isinstance(made, Tensor):
        return [(made, 1.0)]
    return [(made.logits, 1.0), *((auxiliary, made.weight) for auxiliary in made.auxiliaries)]


def loss_of(task: Task, made: Tensor | WithAuxiliaries, y: Tensor, batch: Batch) -> Tensor:
    """The mean loss of a net's output, plus that of its auxiliary heads, weighted."""
    parts = [w * task.loss(out.float(), y, batch.partner, batch.share) for out, w in weighted(made)]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def penalise(net: nn.Module, recipe: Any, epoch: float) -> None:
    """Add the gradients of the L1 and L2 penalties on filters and matrices (together: the elastic net)."""
    if (recipe.l1 or recipe.l2) and epoch >= recipe.penalty_from:
        for p in net.parameters():
            if p.grad is not None and p.ndim > 1:
                p.grad.add_(recipe.l1 * p.detach().sign() + recipe.l2 * p.detach())


def stop_if_lost(loss: Tensor, state: State, world: World) -> None:
    """Raise if the loss is no number any more, in any process."""
    bad = total((~torch.isfinite(loss)).float(), world)
    if bad.item():
        rate = state.opts[0].param_groups[0]["lr"]
        raise RunError(
            f"the loss became {loss.item()} at step {state.step} (learning rate {rate:.3g}); the last good weights "
            f"are kept. Try a tenth of the rate (--set lr={state.recipe.lr / 10:.3g}), gradient clipping "
            "(--set clip=1), a warm-up (--set warmup=0.05), or look for the rate with --find-lr"
        )


def judge(state: State, figure: float | None, loss: float | None) -> bool:
    """Note the epoch's validation figure; lower the rate when it stalls. True if the training should stop."""
    if figure is None or math.isnan(figure):
        return False
    recipe = state.recipe
    score = -loss if recipe.early_stop and loss is not None else figure
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
        self.loss = torch.zeros((), device=device)
        self.right = torch.zeros((), device=device)
        self.count = 0
        self.steps = 0
        self.begin = time.perf_counter()
        self.device = device

    def add(self, loss: Tensor, count: int) -> None:
        """Count a batch."""
        self.loss += loss
        self.count += count
        self.steps += 1

    def text(self, epoch: float) -> str:
        """A line for the progress bar."""
        if self.device.type != "cpu":  # reading the loss would wait for the device
            return f"epoch {epoch:.2f}"
        return f"epoch {epoch:.2f}  loss {self.loss.item() / max(1, self.steps):.3f}"

    def figures(self, batches: Batches, world: World) -> dict[str, float]:
        """The epoch's figures for the log, over all processes."""
        sums = total(torch.stack((self.loss / max(1, self.steps), self.right)).float(), world)
        seconds = time.perf_counter() - self.begin
        return {
            "train_loss": float(sums[0]) / world.size,
            "train_accuracy": float(sums[1]) / max(1, self.count * world.size),
            "seconds": seconds,
            "pictures_per_second": self.count * world.size / seconds,
            "waiting": batches.waited / seconds,
        }
