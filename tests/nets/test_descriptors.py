"""Engineered descriptors against slow loops that say the same in the words of the papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import neocog
from neocog import nets
from neocog.errors import NetError, UsageError
from neocog.fit.run import records
from neocog.nets import descriptors
from neocog.nets.descriptors import colour, fisher, hog, lbp, sift, uniform_patterns

SIDE = 64


def picture(seed: int = 0, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def test_hog_is_that_of_dalal_and_triggs() -> None:
    x = picture()[0].double().numpy()
    cells = np.zeros((8, 8, 9))
    for r in range(SIDE):
        for c in range(SIDE):
            best, turn = -1.0, 0.0
            for plane in x:
                dx = plane[r, c + 1] - plane[r, c - 1] if 0 < c < SIDE - 1 else 0.0
                dy = plane[r + 1, c] - plane[r - 1, c] if 0 < r < SIDE - 1 else 0.0
                if math.hypot(dx, dy) > best:
                    best, turn = math.hypot(dx, dy), math.degrees(math.atan2(dy, dx)) % 180
            cells[r // 8, c // 8, min(8, int(turn // 20))] += best / 64  # the mean of the cell
    found = hog(picture())[0].double().view(4, 9, 7, 7)  # corner, orientation, block
    for r in range(7):
        for c in range(7):
            block = np.stack([cells[r + i, c + j] for i in (0, 1) for j in (0, 1)])
            block = np.minimum(block / math.sqrt((block**2).sum() + 1e-10), 0.2)
            block = block / math.sqrt((block**2).sum() + 1e-10)
            np.testing.assert_allclose(found[:, :, r, c], block, atol=2e-6)


def test_there_are_58_uniform_patterns() -> None:
    table = uniform_patterns()
    assert sorted(table.unique().tolist()) == list(range(59))
    assert int((table == 58).sum()) == 256 - 58  # Ojala et al. 2002, section 2.3: P (P - 1) + 2
    assert table[0b00111100] != 58 and table[0b01010000] == 58


def test_lbp_counts_patterns_in_cells() -> None:
    x = picture(1)
    g = descriptors.grey(x)[0].numpy()
    table, counts = uniform_patterns().numpy(), np.zeros((4, 4, 59))
    around = ((0, 1), (0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2))
    side = SIDE - 2
    for r in range(side):
        for c in range(side):
            code = sum(int(g[r + i, c + j] >= g[r + 1, c + 1]) << k for k, (i, j) in enumerate(around))
            counts[r * 4 // side, c * 4 // side, table[code]] += 1 / side**2
    np.testing.assert_allclose(lbp(x)[0], counts.ravel(), atol=1e-6)


def test_colours_are_counted_in_the_whole_and_in_quarters() -> None:
    x = torch.zeros(1, 3, SIDE, SIDE)
    x[:, 0, :, SIDE // 2 :] = 1.0  # red on the right
    whole, quarters = colour(x)[0, :64], colour(x)[0, 64:].view(2, 2, 64)
    red = 3 * 16
    assert whole[0] == whole[red] == 0.5
    assert (quarters[:, 0, 0] == 0.25).all() and (quarters[:, 1, red] == 0.25).all()


def test_sift_is_that_of_a_loop_over_pixels() -> None:
    """The 4 x 4 x 8 histogram of one place, each gradient shared among its neighbours in space and orientation."""
    x = picture(2)
    found, places = sift(x)
    assert found.shape[1:] == (places.shape[1], 128)
    size, top, left = 4, 2, 2  # the first descriptor: cells of 4 pixels, its first centre at (2, 2)
    g = descriptors._smoothed(descriptors.grey(x)[:, None], size / 6)[0, 0].double().numpy()
    edged = np.pad(g, 1, mode="edge")
    counts = np.zeros((4, 4, 8))
    for r in range(SIDE):
        for c in range(SIDE):
            dx, dy = edged[r + 1, c + 2] - edged[r + 1, c], edged[r + 2, c + 1] - edged[r, c + 1]
            turn = math.atan2(dy, dx) / (2 * math.pi) % 1 * 8
            low, share = int(turn) % 8, turn % 1
            for i in range(4):
                for j in range(4):
                    near = max(0, 1 - abs(r - top - i * size) / size) * max(0, 1 - abs(c - left - j * size) / size)
                    counts[i, j, low] += near * math.hypot(dx, dy) * (1 - share)
                    counts[i, j, (low + 1) % 8] += near * math.hypot(dx, dy) * share
    flat = np.minimum(counts.ravel() / np.linalg.norm(counts), 0.2)
    np.testing.assert_allclose(found[0, 0], np.sqrt(flat / flat.sum()), atol=1e-5)
    np.testing.assert_allclose(places[0, 0], (top + 1.5 * size) / SIDE - 0.5, atol=1e-6)


@pytest.mark.parametrize("first", [False, True])
def test_the_fisher_vector_is_the_gradient_that_it_is_defined_as(first: bool) -> None:
    """Perronnin et al. 2010, equations 8 and 9, from the derivative of the mean log likelihood."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 7, 3, generator=g, dtype=torch.float64)
    shares = torch.tensor([0.3, 0.7], dtype=torch.float64)
    means = torch.randn(2, 3, generator=g, dtype=torch.float64).requires_grad_()
    deviations = (0.5 + torch.rand(2, 3, generator=g, dtype=torch.float64)).requires_grad_()
    logs = shares.log() + torch.distributions.Normal(means, deviations).log_prob(x[0][:, None]).sum(2)
    belong = logs.softmax(1)[None].detach()
    made = fisher(x, belong, shares, means.detach(), deviations.detach() ** 2, first)
    if first:
        nearest = belong[0].argmax(1)
        parts = [((x[0][nearest == k] - means[k]) / deviations[k]).sum(0) / 7 for k in range(2)]
        torch.testing.assert_close(made[0], torch.cat(parts))
        return
    logs.logsumexp(1).mean().backward()
    assert means.grad is not None and deviations.grad is not None
    mean = means.grad * deviations / shares.sqrt()[:, None]  # the Fisher information is about diagonal
    spread = deviations.grad * deviations / (2 * shares).sqrt()[:, None]
    torch.testing.assert_close(made[0], torch.cat((mean, spread)).flatten().detach())


