"""Looking into nets of every task, at units, layers and collections."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from neocog import fit, look
from neocog.cli import app
from neocog.data import open_source
from neocog.data.source import Arrays
from neocog.errors import DataError, UsageError
from neocog.library import Library
from neocog.look.early import changed
from neocog.nets.vision import gabor
from neocog.records import Preprocess
from neocog.tasks.task import Task, build_net, find, names

SIDE = 32
PRE = Preprocess(SIDE, SIDE)
WHAT = {"match": None, "label": "second", "tags": "second", "segment": "20,12", "locate": "left", "detect": "1"}


def planned(name: str) -> Task:
    kind, source = find(name), open_source(f"drawn:n=16,size={SIDE}")
    settings = {**fit.recipes.recipe(kind.recipe or "standard").as_dict(), **kind.options}
    return kind.plan(source, np.arange(16), settings)


def opened(name: str) -> look.Subject:
    task = planned(name)
    torch.manual_seed(0)
    net = build_net(task, {"name": "placenet", "classes": task.outputs or 10, "in_channels": 3, "input_size": SIDE})
    return look.Subject(net, Preprocess(SIDE, SIDE, fit=task.fit), task, name=name)


def picture(i: int = 0) -> np.ndarray:
    found = open_source(f"drawn:n=4,size={SIDE}").read(i)
    assert isinstance(found, np.ndarray)
    return found


@pytest.fixture(scope="module")
def label() -> look.Subject:
    return opened("label")


_WORDLESS = [
    name
    for name in names()
    if "picture" in (find(name).inputs or ("picture",)) and "texts" not in find(name).needs.values()
]


def test_what_cannot_be_explained_is_said():
    seen = opened("caption")
    with pytest.raises(UsageError, match="what speaks for an answer of the task caption is not known"):
        seen.claim(seen.read(picture()), None, None)


@pytest.mark.parametrize("name", [*_WORDLESS, "label+pose"])
def test_every_task_says_what_speaks_for_its_answers(name):
    seen, other = opened(name), picture(1) if name == "match" else None
    task = seen.task
    batch = seen.read(picture())
    second = getattr(task, "classes", ("", ""))[1] if name in ("label", "tags") else None
    asked = [None, second or WHAT.get(name)]
    if name == "detect" and not len(seen.answer(batch).scores):
        pytest.skip("an untrained net found no box")
    for what in asked:
        claim = seen.claim(batch, what, other)
        x = batch.x.clone().requires_grad_()
        score = claim.score(seen.outputs(x))
        assert claim.name and score.shape == (1,)
        (slope,) = torch.autograd.grad(score.sum(), x)
        assert slope.isfinite().all() and slope.abs().max() > 0, what
        with torch.no_grad():
            assert claim.score(seen.outputs(batch.x.repeat(3, 1, 1, 1))).shape == (3,)
    for method in ("gradcam", "guided"):
        made = look.explain(seen, picture(), method=method, other=other)
        assert made.values.shape == (SIDE, SIDE) and made.draw().shape == (SIDE, SIDE, 3)
    if name != "match":
        with pytest.raises(UsageError, match=r"nothing like this|no .*'nothing like this'"):
            seen.claim(batch, "nothing like this")


def test_a_task_that_says_nothing_of_it_has_its_largest_output():
    class Odd(type(planned("label"))):  # type: ignore[misc]
        claim = Task.claim

    task = planned("label")
    task.__class__ = Odd
    batch = opened("label").read(picture())
    outputs = torch.tensor([[0.0, 3.0, 1.0]])
    assert float(task.claim(outputs, batch).score(outputs)) == 3.0
    with pytest.raises(UsageError, match="is not known"):
        task.claim({"a": outputs}, batch)


def test_match_needs_the_other_picture():
    with pytest.raises(UsageError, match="--with OTHER"):
        look.explain(opened("match"), picture())


def test_the_layer_for_a_map_is_deep_and_still_a_map(label):
    chosen = label.layer()
    assert chosen.shape[1:] == (4, 4) and not chosen.name.startswith("fc")
    assert opened("segment").layer().name == chosen.name  # a head for pixels has larger maps behind it
    with pytest.raises(UsageError, match="did you mean 'stages'"):
        label.layer("stage")
    sizes = [s.shape[-1] for s in label.levels() if len(s.shape) == 3]
    assert sizes == sorted(sizes, reverse=True) and len(label.levels()[-1].shape) == 1


def test_parameters_are_left_as_they_were(label):
    frozen = next(label.net.parameters())
    frozen.requires_grad_(False)
    before = [p.requires_grad for p in label.net.parameters()]
    look.explain(label, picture())
    assert [p.requires_grad for p in label.net.parameters()] == before and frozen.grad is None
    frozen.requires_grad_(True)


def test_errors_of_explain(label):
    with pytest.raises(UsageError, match="did you mean 'guided'"):
        look.explain(label, picture(), method="guidde")
    with pytest.raises(UsageError, match="layer= is for gradcam"):
        look.explain(label, picture(), method="guided", layer="stem")
    with pytest.raises(UsageError, match="no option like samples"):
        look.explain(label, picture(), method="gradcam", samples=3)
    with pytest.raises(DataError, match=r"gone.png cannot be read"):
        look.explain(label, "gone.png")
    with pytest.raises(UsageError, match="needs its preprocessing"):
        look.subject(nn.Conv2d(3, 2, 1))
    with pytest.raises(UsageError, match="does not read pictures"):
        look.subject("tdnn")


# ---------------------------------------------------------------- units


def spots(n: int = 12) -> Arrays:
    """Black pictures with one white spot of growing brightness, at other places."""
    made = np.zeros((n, SIDE, SIDE, 3), np.uint8)
    for i in range(n):
        made[i, 2 * i : 2 * i + 2, 30 - 2 * i : 32 - 2 * i] = 20 * i
    return Arrays(made, np.zeros(n, np.int64), ("spot",), name="spots")


def light() -> look.Subject:
    """A net whose unit 0 sees how light 6x6 pixels are, 1 how dark, and 2 nothing."""
    net = nn.Sequential(nn.Conv2d(3, 3, 6, 2, 2), nn.ReLU6(inplace=True), nn.Flatten(), nn.Linear(3 * 256, 2))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor([0.0, 0.5, -1.0]))
        net[0].weight[0] = 1.0
        net[0].weight[1] = -1.0
    return look.Subject(net, Preprocess(SIDE, SIDE, mean=(0.0,) * 3, std=(1.0,) * 3), name="light")


def test_top_patches_are_the_strongest_and_lie_in_the_receptive_field():
    top = look.top_patches(light(), spots(), "1", [0, 2], count=3)
    assert (top.layer, top.n, top.way, top.problems) == ("1", 12, "guided", [])
    assert [h.row for h in top.units[0]] == [11, 10, 9] and top.units[2] == ()
    best = top.units[0][0]
    assert best.value == pytest.approx(4 * 3 * 220 / 255, abs=0.01)  # beyond the 6 of ReLU6, which tells no two apart
    x0, y0, x1, y1 = best.box
    assert (x1 - x0, y1 - y0) == (6, 6) == best.patch.shape[:2][::-1]
    assert (x0, y0) == (2 * best.at[1] - 2, 2 * best.at[0] - 2) and best.patch.max() == 220
    assert best.below.std() >= 0 and best.below.shape == best.patch.shape
    sheet = top.sheet().draw()
    assert sheet.shape[1] == 1180 and sheet.std() > 0
    with pytest.raises(UsageError, match="no unit 3; expected 0 to 2"):
        look.top_patches(light(), spots(), "1", [3])


def test_patches_reach_beyond_the_border(label):
    top = look.top_patches(label, spots(), "stem", count=2)
    sizes = {h.patch.shape for hits in top.units.values() for h in hits}
    field = label.field("stem")
    assert field is not None and sizes == {(*field.size, 3)}


def test_what_a_unit_prefers_excites_it():
    seen = light()
    bright, dark = (look.prefer(seen, u, "1", steps=30, rate=0.1) for u in (0, 1))
    assert bright.shape == (6, 6, 3) and bright.mean() > 190 > 60 > dark.mean()
    assert np.array_equal(look.prefer(seen, 0, "1", steps=3), look.prefer(seen, 0, "1", steps=3))


def test_what_a_class_prefers(label):
    name = label.task.classes[1]  # type: ignore[attr-defined]
    made = look.prefer(label, name, steps=12)
    with torch.no_grad():
        p = label.outputs(torch.cat([label.read(v).x for v in (made, np.full_like(made, 127))])).softmax(1)[:, 1]
    assert made.shape == (SIDE, SIDE, 3) and p[0] > p[1]
    with pytest.raises(UsageError, match="leave out the layer"):
        look.prefer(label, name, "stem")


# ---------------------------------------------------------------- layers


def test_tuning_finds_the_gabor_filters_that_it_is_given():
    angles, waves = (0.0, np.pi / 4, np.pi / 2), (4.0, 8.0)
    parts = [gabor(0.5 * w, a, w)[k] for a in angles for w in waves for k in (0, 1)]
    filters = torch.zeros(len(parts) + 1, 3, 33, 33)
    for i, p in enumerate(parts):
        m = (33 - len(p)) // 2
        filters[i, :, m : m + len(p), m : m + len(p)] = p.float()
    filters[-1, 0], filters[-1, 1] = filters[0, 0], -filters[0, 0]  # red against green
    net = nn.Sequential(nn.Conv2d(3, len(filters), 33), nn.Flatten(), nn.Linear(len(filters) * 64, 2))
    net[0].weight.data = filters
    found = look.tuning(look.Subject(net, Preprocess(40, 40)))
    wanted = [(np.degrees(a), w) for a in angles for w in waves for _ in (0, 1)]
    assert [(round(a, 3), w) for a, w, _ in found.best[:-1]] == [(round(a, 3), w) for a, w in wanted]
    assert min(f for _, _, f in found.best) > 0.95
    assert found.colour[:-1].max() < 0.01 and found.colour[-1] == pytest.approx(1)
    assert found.draw().std() > 0


def test_activations_are_the_layers_own(label):
    made = look.activations(label, picture(), "stem")
    with torch.no_grad():
        wanted = label.net.get_submodule("stem")(label.read(picture()).x)[0]
    assert np.allclose(made, wanted.numpy(), atol=1e-5)
    assert look.maps_row(made, "stem").tiles[0].picture.std() > 0


def test_invariance_of_what_sees_the_mean_only():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    seen = look.Subject(net, PRE)
    wave = (127 + 100 * np.sin(np.arange(SIDE) * 2 * np.pi / 16))[None, :, None]
    striped = np.broadcast_to(wave, (SIDE, SIDE, 3)).astype(np.uint8).copy()
    made = look.invariance(seen, [striped], "shift", layers=["1", "2"], points=3)
    assert made.curves["1"][0] == 0 and made.curves["2"][0] == 0
    assert made.curves["1"][1] > 4 * made.curves["2"][1] > 0
    with pytest.raises(UsageError, match="shift, turn or scale"):
        look.invariance(seen, [striped], "bend")


def test_changes_move_pictures_as_they_say():
    x = torch.zeros(1, 1, 40, 40)
    x[0, 0, 10, 20] = 1

    def place(y: torch.Tensor) -> tuple[int, int]:
        row, column = divmod(int(y.flatten().argmax()), 40)
        return row, column

    assert place(changed(x, "shift", 20)) == (10, 28)
    assert place(changed(x, "turn", 90))[1] in (10, 29)
    assert place(changed(x, "scale", 2.0))[0] in (0, 1, 2)


# ---------------------------------------------------------------- the space


def test_the_space_keeps_groups_and_neighbours(tmp_path):
    g = np.random.default_rng(0)
    middles = 10 * g.standard_normal((3, 16))
    group = np.arange(30) % 3
    vectors = (middles[group] + g.standard_normal((30, 16))).astype(np.float32)
    read = lambda i: np.full((8, 8, 3), 80 * group[i], np.uint8)  # noqa: E731
    names_ = [f"{i}.png" for i in range(30)]
    for method in ("pca", "tsne"):
        made = look.space(vectors, read, names_, [f"g{k}" for k in group], method=method)
        assert made.places.min() == 0 and made.places.max() == 1 and made.method == method
        centres = np.stack([made.places[group == k].mean(0) for k in range(3)])
        nearest = np.linalg.norm(made.places[:, None] - centres, axis=2).argmin(1)
        assert (nearest == group).all()
        assert np.array_equal(made.places, look.space(vectors, read, names_, method=method).places)
    found = made.neighbours(4, 5)
    assert all(group[i] == group[4] and i != 4 for i, _ in found) and found[0][1] >= found[-1][1]
    text = made.to_html()
    assert text.count("<img") == 30 and "4.png - g1" in text
    with Image.open(made.save(tmp_path / "map.png")) as image:
        assert image.size == (1600, 1600)
    with pytest.raises(DataError, match="at least 3 pictures, got 2"):
        look.space(vectors[:2], read, names_[:2])
    with pytest.raises(UsageError, match="tsne or pca, got 'umap'"):
        look.space(vectors, read, names_, method="umap")


def test_many_vectors_need_opentsne(monkeypatch):
    monkeypatch.setattr("neocog.look.plane.LARGE", 20)
    monkeypatch.setitem(__import__("sys").modules, "openTSNE", None)
    with pytest.raises(UsageError, match=r"pip install 'neocog\[tsne\]'"):
        look.space(np.random.default_rng(0).standard_normal((30, 4)), lambda i: None, [""] * 30)


def test_many_vectors_with_opentsne(monkeypatch):
    pytest.importorskip("openTSNE")
    monkeypatch.setattr("neocog.look.plane.LARGE", 20)
    x = np.random.default_rng(0).standard_normal((40, 4)) + 20 * (np.arange(40) % 2)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = look.space(x, lambda i: np.zeros((4, 4, 3), np.uint8), [""] * 40)
    near = [made.neighbours(0, 3), np.linalg.norm(made.places - made.places[0], axis=1).argsort()[1:10]]
    assert all(i % 2 == 0 for i in near[1])


# ---------------------------------------------------------------- sheets and the command


def test_a_picture_is_looked_at(label, tmp_path):
    looked = look.look_at(label, [picture(), picture(1)], layer="stem", maps=True)
    one = looked[0].to_json()
    assert one["layer"] == "stem" and len(one["units"]) == 6 and one["maps"][0]["method"] == "gradcam"
    values = [u["value"] for u in one["units"]]
    assert values == sorted(values, reverse=True)
    sheet = look.sheet_of(label, looked)
    with Image.open(sheet.save(tmp_path / "a.png")) as image:
        assert image.width == 1180
    assert sheet.save(tmp_path / "a.html").read_text().count("<figure") >= 16
    with pytest.raises(UsageError, match=r"ends in .png, .jpg or .html, got 'a.xyz'"):
        sheet.save(tmp_path / "a.xyz")


def test_names_of_files_are_escaped_on_the_pages(tmp_path):
    bad = '<img onerror="x">.png'
    sheet = look.Sheet(bad, bad, [look.Row(bad, [look.Tile(picture(), bad)], text=bad)])
    made = look.space(np.eye(4), lambda i: picture(), [bad] * 4, [bad] * 4, method="pca")
    for text in (sheet.to_html(), made.to_html(bad)):
        assert "<img onerror" not in text


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("look")
    quiet = {"progress": False, "device": "cpu", "precision": "float32", "diagnosis": False}
    fit.train(f"drawn:n=40,size={SIDE}", epochs=1, out=folder / "run", net="placenet", **quiet)  # type: ignore[arg-type]
    for i in range(3):
        Image.fromarray(picture(i)).save(folder / f"{i}.png")
    return folder


def test_the_command(run_folder, monkeypatch):
    monkeypatch.chdir(run_folder)

    def called(*arguments: str, fails: int = 0) -> str:
        result = CliRunner().invoke(app, ["look", *arguments])
        assert result.exit_code == fails, result.output
        return result.stdout if not fails else result.stderr

    said = called("run", "0.png", "1.png")
    assert said.startswith("0.png: ") and Path("look.png").is_file()
    Path("look.png").unlink()
    found = json.loads(called("run", "0.png", "--json", "--method", "occlusion"))
    assert not Path("look.png").exists() and found["pictures"][0]["maps"][0]["method"] == "occlusion"
    layer = look.subject("run").layer().name
    data = f"drawn:n=6,size={SIDE}"
    found = json.loads(
        called("run", "0.png", "--layer", layer, "--unit", "3", "--over", data, "--json", "--html", "p.html")
    )
    assert list(found["top"]["units"]) == ["3"] and "What they prefer" in Path("p.html").read_text()
    assert "Gabor" in called("run", "--out", "filters.png") and Path("filters.png").is_file()
    said = called("run", f"drawn:n=9,size={SIDE}", "--map", "pca", "--out", "map.png")
    assert said.startswith("9 pictures, the two principal components") and Path("map.png").is_file()
    Path("photos").mkdir()
    for i in range(5):
        Path("photos", f"{i}.png").write_bytes(Path(f"{i % 2}.png").read_bytes() + bytes(i))
    Library.beside("photos").index("photos", net="run")
    said = called("photos", "--map", "pca", "--out", "map.png")
    assert said.startswith("5 pictures, the two principal components")
    assert "--unit needs --layer" in called("run", "--unit", "3", fails=2)
    assert "--near needs --map" in called("run", "--near", "0.png", fails=2)
    assert "--moved needs pictures" in called("run", "--moved", fails=2)
    assert "ends in .html" in called("run", "0.png", "--html", "p.png", fails=2)
    assert "--map needs a collection" in called("run", "--map", "tsne", fails=2)
