"""The task play: games, their replay, batches that a net makes itself, and a training that resumes with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from neocog import cli, fit, look
from neocog.data import open_source
from neocog.data.games import GAMES, make_games
from neocog.data.replay import Priorities, Replay
from neocog.errors import DataError, UsageError
from neocog.fit.device import Device
from neocog.fit.job import Wishes
from neocog.fit.opening import planned
from neocog.fit.recipes import recipe
from neocog.fit.run import records
from neocog.fit.state import State
from neocog.tasks.experience import Experience
from neocog.tasks.play import Play

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32", "diagnosis": False, "seed": 3}
SMALL: dict[str, Any] = {"start": 64, "explore": 100, "epoch": 12, "replay": 160, "games": 3, "target": 5}


def played(name: str, actions: list[int]) -> list[bytes]:
    games, one = make_games(name, 2), np.array([1])
    games.begin(one, np.array([7]))
    seen = [games.frames(one).tobytes()]
    for action in actions:
        found = games.step(one, np.array([action]))
        seen.append(games.frames(one).tobytes() + found.rewards.tobytes())
    return seen


@pytest.mark.parametrize("name", GAMES)
def test_a_game_is_a_function_of_its_seed_and_the_actions(name: str) -> None:
    actions = [0, 1, 2, 0, 2, 1, 1, 0]
    assert played(f"game:{name}", actions) == played(f"game:{name}", actions)
    assert played(f"game:{name}", actions) != played(f"game:{name}", [2, 0, 0, 1, 0, 2, 0, 2])
    games, every = make_games(f"game:{name}", 40), np.arange(40)
    games.begin(every, every)
    assert games.frames(every).shape == (40, *games.shape)
    assert len({frame.tobytes() for frame in games.frames(every)}) > 10
    playing = every
    for _ in range(games.longest):
        playing = playing[~games.step(playing, np.zeros(len(playing), int)).over]
    assert not len(playing), "every game ends"


def test_catch_is_won_where_the_ball_is() -> None:
    games, one = make_games("game:catch", 1), np.array([0])
    for seed in range(8):
        games.begin(one, np.array([seed]))
        rewards = []
        for _ in range(11):
            frame = games.frames(one)[0, ::3, ::3]
            ball, paddle = int(frame[:-1].max(0).argmax()), int(np.flatnonzero(frame[-1] == 128).mean())
            found = games.step(one, np.array([0 if ball == paddle else 2 if ball > paddle else 1]))
            rewards.append(float(found.rewards[0]))
        assert rewards == [0.0] * 10 + [1.0] and found.over[0]


def test_mazes_can_be_walked_through() -> None:
    games = make_games("game:maze", 20)
    games.begin(np.arange(20), np.arange(20))
    for walls in games.walls:  # type: ignore[attr-defined]
        free = ~walls
        reached = np.zeros_like(free)
        reached[1, 1] = True
        for _ in range(200):
            around = reached.copy()
            for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
                around |= np.roll(reached, step, axis)
            reached = around & free
        assert (reached == free).all()


def test_the_replay_gives_back_what_was_seen(tmp_path: Path) -> None:
    replay = Replay(tmp_path / "r", 2, 20, 10, (2, 2), 3)
    first, over = {0, 6, 15, 29, 40}, {5, 14, 28, 39}
    for t in range(50):
        replay.see(np.full((2, 2, 2), t), np.array([t in first, t == 0]))
        replay.note(np.array([t % 3, 1]), np.array([1.0, 0.5]), np.array([t in over, False]))
    replay.see(np.full((2, 2, 2), 50), np.array([False, False]))
    low, count = replay.steps(3)
    assert (low, count) == (30, 18)
    found = replay.draw(np.array([36, 38, 40, 41, 38]), np.array([0, 0, 0, 0, 1]), 3, 0.5)
    assert found.before[:, :, 0, 0].tolist() == [[34, 35, 36], [36, 37, 38], [0, 0, 40], [0, 40, 41], [36, 37, 38]]
    assert found.after[:, :, 0, 0].tolist()[0] == [37, 38, 39]
    assert found.reward.tolist() == [1.75, 1.5, 1.75, 1.75, 0.875]  # the game of the second ends at 39
    assert found.discount.tolist() == [0.125, 0.0, 0.125, 0.125, 0.125] and found.action.tolist() == [0, 2, 1, 2, 1]


def test_places_are_drawn_as_their_priorities_say() -> None:
    chosen = Priorities(3000)
    places = np.array([5, 1500, 2999])
    chosen.set(places, np.array([1.0, 2.0, 5.0]))
    drawn, share = chosen.draw((np.arange(800) + 0.5) / 800)
    assert [int((drawn == place).sum()) for place in places] == [100, 200, 500]
    assert np.allclose(np.unique(share), [0.125, 0.25, 0.625])
    chosen.set(places[:1], 0.0)
    assert 5 not in chosen.draw(np.array([0.0, 0.1]))[0]


def feed_of(folder: Path, **options: Any) -> Experience:
    source = open_source("game:catch")
    task = Play.plan(source, np.arange(4), {**Play.options, **SMALL, **options})
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4 * 36 * 36, 3))
    return task.feed(net, Device("cpu"), batch=16, seed=1, folder=folder)


@pytest.mark.parametrize("double", (False, True))
def test_values_are_rewards_and_what_the_target_net_says(double: bool, tmp_path: Path) -> None:
    feed = feed_of(tmp_path, double=double, steps=2, discount=0.9)
    stream = feed.stream(0)
    batch = next(stream)
    with torch.no_grad():
        feed.target[1].bias.add_(torch.tensor([0.0, 3.0, 0.0]))
    feed._last = None
    again = feed._drawn(0)
    assert torch.equal(again.x, batch.x) and batch.x.max() == 1.0
    where = divmod(feed._places, 3)
    found = feed.replay.draw(where[0], where[1], 2, 0.9)
    with torch.no_grad():
        after = torch.from_numpy(found.after) / 255.0
        best = (feed.net if double else feed.target)(after).argmax(1)
        expected = feed.target(after)[torch.arange(16), best] * torch.from_numpy(found.discount)
    assert torch.allclose(again.targets["value"], expected + torch.from_numpy(found.reward), atol=1e-5)


def test_values_are_learned_without_rounding_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neocog.fit.device._bf16", lambda kind, index: True)
    for asked, kept in ((None, torch.float32), ("bfloat16", torch.bfloat16)):
        job = planned(Wishes(), "game:catch", out=tmp_path / "run", precision=asked, progress=False)
        assert job.device.dtype == kept
    assert (
        planned(Wishes(), "drawn:n=40,size=32", out=tmp_path / "other", progress=False).device.dtype == torch.bfloat16
    )


def test_exploration_fades(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, least=0.1)
    stream, shares = feed.stream(0), []
    for _ in range(60):
        next(stream)
        shares.append(feed.exploration)
    assert shares[0] > 0.95 and shares[-1] == pytest.approx(0.1) and shares == sorted(shares, reverse=True)
    assert feed.replay.time == 22 + 80 - 1  # 66 frames by chance, then 4 a step
    assert feed.figures()["games"] >= 6 and "train_reward" not in feed.figures()


def test_trains_resumes_bit_for_bit_and_plays(tmp_path: Path, monkeypatch: Any) -> None:
    options = {**SMALL, "prioritised": True, "start": 32, "replay": 48}
    how: dict[str, Any] = {**QUIET, "task_options": options, "set": {"min_steps": 1}}
    part, save, saves = tmp_path / "part", State.save, 0

    def saving(state: State, folder: Path) -> None:
        nonlocal saves
        save(state, folder)
        saves += 1
        if saves == 17:  # in the middle of an epoch, after the replay has been written over
            shutil.copytree(folder, part)
        if saves == 23:  # what a kill leaves: the replay has gone on, and no checkpoint says so
            shutil.copy(folder / "replay.bin", part)

    monkeypatch.setattr(State, "save", saving)
    whole = fit.train("game:catch", epochs=3, out=tmp_path / "whole", save_every=0.0, **how)
    monkeypatch.undo()
    again = fit.resume(part, progress=False)
    a, b = whole.net().state_dict(), again.net().state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a) and whole.metrics == again.metrics
    kept = [np.fromfile(folder / "replay.bin", np.uint8) for folder in (whole.folder, part)]
    assert np.array_equal(*kept)
    assert whole.metrics["test_n"] == 200 and "A game" in whole.report.read_text()
    epochs = records(whole.folder, "epoch")
    assert len(epochs) == 3 and all("train_reward" in one and "val_reward" in one for one in epochs)
    one, other = whole.predict([5, "6"])
    assert one.key == "game 5" and one.steps == 11 and one.reward in (-1.0, 1.0) and other.problem is None
    assert fit.evaluate([whole], "game:catch")["runs"][0]["reward"] == pytest.approx(whole.metrics["test_reward"])


def test_a_value_is_learned(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, steps=1, target=1000)
    batch = next(feed.stream(0))
    net, task = feed.net, feed.task
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        found = task.losses(task.run(net, batch), batch)
        losses.append(found.total.item())
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
    kept = batch.targets["error"].clone()
    with torch.no_grad():
        task.losses(task.run(net, batch) + 1, batch)  # a look leaves no trace
    assert torch.equal(kept, batch.targets["error"]) and kept.max() > 0


def test_refusals(tmp_path: Path) -> None:
    for data, how, error, said in (
        ("game:catsch", {}, UsageError, "unknown game 'catsch' .did you mean 'catch'.*game:paddle"),
        ("game:catch", {"task_options": {"replay": 10}}, UsageError, "must hold the start=1000"),
        ("game:catch", {"task_options": {"acts": 0}}, UsageError, "acts must be at least 1"),
        ("game:catch", {"task": "label"}, DataError, "no label"),
    ):
        with pytest.raises(error, match=said):
            fit.train(data, out=tmp_path / "run", **QUIET, **how)


def test_settings_of_the_papers() -> None:
    then, later = recipe("paper-dqn-2013"), recipe("paper-dqn-2015")
    assert not then.task_options["clip_errors"] and then.task_options["target"] == 1
    assert later.lr == 2.5e-4 and later.task_options["target"] == 10_000 and later.task_options["explore"] == 1_000_000
    assert later.epochs * later.task_options["epoch"] * later.task_options["acts"] == 50_000_000


def test_a_run_is_looked_at_and_played_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**SMALL, "tested": 0.5}
    how = {**QUIET, "task_options": options, "net_options": {"duelling": True}, "set": {"min_steps": 1}}
    run = fit.train("game:catch", epochs=0.5, out=tmp_path / "run", **how)
    assert any(name.startswith("value.") for name in run.net().state_dict())
    made = look.film(run, 3, method="occlusion")
    assert made.pictures.shape[0] == made.steps + 1 == 12 and made.values.shape == (11, 3)
    assert made.reward == run.predict([3])[0].reward
    picture = made.pictures[0]
    assert picture[:216, 216:].std() > 0 and look.film(run, 3).pictures.shape[2] == picture.shape[1] // 2
    with pytest.raises(SystemExit) as left:
        cli.app(["play", str(run.folder), "--episodes", "3", "--gif", str(tmp_path / "game.gif")])
    assert left.value.code == 0 and "mean reward" in capsys.readouterr().out
    with Image.open(tmp_path / "game.gif") as moving:
        assert moving.n_frames == 12  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"ends in \.gif"):
        made.save(tmp_path / "game.png")
    with pytest.raises(UsageError, match="'neocog play RUN', or the seed"):
        run.predict(["cat.jpg"])


def test_atari_is_prepared_as_published(tmp_path: Path) -> None:
    games, both = make_games("atari:pong", 2), np.arange(2)
    assert games.actions[:2] == ("noop", "fire") and games.shape == (84, 84)
    games.begin(both, np.array([1, 2]))
    frames = []
    for _ in range(20):
        found = games.step(both, np.array([2, 3]))
        frames.append(games.frames(both).copy())
    assert not found.over.any() and games.picture(0).shape == (210, 160, 3)
    assert games.emulators[0].getEpisodeFrameNumber() > 80  # type: ignore[attr-defined]  # four for each, after idling
    games.begin(both[:1], np.array([1]))
    for _ in range(20):
        games.step(both[:1], np.array([2]))
    assert np.array_equal(games.frames(both[:1])[0], frames[-1][0])  # a seed and the actions say it all
    # brightness of the larger of two frames by areas of 2.5 x 1.9 pixels: the walls at the top
    larger = games._screens[0].max(0).astype(float)  # type: ignore[attr-defined]
    rows, columns = (np.add.reduceat(np.repeat(np.eye(n), 84, 0), np.arange(0, 84 * n, n)) / n for n in (210, 160))
    assert np.abs(rows @ larger @ columns.T - games.frames(both)[0]).max() <= 1
    options = {"start": 16, "games": 2, "epoch": 2, "replay": 64, "longest": 5, "explore": 20}
    run = fit.train("atari:pong", epochs=2, task_options=options, set={"min_steps": 1}, out=tmp_path / "run", **QUIET)
    assert run.metrics["test_n"] == 8 and run.metrics["test_steps"] == 5
    with pytest.raises(UsageError, match=r"unknown game atari:pung .did you mean 'pong'"):
        make_games("atari:pung", 1)


@pytest.mark.slow
def test_catch_is_solved(tmp_path: Path) -> None:
    run = fit.train("game:catch", epochs=3, out=tmp_path / "run", **QUIET)
    assert run.metrics["test_reward"] >= 0.95
