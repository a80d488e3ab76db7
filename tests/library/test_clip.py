"""CLIP weights of a user's own as the space of a library; here a tiny CLIP that knows nothing."""

from __future__ import annotations

import json
import math
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from library.tiny import fill
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from neocog import Library, nets
from neocog.cli import app
from neocog.errors import FetchError, LibraryError
from neocog.library.clip import _net
from neocog.library.embed import model_name
from neocog.library.sentences import space_of, witness_of
from neocog.library.view import view_of
from neocog.text.clip import ClipSpace, shapes
from neocog.text.space import Space

WORDS = "a photo of red blue green dog cat man woman beach two men playing football".split()
WIDTH, LAYERS, CONTEXT, DIMENSIONS, HEADS = 8, 2, 12, 16, 2


@cache
def tokenizer() -> Tokenizer:
    """As CLIP's: bytes, pairs joined, the end of a word marked."""
    made = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, end_of_word_suffix="</w>", initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|startoftext|>", "<|endoftext|>"], show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(WORDS * 3, trainer)
    return made


def tensors(words: int, seed: int = 0) -> dict[str, Tensor]:
    """A CLIP of random weights, which half precision holds, by open_clip's names."""
    torch.manual_seed(seed)
    with torch.random.fork_rng():
        tower = nets.build("clip_resnet50", input_size=64, stages=[1, 1, 1, 1], width=8, dimensions=DIMENSIONS)
    state = {f"visual.{name}": value for name, value in tower.state_dict().items()}
    for name, shape in shapes(words, WIDTH, LAYERS, CONTEXT, DIMENSIONS).items():
        state[name] = torch.randn(shape) / max(1, len(shape)) + (".ln_" in name)
    return {name: value.half().float() if value.is_floating_point() else value for name, value in state.items()}


def written(folder: Path, state: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(state, folder / "open_clip_model.safetensors")
    model = {"quick_gelu": True, "text_cfg": {"heads": HEADS}, **config}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": {"mean": [0.4] * 3}})
    )
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("clips") / "tiny", tensors(tokenizer().get_vocab_size()))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Library:
    """12 pictures, looked at by a tiny CLIP in two runs."""
    folder = tmp_path_factory.mktemp("clip")
    fill(folder / "pictures", 12, side=64)
    library = Library.beside(folder / "pictures")
    library.store.note(folders=["."])
    first = library.learn_clip(clip, stop=lambda: True, say=lambda text: None)
    assert first.interrupted and (first.computed, library.folder.joinpath("sentences").exists()) == (12, False)
    second = library.learn_clip(clip, say=lambda text: None)
    assert not second.interrupted and second.computed == 0
    return library


class Texts(nn.Module):
    """CLIP's text tower as PyTorch's own layers, one text at a time."""

    def __init__(self, state: dict[str, Tensor], quick: bool) -> None:
        super().__init__()
        self.state = state
        act = (lambda x: x * torch.sigmoid(1.702 * x)) if quick else nn.functional.gelu
        self.layers = nn.ModuleList()
        for k in range(LAYERS):
            layer = nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, 0.0, activation=act, batch_first=True, norm_first=True
            )
            block = f"transformer.resblocks.{k}."
            own = {name[len(block) :]: value for name, value in state.items() if name.startswith(block)}
            names = {
                "attn": "self_attn",
                "ln_1": "norm1",
                "ln_2": "norm2",
                "mlp.c_fc": "linear1",
                "mlp.c_proj": "linear2",
            }
            for theirs, ours in names.items():
                own = {name.replace(theirs, ours): value for name, value in own.items()}
            layer.load_state_dict(own)
            self.layers.append(layer)

    def forward(self, ids: list[int]) -> Tensor:
        w = {name: value.double() for name, value in self.state.items()}
        x = (w["token_embedding.weight"][ids] + w["positional_embedding"][: len(ids)])[None]
        for layer in self.layers:
            x = layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(len(ids), dtype=torch.float64))
        x = nn.functional.layer_norm(x[0, -1], (WIDTH,), w["ln_final.weight"], w["ln_final.bias"])
        return nn.functional.normalize(x @ w["text_projection"], dim=0)


