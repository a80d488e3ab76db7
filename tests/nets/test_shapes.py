"""Nets of other shapes: perceptron, Q-network, faces, sequences, video. Figures that any correct one must have."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from neocog import nets
from neocog.errors import NetError
from neocog.nets.clips import Inflated
from neocog.nets.sentence import k_max


def figures(name: str, **options: Any) -> tuple[int, int]:
    """Parameters, and multiply-adds of the operators that run for one example."""
    with torch.device("meta"):
        net = nets.build(name, **options).eval()
    with FlopCounterMode(display=False) as counter:
        net(nets.example(net).to("meta"))
    return sum(parameter.numel() for parameter in net.parameters()), counter.get_total_flops() // 2


def sizes(name: str, **options: Any) -> dict[str, tuple[int, ...]]:
    """Output shape of each layer for one example."""
    found = {}
    with torch.device("meta"):
        net = nets.build(name, **options).eval()
    for path, layer in net.named_modules():
        layer.register_forward_hook(lambda _, __, out, path=path: found.update({path: tuple(out.shape[1:])}))
    net(nets.example(net).to("meta"))
    return found


@pytest.mark.parametrize(
    ("name", "options", "params", "macs"),
    [
        ("mlp", {}, 308_310, 308_200),
        ("mlp", {"in_channels": 1, "input_size": 28}, 79_510, 79_400),
        ("mlp", {"in_channels": 1, "input_size": 28, "hidden": [500, 150]}, 469_160, 468_500),
        ("mlp", {"hidden": []}, 3073 * 10, 3072 * 10),
        ("mlp", {"hidden": [], "classes": 1}, 3073, 3072),  # one unit of the lectures
        ("mlp", {"hidden": [], "classes": 1, "input_size": 200}, 120_001, 120_000),
        ("mlp", {"activation": "maxout", "pieces": 5}, 3073 * 500 + 1010, 3072 * 500 + 1000),
        ("dqn_2015", {"classes": 4}, 1_686_180, 9_345_024),
        ("dqn_2015", {"classes": 6}, 1_687_206, 9_346_048),
        ("dqn_2015", {"classes": 18}, 1_693_362, 9_352_192),
        ("dqn_2013", {"classes": 4}, 4112 + 8224 + 663_808 + 1028, 1_638_400 + 663_552 + 663_552 + 1024),
        ("tdnn", {}, 8 * 49 + 3 * 41 + 3 * 2, 13 * 8 * 48 + 9 * 3 * 40),
        ("sentence_cnn", {"vocabulary": 100}, 30_300 + 360_300 + 602, 21_900_600),
        ("sentence_cnn", {"widths": [2], "maps": 7, "dimensions": 5, "vocabulary": 9}, 50 + 77 + 16, 57 * 70 + 14),
        ("c3d", {"classes": 101}, 78_409_573, 38_548_959_232 - 386 * 4096),  # as published for UCF-101
        ("clip_small", {"classes": 5}, 161_704 + 97 * 5, 55_738_368 + 96 * 5),
        ("clip_averaged", {"frames": 4, "classes": 3, "trunk": "resnet18"}, 11_178_051, 1_939_392_000),
        ("clip_frames", {"frames": 2}, 24_216, (44_827_136 - 512) // 8 + 512),
        ("two_stream", {}, 23_696 + 9 * 45 * 16 + 23_264 + 1_032, 2_801_664 + 1024 * (9 * 45 * 16) + 2_359_296 + 1024),
        ("vae", {"latent": 3}, 392_500 + 2 * 501 * 3 + 500 * 3 + 500 + 392_784, 392_000 * 2 + 500 * 9),
        ("vae", {"hidden": 400}, 652_824, 651_200),
    ],
)
def test_published_figures_of_options(name: str, options: dict[str, Any], params: int, macs: int) -> None:
    assert figures(name, **options) == (params, macs)


def test_figures_are_rows_of_the_facts(facts_folder: Path) -> None:
    found = 0
    with (facts_folder / "zoo.csv").open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            expected = (row["params"], row["macs"])
            if row["arch"] == "mlp":
                shape = [int(side) for side in row["input_chw"].split("x")]
                units = [int(number) for number in re.findall(r"\d+", row["variant_notes"].split(" ")[0])]
                assert units[0] == shape[0] * shape[1] ** 2
                options = {"in_channels": shape[0], "input_size": shape[1], "hidden": units[1:-1]}
                made = figures("mlp", classes=units[-1], **options)
            elif row["arch"] == "dqn_nature":
                made = figures("dqn_2015", classes=int(row["variant_notes"].split(" ")[0]))
            elif row["arch"] == "vae_kingma_mlp":
                made = figures("vae")
            elif row["arch"] == "vae_pytorch_example":
                made = figures("vae", hidden=400)
            else:
                continue
            assert tuple(map(str, made)) == expected
            found += 1
    assert found == 8


def test_deepface_has_the_papers_sizes() -> None:
    found = sizes("deepface")
    sides = [found[layer][1] for layer in ("c1", "m2", "c3", "l4", "l5", "l6")]
    assert sides == [142, 71, 63, 55, 25, 21]
    params, macs = figures("deepface")
    layers = [(32, 142, 11, 3), (16, 63, 9, 32), (16, 55, 9, 16), (16, 25, 7, 16), (16, 21, 5, 16)]
    full = 16 * 21**2 * 4096 + 4096 * 4030
    assert macs == sum(maps * side**2 * kernel**2 * before for maps, side, kernel, before in layers) + full
    with torch.device("meta"):
        net = nets.build("deepface")
    late = sum(p.numel() for name, p in net.named_parameters() if name[0] in "lf")
    assert late / params > 0.95  # "more than 95 % come from the local and fully connected layers"
    assert figures("deepface", classes=8631)[0] == 137_774_071  # trained again by others on VGGFace2


def test_c3d_has_the_papers_sizes() -> None:
    found = sizes("c3d")
    assert [found[f"features.pool{stage}"] for stage in (1, 2, 3, 4, 5)] == [
        (64, 16, 56, 56), (128, 8, 28, 28), (256, 4, 14, 14), (512, 2, 7, 7), (512, 1, 4, 4),
    ]  # fmt: skip
    side = {1: (16, 112), 2: (16, 56), 3: (8, 28), 4: (4, 14), 5: (2, 7)}
    convs = [(1, 3, 64), (2, 64, 128), (3, 128, 256), (3, 256, 256), (4, 256, 512), (4, 512, 512), (5, 512, 512)]
    convs.append(convs[-1])
    macs = sum(27 * before * after * side[stage][0] * side[stage][1] ** 2 for stage, before, after in convs)
    assert figures("c3d")[1] == macs + 8192 * 4096 + 4096**2 + 4096 * 487
    assert sizes("c3d", frames=8, input_size=64)["fc6"] == (4096,)


def test_tdnn_has_the_papers_connections() -> None:
    net = nets.build("tdnn")
    assert sum(net.connections().values()) == 6_233
    assert sum(parameter.numel() for parameter in net.parameters()) == 521
    assert sizes("tdnn")["hidden"] == (8, 13)
    assert sizes("tdnn")["phonemes.conv"] == (3, 9)


def test_tdnn_does_not_mind_when_a_sound_begins() -> None:
    torch.manual_seed(0)
    net = nets.build("tdnn").eval()
    sound = torch.randn(1, 16, 5)
    early, late = torch.zeros(1, 16, 30), torch.zeros(1, 16, 30)
    early[..., 8:13], late[..., 17:22] = sound, sound
    with torch.no_grad():
        torch.testing.assert_close(net(early), net(late))


def test_tdnn_learns_which_way_a_sound_glides() -> None:
    torch.manual_seed(0)
    net = nets.build("tdnn", classes=2)
    starts = torch.randint(0, 8, (64,))
    x = 0.1 * torch.randn(64, 16, 15)
    labels = torch.arange(64) % 2
    for picture, (start, up) in enumerate(zip(starts.tolist(), labels.tolist(), strict=True)):
        for step in range(7):
            x[picture, (4 + step) if up else (10 - step), start + step] += 2
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    assert (net(x).argmax(1) == labels).float().mean() > 0.95


def test_sentence_is_read_as_its_strongest_phrase_wherever_it_stands() -> None:
    torch.manual_seed(0)
    net = nets.build("sentence_cnn", vocabulary=50).eval()
    phrase = torch.tensor([7, 8, 9, 10, 11])
    first, last = torch.zeros(1, 56, dtype=torch.long), torch.zeros(1, 56, dtype=torch.long)
    first[0, 4:9], last[0, 50:55] = phrase, phrase
    with torch.no_grad():
        torch.testing.assert_close(net(first), net(last))


def test_sentence_against_a_slow_reading() -> None:
    torch.manual_seed(0)
    net = nets.build("sentence_cnn", vocabulary=20, dimensions=4, maps=3, widths=[2, 3]).double().eval()
    words = torch.tensor([[3, 7, 5, 20, 1]])
    net.requires_grad_(False)
    vectors = net.embedding.table.weight[[0, 0, *words[0].tolist(), 0, 0]]  # (9, 4)
    values = []
    for conv, width in zip(net.convs, (2, 3), strict=True):
        for row in range(3):
            windows = [vectors[i : i + width].T * conv.weight[row] for i in range(9 - width + 1)]
            values.append(max(max(0.0, float(window.sum() + conv.bias[row])) for window in windows))
    expected = net.fc(torch.tensor(values, dtype=torch.float64))
    torch.testing.assert_close(net(words)[0], expected)


def test_padding_stays_zero_and_static_words_stay_as_they_are() -> None:
    torch.manual_seed(0)
    net = nets.build("sentence_cnn", vocabulary=9, dimensions=4)
    net(torch.tensor([[1, 2, 3, 0, 0]])).square().sum().backward()
    table = net.embedding.table.weight
    assert not table[0].any() and not table.grad[0].any() and table.grad[1:4].any()
    given = torch.zeros(10, 256)
    given[4:] = torch.randn(6, 256)
    for how, trained in (("static", 0), ("tuned", 1), ("two", 1)):
        made = nets.build("sentence_cnn", vocabulary=9, vectors=how)
        before = made.embedding.table.weight[1].clone()
        made.take_vectors(lambda: given, [2])
        assert sum(p.requires_grad for p in made.embedding.parameters()) == trained
        got = made.embedding.table.weight
        assert (
            torch.equal(got[1], before)
            and not got[0].any()
            and nn.functional.cosine_similarity(got[5], given[5], 0) > 0.999
        )


@pytest.mark.parametrize("name", ["sentence_cnn", "sentence_collobert", "sentence_dcnn"])
def test_a_sentence_alone_and_among_longer_ones_gets_the_same_answer(name: str) -> None:
    torch.manual_seed(0)
    net = nets.build(name, vocabulary=30).double().eval()
    for conv in (m for m in net.modules() if isinstance(m, nn.Conv1d)):
        nn.init.normal_(conv.weight)
    words = torch.zeros(3, 21, dtype=torch.long)
    words[0, :1], words[1, :7], words[2] = 5, torch.arange(1, 8), torch.arange(1, 22)
    together = net(words)
    for row, length in enumerate((1, 7, 21)):
        torch.testing.assert_close(net(words[row : row + 1, :length])[0], together[row])
    assert net(torch.zeros(1, 1, dtype=torch.long)).isfinite().all()


def test_the_largest_values_stay_in_their_order() -> None:
    x = torch.tensor([[[3.0, 1.0, 4.0, 1.5, 5.0, 2.0]]])
    assert k_max(x, 3).tolist() == [[[3.0, 4.0, 5.0]]] and k_max(x[:, :, :2], 3).tolist() == [[[3.0, 1.0, 0.0]]]
    assert k_max(x, 3, torch.tensor([2])).tolist() == [[[4.0, 5.0, 0.0]]]


def test_mlp_activations() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 1, 3, 3)
    for activation, function in (("relu", torch.relu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid)):
        net = nets.build("mlp", in_channels=1, input_size=3, hidden=[5], activation=activation)
        hidden = function(x.flatten(1) @ net.hidden.fc1.weight.T + net.hidden.fc1.bias)
        torch.testing.assert_close(net.forward_features(x), hidden)
    dropped = nets.build("mlp", in_channels=1, input_size=3, hidden=[500], activation="tanh", dropout=0.5)
    share = (dropped.forward_features(x) == 0).float().mean().item()
    assert 0.4 < share < 0.6
    assert not (dropped.eval().forward_features(x) == 0).any()


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("mlp", {"hidden": [0]}, r"hidden is a list of numbers of units, such as \[500, 150\], got \[0\]"),
    ("mlp", {"activation": "reul"}, "must be 'relu', 'tanh', 'sigmoid' or 'maxout', got 'reul'"),
    ("mlp", {"dropout": 1}, "probability"),
    ("mlp", {"activation": "maxout", "pieces": 0}, "at least 1 piece"),
    ("deepface", {"dropout": -1}, "probability"),
    ("c3d", {"frames": 0}, "frames is the number of pictures"),
    ("c3d", {"dropout": 1.0}, "probability"),
    ("sentence_cnn", {"widths": []}, "widths is a list"),
    ("sentence_cnn", {"vocabulary": 0}, "vocabulary is the number of words"),
    ("sentence_cnn", {"dropout": 2}, "probability"),
    ("sentence_cnn", {"vectors": "tune"}, "did you mean 'tuned'"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetError, match=message), torch.device("meta"):
        nets.build(name, **options)


@pytest.mark.parametrize(
    ("name", "x", "message"),
    [
        ("mlp", torch.zeros(1, 3, 28, 28), r"shape \(B, 3, 32, 32\), got \(1, 3, 28, 28\); .*input_size"),
        ("dqn_2015", torch.zeros(1, 3, 84, 84), r"\(B, 4, 84, 84\), got \(1, 3, 84, 84\)"),
        ("tdnn", torch.zeros(1, 16, 6), r"at least 7.*\(1, 16, 6\)"),
        ("tdnn", torch.zeros(1, 1, 16, 15), r"at least 7.*\(1, 1, 16, 15\)"),
        ("sentence_cnn", torch.zeros(1, 64), "token ids, whole numbers.*got torch.float32"),
    ],
)
def test_wrong_inputs_are_refused_with_the_remedy(name: str, x: Tensor, message: str) -> None:
    with pytest.raises(NetError, match=message):
        nets.build(name)(x)


def test_an_inflated_net_gives_a_clip_that_stands_still_the_answer_of_its_picture() -> None:
    torch.manual_seed(0)
    plain = nets.build("efficientnet_lite0", weights="imagenet").eval()
    picture = torch.randn(2, 3, 48, 48)
    features = plain.forward_features(picture)
    for name in ("clip_inflated", "clip_averaged"):
        net = nets.build(name, classes=5, in_channels=3, input_size=48, frames=3).eval()
        net.take_weights()
        clip = picture[:, :, None].expand(-1, -1, 3, -1, -1)
        assert torch.allclose(net.eval().forward_features(clip), features, atol=1e-3)  # at the borders, too


def test_an_inflated_convolution_is_one_over_three_frames() -> None:
    torch.manual_seed(0)
    made = Inflated(nn.Conv2d(4, 6, 3, 2, 1, groups=2), 5)
    for tap in made.taps:
        nn.init.normal_(tap.weight)
    x = torch.randn(2, 4, 5, 8, 8)
    whole = torch.stack([tap.weight for tap in made.taps], 2)  # (6, 2, 3, 3, 3)
    still = nn.functional.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate")
    wanted = nn.functional.conv3d(still, whole, made.taps[1].bias, (1, 2, 2), (0, 1, 1), 1, 2)
    found = made(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 5)).transpose(1, 2)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_what_cannot_be_a_trunk_of_clips_is_refused() -> None:
    with pytest.raises(NetError, match="expected start=imagenet or random, got 'some'"):
        nets.build("clip_inflated", classes=2, in_channels=3, input_size=32, start="some")
    with pytest.raises(NetError, match="ends in a linear layer, such as resnet18, got squeezenet"):
        nets.build("clip_averaged", classes=2, in_channels=3, input_size=64, trunk="squeezenet1_1")
