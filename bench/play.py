"""Frames of Pong a second while a net learns from them: neocog's loop, and a plain one in a single file.

    python bench/play.py [--steps 200] [--rounds 3]        # needs ale-py, gymnasium and opencv-python-headless

The plain loop is as CleanRL's dqn_atari.py: gymnasium's wrappers, one game, a replay of whole stacks in NumPy, the net
of Mnih et al. 2015 in float32, batches of 32, a step of Adam for every four frames, the target net every 1,000 frames.
neocog has the same net, batch and frames for each step, without double and n-step; it computes in what it chose for the
processor, and in float32. Both in turn, after 500 frames by chance; a frame is what the net sees, four of the
emulator's. CPU seconds are of the whole process. Writes bench/results/play.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from neocog import nets
from neocog.fit.device import hardware
from neocog.fit.inputs import prepare
from neocog.fit.job import Wishes
from neocog.fit.loop import fit
from neocog.fit.opening import make_folder, planned
from neocog.fit.run import Log
from neocog.fit.schedules import Clock
from neocog.fit.state import State

OUT = Path(__file__).parent / "results" / "play.json"
START, ACTS, BATCH, WARM = 500, 4, 32, 5


def main() -> None:
    """Both, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for _ in range(given.rounds):
        for name, run in (
            ("plain", plain),
            ("neocog", lambda steps: ours(steps, None)),
            ("neocog, float32", lambda steps: ours(steps, "float32")),
        ):
            rows.append({"loop": name, **run(given.steps)})
            print(rows[-1], flush=True)
    OUT.write_text(json.dumps({"hardware": hardware(), "threads": torch.get_num_threads(), "rows": rows}, indent=1))


def timed(steps: int, step: Callable[[], object], frames: int = 0) -> dict[str, float]:
    """Frames a second, of the clock and of the processor; `frames`: of all calls of `step`, else `ACTS` of each."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    frames = frames or steps * ACTS
    return {
        "frames": frames,
        "frames_per_second": round(frames / (time.perf_counter() - wall), 1),
        "frames_per_cpu_second": round(frames / (time.process_time() - cpu), 1),
    }


def plain(steps: int) -> dict[str, float]:
    """A loop by hand."""
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    game = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
    game = gymnasium.wrappers.AtariPreprocessing(game, terminal_on_life_loss=True)
    game = gymnasium.wrappers.FrameStackObservation(game, 4)
    size, actions = 20_000, int(game.action_space.n)  # type: ignore[attr-defined]
    before, after = (np.zeros((size, 4, 84, 84), np.uint8) for _ in range(2))
    did, won, over = np.zeros(size, np.int64), np.zeros(size, np.float32), np.zeros(size, np.float32)
    torch.manual_seed(0)
    net, target = (nets.build("dqn_2015", classes=actions) for _ in range(2))
    target.load_state_dict(net.state_dict())
    optimizer, rng = torch.optim.Adam(net.parameters(), lr=1e-4), np.random.default_rng(0)
    state: dict[str, Any] = {"seen": np.asarray(game.reset(seed=0)[0]), "time": 0}

    def act(chance: float) -> None:
        t, seen = state["time"] % size, state["seen"]
        if rng.random() < chance:
            action = int(rng.integers(actions))
        else:
            with torch.no_grad():
                action = int(net(torch.from_numpy(seen)[None] / 255.0).argmax())
        following, reward, ended, cut, _ = game.step(action)
        before[t], after[t], did[t], won[t], over[t] = seen, following, action, np.sign(float(reward)), ended
        state["seen"] = np.asarray(game.reset()[0] if ended or cut else following)
        state["time"] += 1
        if state["time"] % 1000 == 0:
            target.load_state_dict(net.state_dict())

    def step() -> None:
        for _ in range(ACTS):
            act(0.5)
        rows = rng.integers(min(state["time"], size), size=BATCH)
        with torch.no_grad():
            best = target(torch.from_numpy(after[rows]) / 255.0).amax(1)
            value = torch.from_numpy(won[rows]) + 0.99 * best * (1 - torch.from_numpy(over[rows]))
        said = net(torch.from_numpy(before[rows]) / 255.0).gather(1, torch.from_numpy(did[rows])[:, None])[:, 0]
        optimizer.zero_grad()
        F.mse_loss(said, value).backward()
        optimizer.step()

    for _ in range(START):
        act(1.0)
    timed(WARM, step)
    return timed(steps, step)


def ours(steps: int, precision: str | None) -> dict[str, float]:
    """neocog's loop, as `neocog train atari:pong` runs it."""
    how: dict[str, Any] = {"start": START, "acts": ACTS, "steps": 1, "double": False, "replay": 20_000, "target": 250}
    how |= {"least": 0.5, "explore": 1, "epoch": 10 * (steps + WARM)}
    with tempfile.TemporaryDirectory() as folder:
        wishes = Wishes(net="dqn_2015", task_options=how, fields={"batch_size": BATCH, "clip": 0})
        job = planned(wishes, "atari:pong", out=Path(folder) / "run", precision=precision, progress=False)
        make_folder(job.folder, job.plan, job.data)
        prepare(job)
        state = State(job.net, job.plan.recipe, job.plan.batch, job.device.dtype)
        job.log = Log(None)

        def more(count: int) -> None:
            fit(job, state, Clock(state.step + count), validate=lambda net: {})

        more(WARM)
        found = timed(1, lambda: more(steps), steps * ACTS)
        job.log.close()
    return found


if __name__ == "__main__":
    main()