@pytest.mark.parametrize("quick", [True, False])
def test_texts_are_read_as_pytorch_reads_them(clip: Path, library: Library, quick: bool) -> None:
    own = space_of(library.store)
    assert isinstance(own, ClipSpace)
    space = ClipSpace(own.weights, {**own.about, "quick": quick}, tokenizer())
    texts = ["two men playing football", "RED", "", "a cat " * 20, "ünï?"]
    reference = Texts(tensors(tokenizer().get_vocab_size()), quick).double().eval()
    found = space.read(texts)
    for text, row in zip(texts, found, strict=True):
        ids = tokenizer().encode(text).ids[: CONTEXT - 2]
        vocabulary = tokenizer().get_vocab()
        with torch.no_grad():
            expected = reference([vocabulary["<|startoftext|>"], *ids, vocabulary["<|endoftext|>"]])
        assert np.abs(expected.numpy() - row).max() < 1e-4
    assert np.array_equal(space.read(texts[::-1]), found[::-1])  # remembered
    assert np.array_equal(space.read(["red\udcff"]), space.read(["red"])) and len(space.read([])) == 0


def test_the_space_stands_in_the_library_and_answers(library: Library, clip: Path) -> None:
    store, space = library.store, space_of(library.store)
    assert isinstance(space, ClipSpace) and space.trunk == store.model and store.model.startswith("clip_resnet50_")
    card = store.models()[space.trunk]
    assert card["preprocess"]["mean"] == [0.4] * 3 and card["preprocess"]["size"] == 64 and card["classes"] == 0
    assert {"dog", "football"} <= set(space.about["words"]) and len(space.about["common"]) > 200

    witness = witness_of(view_of(store))
    assert witness is not None and witness.away == 0
    assert witness.knows("two men playing football") and not witness.knows("zxqwv")
    hashes, vectors = store.vectors(space.trunk)
    x = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    bank = space.read([f"a photo of {word}" for word in space.about["common"]])
    scale = math.exp(float(tensors(tokenizer().get_vocab_size())["logit_scale"]))
    for text, asked in (("red dog", "red dog"), ("dog", "a photo of dog")):
        odds = scale * (x @ space.read([asked])[0] - (x @ bank.T).max(1))
        assert np.allclose(
            witness.probability(text)[view_of(store).rows_of(hashes)], 1 / (1 + np.exp(-odds)), atol=0.01
        )

    found = library.search("two men playing football", top=3, threshold=0)
    reasons = [reason for hit in found for reason in hit.reasons if reason.kind == "sentence"]
    assert len(found) == 3 and reasons and not found.not_understood
    assert all(word in "two men playing football" for r in reasons for word in r.text.split(": ")[1].split(", "))
    space.save(clip.parent / "again")
    again = Space.load(clip.parent / "again")
    assert again.fingerprint == space.fingerprint and np.allclose(
        again.sentences(["a dog"]), space.sentences(["a dog"])
    )


def test_what_is_as_near_as_the_nearest_phrase_has_one_half(library: Library) -> None:
    space: Any = space_of(library.store)
    picture = space.read(["a photo of beach"])  # a picture that is just that
    product = (space.pictures(picture) @ space.sentences(["beach"]).T)[:, 0]
    assert space.probability(product, "beach") == pytest.approx(0.5, abs=1e-3)
    assert space.pictures(picture).shape == (1, space.dimensions) == (1, DIMENSIONS + 1)