@pytest.mark.parametrize("encoding", descriptors.ENCODINGS)
def test_the_codebook_is_found_and_pictures_are_seen_one_by_one(encoding: str) -> None:
    net: Any = nets.build("descriptors", classes=3, kinds="sift", encoding=encoding, words=4)
    before = net.means.clone()
    net.prepare(picture(3, 6))
    assert not torch.equal(net.means, before) and abs(float(net.shares.sum()) - 1) < 1e-5
    torch.testing.assert_close(net.axes.T @ net.axes, torch.eye(64), atol=1e-4, rtol=0)
    both = net.forward_features(picture(4, 2))
    assert both.shape == (2, net.fc.in_features) and bool(both.isfinite().all())
    torch.testing.assert_close(net.forward_features(picture(4, 2)[1:]), both[1:])
    torch.testing.assert_close(both.norm(dim=1), torch.ones(2))


def test_late_fusion_averages_probabilities() -> None:
    layer = descriptors.Fused({"one": slice(0, 2), "two": slice(1, 5)}, classes=3)
    layer.shares.copy_(torch.tensor([0.25, 0.75]))
    layer.temperatures.copy_(torch.tensor([2.0, 1.0]))
    x = torch.randn(4, 5)
    one, two = (linear(x[:, part]) for linear, part in zip(layer.layers, layer.parts, strict=True))
    torch.testing.assert_close(layer(x).exp(), 0.25 * (one / 2).softmax(1) + 0.75 * two.softmax(1))
    assert layer.with_classes(7)(x).shape == (4, 7)


def test_unknown_descriptors_are_named() -> None:
    with pytest.raises(NetError, match=r"'hogg' .did you mean 'hog'"):
        nets.build("descriptors", kinds="hogg")


def test_a_run_fits_the_last_layer_and_predicts(tmp_path: Any) -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 60, (40, 32, 32, 3), dtype=np.uint8)
    pictures[20:, :, ::2] += 150  # stripes
    data = (pictures, np.repeat([0, 1], 20))
    how: dict[str, Any] = {
        "net": "descriptors",
        "net_options": {"kinds": "colour,hog", "fusion": "late"},
        "progress": False,
    }
    run = neocog.train(data, out=tmp_path / "run", **how)
    assert run.metrics["test_accuracy"] == 1.0
    (record,) = records(run.folder, "parts")
    assert [row["part"] for row in record["rows"]] == ["colour", "hog", "joined", "fused"]
    assert record["rows"][-1]["test"] == 1.0 and abs(sum(row["share"] for row in record["rows"][:3]) - 1) < 1e-5
    assert [one.label for one in run.predict([pictures[0], pictures[39]])] == ["0", "1"]
    assert run.report.exists()
    with pytest.raises(UsageError, match="needs gradient steps"):
        neocog.train("drawn:n=24,size=32", task="locate", out=tmp_path / "other", **how)
