"""Autoencoders, variational ones and adversarial nets: probabilities, distances, damage, and separate gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor
from typer.testing import CliRunner

import neocog
from neocog import fit, tasks
from neocog.cli import app
from neocog.data.batches import Batch
from neocog.errors import DataError, UsageError
from neocog.fit.run import records
from neocog.fit.state import State
from neocog.tasks import frechet
from neocog.tasks.gan import Gan
from neocog.tasks.pixels import Pca, chance, psnr, sheet
from neocog.tasks.reconstruct import Reconstruct
from neocog.tasks.task import build_net
from neocog.tasks.vae import Vae, _log_level

DATA = "drawn:n=48,size=16"
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32", "diagnosis": False, "epochs": 2}
SMALL: dict[str, Any] = {**QUIET, "size": 16, "net_options": {"width": 4}, "set": {"min_steps": 1, "batch_size": 8}}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(x: Tensor, known: bool = True) -> Batch:
    there = torch.ones(len(x), dtype=torch.bool)
    return Batch((x,), {"there": there} if known else {}, torch.arange(len(x)), there)


def net_for(task: Any, net: str = "dcgan_plain", **options: Any) -> Any:
    torch.manual_seed(0)
    return build_net(task, {"name": net, "classes": 1, "in_channels": 3, "input_size": 16, **options})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, fit.Run]:
    folder = tmp_path_factory.mktemp("runs")
    few = {"vae": {"latent": 4, "draws": 2}, "gan": {"latent": 8}}
    return {k: neocog.train(DATA, task=k, task_options=v, out=folder / k, **SMALL) for k, v in few.items()}


# ---- numbers


def test_pca_has_the_likelihood_of_scikit_learns() -> None:
    mixed = random(300, 6) @ torch.diag(torch.tensor([9.0, 5.0, 3.0, 1.0, 1.0, 1.0])) @ random(6, 6, seed=1) + 40
    ours, theirs = Pca(mixed, 2), PCA(2, svd_solver="full").fit(mixed.double().numpy())
    new = random(20, 6, seed=2) * 5 + 40
    np.testing.assert_allclose(ours.log_p(new), theirs.score_samples(new.double().numpy()), rtol=1e-3)
    again = theirs.inverse_transform(theirs.transform(new.double().numpy()))
    np.testing.assert_allclose(ours.remade(new), again, rtol=1e-3, atol=1e-2)
    many = ours.sample(20_000)
    np.testing.assert_allclose(np.cov(many.T), theirs.get_covariance(), atol=0.05 * theirs.get_covariance().max())


@pytest.mark.parametrize("kind", ["logistic", "gaussian"])
@pytest.mark.parametrize("log_scale", [-6.0, -2.0, 1.0])
def test_the_probabilities_of_all_levels_add_up_to_one(kind: str, log_scale: float) -> None:
    levels, mean = torch.arange(256.0), 0.3
    scale = torch.tensor(log_scale)
    log_p = _log_level(levels / 255 - mean, torch.tensor(0.5 / 255), scale, levels, kind)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=2e-3)
    assert torch.isfinite(log_p).all()


def test_more_samples_bring_the_bound_nearer() -> None:
    x, task = random(6, 3, 16, 16), Vae(latent=3, draws=1)
    net, found = net_for(task, width=4).eval(), []
    task.thorough()
    for draws in (1, 64):
        task.how["draws"] = draws
        with torch.no_grad():
            found.append(float(task.run(net, batch_of(x))["log_p"].mean()))
    assert found[1] > found[0]
    with torch.no_grad():
        once = task.run(net, batch_of(x, known=False))  # of a new picture: one sample, and a picture
    assert once["made"].shape == x.shape and 0 <= once["made"].min() <= once["made"].max() <= 1


def test_the_divergence_counts_only_as_the_training_goes_on() -> None:
    x, task = random(4, 3, 16, 16), Vae(latent=3, warmup=0.5, beta=2.0)
    net, parts = net_for(task, "dcgan", width=4).train(), []
    for task.progress in (0.0, 0.25, 0.5, 1.0):
        torch.manual_seed(0)
        parts.append(task.losses(task.run(net, batch_of(x)), batch_of(x)).parts["divergence"].item())
    assert parts[0] == 0 and parts[2] == pytest.approx(2 * parts[1], rel=1e-4) and parts[3] == parts[2]


def test_the_zoos_own_vae_can_be_trained() -> None:
    x, task = random(4, 3, 16, 16), Vae()
    net = net_for(task, "vae_conv", latent=5, widths=[4, 8]).train()
    found = task.losses(task.run(net, batch_of(x)), batch_of(x))
    found.total.backward()
    assert net.decoder[0].weight.grad.abs().sum() > 0 and net.logvar.weight.grad.abs().sum() > 0
    assert task.sample(net.eval(), 3).shape == (3, 16, 16, 3)


def test_the_frechet_distance_is_that_of_two_normal_distributions() -> None:
    a = random(500, 3).numpy()
    assert frechet.distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet.distance(a, a + np.array([1.0, 2.0, 0.0])) == pytest.approx(5)
    b = random(500, 3, seed=1).numpy()
    pulled = b / b.std(0) * a.std(0) * 3  # variances nine times as large, in no other direction
    off = float(((pulled.mean(0) - a.mean(0)) ** 2).sum())
    assert frechet.distance(a, pulled) == pytest.approx(off + 4 * a.var(0).sum(), rel=0.02)
    assert math.isnan(frechet.distance(a[:1], b))


def test_chance_is_that_of_each_picture_in_any_batch() -> None:
    rows = torch.tensor([5, 2, 9])
    assert torch.equal(chance(rows, 4, 3)[1:], chance(rows[1:], 4, 3))
    assert not torch.equal(chance(rows, 4, 3), chance(rows, 4, 4))


def test_a_sheet_has_every_picture_in_its_place() -> None:
    made = sheet(np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8), columns=2)
    assert made.shape == (10, 10, 3)
    assert made[0, 0, 0] == 0 and made[0, 6, 0] == 1 and made[6, 0, 0] == 2 and made[6, 6, 0] == 255
    assert psnr(0.01) == pytest.approx(20)


# ---- learning


def test_damage_is_asked_for_and_new_pictures_are_left_whole() -> None:
    x, task = random(4, 3, 16, 16), Reconstruct(mask=0.5, patch=4, noise=0.1, code=4)
    net = net_for(task, "dcgan", width=4).eval()
    with torch.no_grad():
        made, again, plain = (task.run(net, batch_of(x, known)) for known in (True, True, False))
    assert torch.equal(made["read"], again["read"]) and torch.equal(plain["read"], x)
    assert made["hidden"].mean((1, 2, 3)).tolist() == [0.5] * 4
    assert (made["read"] * made["hidden"]).abs().max() == 0
    seen = (made["read"] - x) * (1 - made["hidden"])
    assert float(seen.std()) == pytest.approx(0.1 * math.sqrt(0.5), rel=0.1)
    outputs = {**made, "made": x + made["hidden"]}  # wrong only where it was asked
    assert task.losses(outputs, batch_of(x)).total.item() == pytest.approx(1)
    torch.manual_seed(1)
    assert not torch.equal(task.run(net.train(), batch_of(x))["read"], made["read"])


def test_critic_and_generator_learn_from_their_own_losses_alone() -> None:
    x, task = random(4, 3, 16, 16), Gan(latent=5)
    net = net_for(task, width=4).train()
    for part, learns in (("critic", net.trunk), ("generator", net.answer.generator)):
        torch.manual_seed(0)
        net.zero_grad()
        task.losses(task.run(net, batch_of(x)), batch_of(x)).parts[part].backward()
        more = net.answer.score.parameters() if part == "critic" else ()
        own = {id(p) for p in (*learns.parameters(), *more) if p.requires_grad}
        moved = {id(p) for p in net.parameters() if p.grad is not None}
        assert moved == own
    assert all(p.requires_grad for p in net.trunk.net.layers.parameters())


def test_the_critic_has_its_own_learning_rate() -> None:
    state = State(net_for(Gan(critic=3.0), width=4), fit.recipes.recipe("gan"), 64)
    rates = sorted({group["lr"] for group in state.opts[0].param_groups})
    assert rates == pytest.approx([1e-3, 3e-3])


def test_no_layer_of_a_spectral_critic_is_steep() -> None:
    net = net_for(Gan(loss="hinge"), "dcgan_spectral", width=4).train()
    for _ in range(20):
        net(random(8, 3, 16, 16))
    weights = [layer[0].weight.flatten(1) for layer in net.trunk.net.layers] + [net.answer.score.line.weight]
    assert [float(torch.linalg.matrix_norm(w.detach(), 2)) for w in weights] == pytest.approx([1.0] * 3, rel=0.05)


def test_how_steep_the_critic_is_is_the_square_of_its_gradients() -> None:
    x, task, found = random(64, 3, 16, 16), Gan(steep=1.0), []
    net = net_for(task, width=4).train()
    for step in range(30):
        torch.manual_seed(step)
        made = task.run(net, batch_of(x))
        found.append(task.losses(made, batch_of(x)).parts["steep"].item())
    z = random(64, 64, seed=1)
    each = []
    for pictures in (x, task.normalised(task.pictures(net, z)).detach()):
        read = pictures.requires_grad_(True)
        (slope,) = torch.autograd.grad(net(read).sum(), read)
        each.append((slope / 2).square().flatten(1).sum(1).mean().item())  # by values from -1 to 1
    assert np.mean(found) == pytest.approx(sum(each) / 2, rel=0.15)


def test_losses_are_those_of_the_papers() -> None:
    scores = {"true": 0.5, "false": -3.0, "fooled": -3.0}
    outputs = {k: torch.tensor([[v]]) for k, v in scores.items()}
    batch = batch_of(torch.zeros(1, 3, 4, 4))
    pairs = Gan(steep=0.0).losses(outputs, batch).parts
    assert [v.item() for v in pairs.values()] == pytest.approx(
        [math.log(1 + math.exp(-3.5)), math.log(1 + math.exp(3.5))]
    )
    hinge = Gan(loss="hinge").losses(outputs, batch).parts
    assert [v.item() for v in hinge.values()] == [0.5, 3.0]
    first = Gan(loss="original").losses(outputs, batch).parts
    told = -math.log(1 / (1 + math.exp(-0.5))) + math.log(1 + math.exp(-3))
    assert [v.item() for v in first.values()] == pytest.approx([told, math.log(1 + math.exp(3))])


# ---- runs


def test_a_run_makes_pictures_and_shows_them(runs: dict[str, fit.Run], tmp_path: Path) -> None:
    for name, run in runs.items():
        made = run.sample(5, seed=3)
        assert made.shape == (5, 16, 16, 3) and made.dtype == np.uint8
        assert np.array_equal(made, fit.Run(run.folder).sample(5, seed=3))
        assert not np.array_equal(made, run.sample(5, seed=4))
        steps = {int(path.stem.partition("@")[2]) for path in (run.folder / "made").glob("Samples@*.png")}
        assert steps == {epoch["step"] for epoch in records(run.folder, "epoch")}
        report = run.report.read_text()
        assert "Pictures that the net makes" in report and "<h3>Samples</h3>" in report
        result = CliRunner().invoke(app, ["sample", str(run.folder), "--n", "3", "--out", str(tmp_path / "s.png"),
                                          "--each", str(tmp_path / name)])  # fmt: skip
        assert result.exit_code == 0, result.output
        with Image.open(tmp_path / "s.png") as image:
            assert image.size == (34, 34) and len(list((tmp_path / name).iterdir())) == 3
        again = CliRunner().invoke(app, ["sample", str(run.folder), "--n", "3", "--each", str(tmp_path / name)])
        assert again.exit_code == 2 and "is there already" in again.output
    assert "<h3>Walks between pictures</h3>" in runs["vae"].report.read_text()
    assert "nearest training picture" in runs["gan"].report.read_text()
    with pytest.raises(UsageError, match="at least one"):
        run.sample(0)


def test_figures_stand_beside_those_of_pca(runs: dict[str, fit.Run], tmp_path: Path) -> None:
    vae, gan = (runs[name].metrics for name in ("vae", "gan"))
    assert vae["test_ahead_of_pca"] == pytest.approx(vae["test_pca_bits"] - vae["test_bits"])
    assert {"test_frechet_training", "test_frechet_gaussian", "test_nearest_training"} <= gan.keys()
    run = neocog.train(DATA, task="reconstruct", task_options={"code": 4}, out=tmp_path / "auto", **SMALL)
    assert {"test_explained", "test_explained_pca"} <= run.metrics.keys() and run.metrics["test_numbers"] == 4
    seen = neocog.open_source(DATA).read(0)
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    plain, strange = run.predict([seen, noise])
    assert strange.unusual and len(plain.vector) == 4 and plain.made.shape == (16, 16, 3)
    assert plain.draw(seen).shape[1] == 3 * plain.draw(seen).shape[0]
    with pytest.raises(UsageError, match="makes no pictures; train one with --task vae"):
        run.sample(1)


def test_the_usual_adversaries_go_on_bit_for_bit(tmp_path: Path) -> None:
    steady = {**SMALL, "task": "gan", "task_options": {"latent": 8}, "set": {**SMALL["set"], "schedule": "constant"}}
    whole = neocog.train(DATA, out=tmp_path / "whole", **steady)
    first = neocog.train(DATA, out=tmp_path / "first", **{**steady, "epochs": 1})
    again = fit.resume(first.folder, epochs=2, progress=False)
    once, twice = whole.net().state_dict(), again.net().state_dict()
    assert all(torch.equal(once[k], twice[k]) for k in once)


def test_a_few_labels_are_learned_from_what_makes_pictures_again(runs: dict[str, fit.Run], tmp_path: Path) -> None:
    start = runs["vae"]
    for regime, given in (("features", "trunk."), ("all", "")):
        how = {"epochs": 1, "set": {"batch_size": 16, "lr": 1e-12}} if regime == "all" else {}
        run = neocog.train(DATA, start=start.folder, regime=regime, out=tmp_path / regime, progress=False, **how)
        own, kept = run.net().state_dict(), start.net().state_dict()
        names = [name for name in kept if name.startswith("trunk.net.layers") and name.endswith("0.weight")]
        assert names
        for name in names:
            assert torch.allclose(own[name.replace("trunk.net.", given)], kept[name], atol=1e-4)
        assert run.metrics["test_n"] > 0


def test_what_cannot_be_is_refused_with_advice() -> None:
    pictures = neocog.open_source(DATA)
    pictures.columns = {}
    with pytest.raises(DataError, match="--task reconstruct, vae or gan learns from pictures alone"):
        tasks.guess(pictures)
    with pytest.raises(UsageError, match="the task gan cannot share a trunk"):
        tasks.find("label+gan")
    for make, said in (
        (lambda: Reconstruct(mask=1.0), "mask from 0 to below 1"),
        (lambda: Vae(likelihood="logistics"), "did you mean 'logistic'"),
        (lambda: Vae(draws=0), "draws of at least 1"),
        (lambda: Gan(loss="originals"), "did you mean 'original'"),
        (lambda: Gan(critic=0.0), "critic above 0"),
    ):
        with pytest.raises(UsageError, match=said):
            make()
    halves: dict[str, Any] = {"task": "reconstruct", "task_options": {"mask": 0.5, "patch": 5}}
    with pytest.raises(UsageError, match=r"patches of 5 pixels do not divide pictures of 16 x 16.*patch=4"):
        neocog.train(DATA, **halves, **SMALL)