def test_words_are_weighed_by_what_is_lost_without_them(library: Library) -> None:
    space: Any = space_of(library.store)
    picture = space.pictures(space.read(["red dog beach"]))[0]
    added = dict(space.contributions("red dog beach", picture))
    whole, without = space.read(["red dog beach", "red beach"]) @ picture[:-1]
    assert added["dog"] == pytest.approx(float(whole - without), abs=1e-5)
    assert space.contributions("dog", -space.pictures(space.read(["a photo of dog"]))[0]) == [("dog", 1.0)]


def test_new_pictures_are_looked_at_and_the_same_weights_change_nothing(
    library: Library, clip: Path, run_cli: Any
) -> None:
    files = [library.folder / "sentences" / name for name in ("space.safetensors", "space.json", "tokenizer.json")]
    before = [file.stat().st_mtime_ns for file in files]
    fill(library.folder.parent, 1, start=40, side=64)
    said = run_cli("learn-sentences", str(library.folder), "--clip", str(clip), "--quiet")
    assert "1 new, 12 unchanged" in said and "sentences are found with" in said
    assert [file.stat().st_mtime_ns for file in files] == before
    model = library.store.model
    fill(library.folder.parent, 1, start=41, side=64)
    assert library.index(net=model).computed == 1 and library.store.model == model  # what the note says to type
    with pytest.raises(LibraryError, match=r"does not learn from captions.*--forget"):
        library.learn_sentences()
    assert "is removed" in run_cli("learn-sentences", str(library.folder), "--forget")
    assert type(space_of(library.store)) is Space


def test_a_state_dict_alone_is_read_as_openais(clip: Path, library: Library, tmp_path: Path) -> None:
    said: list[str] = []
    state = {f"module.{name}": value for name, value in tensors(tokenizer().get_vocab_size(), seed=1).items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "RN.pt")
    (tmp_path / "tokenizer.json").write_bytes((clip / "tokenizer.json").read_bytes())
    library.learn_clip(tmp_path / "RN.pt", say=said.append)
    space: Any = space_of(library.store)
    assert (space.about["quick"], space.about["heads"]) == (True, 1) and "read as those of OpenAI" in said[0]
    assert space.trunk == library.store.model and len(library.store.models()) == 2


def test_what_is_no_such_clip_is_refused(clip: Path, library: Library, tmp_path: Path) -> None:
    def refused(named: Path | str, why: str) -> None:
        with pytest.raises(LibraryError, match=why):
            library.learn_clip(named, say=lambda text: None)

    state = tensors(tokenizer().get_vocab_size())
    read = r"; expected a folder with open_clip_model.safetensors.*timm/resnet50_clip\.openai"
    refused(tmp_path, "has none of the files open_clip_model.safetensors, ")
    refused("nowhere", "there is no 'nowhere'; expected a folder with open_clip_model.safetensors")
    other = {"visual.trunk.stem.0.weight": torch.zeros(1), "token_embedding.weight": torch.zeros(2, 2)}
    refused(written(tmp_path / "convnext", other), f"a CLIP that sees pictures with ConvNeXt{read}")
    refused(written(tmp_path / "vit", {"visual.class_embedding": torch.zeros(1)}), f"a vision transformer{read}")
    refused(
        written(tmp_path / "none", {"weight": torch.zeros(1)}), "no CLIP with a ResNet: visual.attnpool.c_proj.weight"
    )
    lacking = {name: value for name, value in state.items() if "resblocks.1.ln_2.bias" not in name}
    refused(written(tmp_path / "lacking", lacking), r"lacks transformer.resblocks.1.ln_2.bias")
    short = {**state, "token_embedding.weight": state["token_embedding.weight"][:100]}
    refused(written(tmp_path / "short", short), r"tokens, and the weights are for 100")
    written(tmp_path / "wordless", state).joinpath("tokenizer.json").unlink()
    refused(tmp_path / "wordless", "tokenizer.json is needed and cannot be read")
    (tmp_path / "wordless" / "tokenizer.json").write_text(Tokenizer(models.BPE()).to_str())
    refused(tmp_path / "wordless", "no tokenizer of CLIP: it has no <|startoftext|> and".replace("|", "."))
    config = written(tmp_path / "config", state) / "open_clip_config.json"
    for text, why in (
        ('{"model_cfg": [1]}', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"model_cfg": {"text_cfg": {"heads": "x"}}}', "cannot be read"),
        ('{"model_cfg": {"text_cfg": {"heads": 3}}}', "8 numbers, 3 heads"),
        ('{"model_cfg": {"text_cfg": {"heads": -2}}}', "8 numbers, -2 heads"),
        ('{"preprocess_cfg": {"mean": [1, 2]}}', "expected three numbers as mean and std"),
        ('{"preprocess_cfg": {"std": [0, 0, 0]}}', "expected three numbers as mean and std"),
    ):
        config.write_text(text)
        refused(tmp_path / "config", why)
    for number, (name, value, why) in enumerate(
        [
            ("text_projection", torch.full((WIDTH, DIMENSIONS), math.nan), "text_projection of the text tower has"),
            ("text_projection", torch.full((WIDTH, DIMENSIONS), 1e9), "text_projection of the text tower has"),
            ("token_embedding.weight", torch.tensor(1.0), "token_embedding.weight is missing"),
            ("visual.attnpool.positional_embedding", torch.zeros(0, 256), "positional_embedding is missing"),
            ("positional_embedding", torch.zeros(2, WIDTH), "and 2 tokens are no text tower"),
        ]
    ):
        refused(written(tmp_path / f"damaged{number}", {**state, name: value}), why)
    torch.save({**state, "visual.conv3.weight": 3}, tmp_path / "number.pt")
    refused(tmp_path / "number.pt", "visual.conv3.weight is missing")
    refused("x" * 5000, "there is no 'x")
    with zipfile.ZipFile(tmp_path / "RN50.pt", "w") as program:
        program.writestr("RN50/code/multimodal/model.py", "")
    refused(tmp_path / "RN50.pt", f"is a program .TorchScript., which is not run here{read}")


def test_pictures_that_are_prepared_otherwise_are_looked_at_anew(clip: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"quick": True, "heads": HEADS, "mean": [0.4] * 3, "std": [0.3] * 3}
    state = tensors(tokenizer().get_vocab_size())
    names = [model_name(*_net(state, {**config, "mean": [mean] * 3})) for mean in (0.4, 0.5, 0.4)]
    assert names[0] == names[2] != names[1]


def test_a_name_is_fetched_from_the_hub(clip: Path, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import sys

    asked: list[str] = []

    def download(repository: str, file: str, local_files_only: bool = False) -> str:
        if local_files_only:
            raise FileNotFoundError(file)
        asked.append(f"{repository} {file}")
        return str(clip / file)

    checksum = hashlib.sha256((clip / "open_clip_model.safetensors").read_bytes()).hexdigest()
    weights = SimpleNamespace(rfilename="open_clip_model.safetensors", size=7, lfs={"sha256": checksum})
    api = SimpleNamespace(model_info=lambda *_, **__: SimpleNamespace(id="some/clip", siblings=[weights]))
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=lambda: api, hf_hub_download=download))
    said: list[str] = []
    library.learn_clip("some/clip", say=said.append)
    assert said[0] == "fetching the CLIP some/clip (0.0 MB) from the Hugging Face hub, some/clip"
    assert sorted(asked) == [f"some/clip {name}" for name in sorted(p.name for p in clip.iterdir())]

    def refuse(*_: str, **__: bool) -> str:
        raise ValueError("a name may not begin with '.'")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=refuse))
    with pytest.raises(FetchError, match=r"'\.\./x' is no name of a repository of the hub: a name may not"):
        library.learn_clip("../x", say=said.append)


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]):
    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            app(list(words))
        out = capsys.readouterr()
        assert left.value.code == 0, out.err
        return out.out

    return run
