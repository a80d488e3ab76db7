"""Language models: sizes in closed form, equations, one word at a time, and the search for sentences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from neocog.errors import NetError
from neocog.nets.beam import Sentences, best, sample, search
from neocog.nets.language import (
    END,
    START,
    AttendingDecoder,
    ConvDecoder,
    FactoredLogBilinear,
    LanguageModel,
    LogBilinear,
    LstmDecoder,
    language_model,
)

V, K, D, N = 23, 8, 6, 3


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def models() -> dict[str, LanguageModel]:
    torch.manual_seed(0)
    return {
        "lbl": LogBilinear(V, K, context=N),
        "lbl diagonal": LogBilinear(V, K, context=N, diagonal=True),
        "mlbl-b": LogBilinear(V, K, D, context=N),
        "mlbl-b hidden": LogBilinear(V, K, D, context=N, hidden=5),
        "mlbl-f": FactoredLogBilinear(V, K, D, context=N, factors=7),
        "lstm": LstmDecoder(V, K, D, 9),
        "conv": ConvDecoder(V, K, D, depth=3, kernel=3),
        "attend": AttendingDecoder(V, K, D, width=8, cells=3, heads=2),
    }


@pytest.fixture(params=list(models()))
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return models()[request.param].eval()


def test_sizes_are_those_of_the_papers() -> None:
    sizes = {name: count(net) for name, net in models().items()}
    assert sizes["lbl"] == V * K + V + N * K * K
    assert sizes["lbl diagonal"] == V * K + V + N * K
    assert sizes["mlbl-b"] == sizes["lbl"] + K * D
    assert sizes["mlbl-b hidden"] == sizes["lbl"] + K * 5 + 5 * D + 5
    factors = 7
    assert sizes["mlbl-f"] == factors * (V + K + D) + V + N * K * K + K * D
    assert sizes["lstm"] == V * K + K * D + K + 4 * 9 * (K + 9) + 2 * 4 * 9 + 9 * V + V  # torch has two biases
    first, later = 2 * K * (2 * K * 3 + 2), 2 * K * (K * 3 + 2)  # a scale (weight norm) and a bias for each output
    assert (
        sizes["conv"] == V * K + (D + 1) * K + first + 2 * later + (2 * K + 1) * K + (K + 1) * K // 2 + (K // 2 + 1) * V
    )
    c, w = D // 3, 8  # channels of a part, and the state's width
    lstm = 4 * w * (2 * K + w) + 2 * 4 * w
    seen, looks = (c + 1) * K + 3 * c, (w + 1) * w + (c + 1) * 2 * w + (2 * w + 1) * w
    assert sizes["attend"] == V * K + lstm + seen + looks + (w + 1) * V


def test_the_log_bilinear_equation() -> None:
    net = LogBilinear(V, K, D, context=N).eval()
    words, x = torch.tensor([START, 7, 9, 4]), torch.randn(D)
    r = net.picture.weight @ x  # type: ignore[union-attr]
    for i in range(N):  # C_i belongs to the i-th word before, the convolution's last tap to the nearest
        r = r + net.contexts.weight[:, :, N - 1 - i] @ net.vectors.weight[words[-1 - i]]
    assert torch.allclose(net(x[None], words[None])[0, -1], net.vectors.weight @ r + net.bias, atol=1e-5)


def test_the_factored_equation() -> None:
    net = FactoredLogBilinear(V, K, D, context=N, factors=7).eval()
    words, x = torch.tensor([START, 7, 9, 4]), torch.randn(D)
    folded = net.of_vector.weight.T @ net.vectors.weight.T  # (K, V)
    r = net.picture.weight @ x  # type: ignore[union-attr]
    for i in range(N):
        r = r + net.contexts.weight[:, :, N - 1 - i] @ folded[:, words[-1 - i]]
    f = (net.of_vector.weight @ r) * (net.of_picture.weight @ x)
    assert torch.allclose(net(x[None], words[None])[0, -1], net.vectors.weight @ f + net.bias, atol=1e-5)


def test_a_word_at_a_time_is_the_whole_sentence(model: LanguageModel) -> None:
    features, ids = torch.randn(4, D), torch.randint(4, V, (4, 9))
    ids[:, 0] = START
    with torch.no_grad():
        whole, state = model(features, ids), model.begin(features)
        for t in range(9):
            logits, state = model.step(state, ids[:, t])
            assert torch.allclose(logits, whole[:, t], atol=1e-5)


def test_some_places_alone_are_those_of_all(model: LanguageModel) -> None:
    features, ids = torch.randn(2, D), torch.randint(4, V, (2, 6))
    where = torch.rand(2, 6) < 0.5
    assert torch.allclose(model(features, ids, where), model(features, ids)[where], atol=1e-5)


def test_no_word_sees_what_comes_after_it(model: LanguageModel) -> None:
    features, ids = torch.randn(2, D), torch.randint(4, V, (2, 8))
    other = ids.clone()
    other[:, 5:] = 4 + (ids[:, 5:] - 3) % (V - 4)
    a, b = model(features, ids), model(features, other)
    assert torch.allclose(a[:, :5], b[:, :5], atol=1e-6) and not torch.allclose(a[:, 5:], b[:, 5:])


def test_the_picture_matters(model: LanguageModel) -> None:
    ids = torch.randint(4, V, (1, 5))
    a, b = model(torch.randn(1, D), ids), model(torch.randn(1, D), ids)
    assert torch.allclose(a, b) != bool(model.features)


def test_where_parts_lie_is_told_by_their_places_alone() -> None:
    net = AttendingDecoder(V, K, D, width=8, cells=3, heads=2).eval()
    parts = torch.randn(1, 2, 3)  # (B, channels, cells)
    torch.nn.init.zeros_(net.places)  # without them the order of the parts says nothing
    words = torch.tensor([[START, 7, 9]])
    turned = parts[:, :, [2, 0, 1]].flatten(1)
    assert torch.allclose(net(parts.flatten(1), words), net(turned, words), atol=1e-6)
    torch.nn.init.normal_(net.places)
    assert not torch.allclose(net(parts.flatten(1), words), net(turned, words), atol=1e-3)


def test_unknown_models_are_refused() -> None:
    with pytest.raises(NetError, match="take 12"):
        language_model("attend", V, D, width=10)
    with pytest.raises(NetError, match="did you mean 'lstm'"):
        language_model("ltsm", V, D)
    with pytest.raises(NetError, match="cannot be built so"):
        language_model("lstm", V, D, factors=3)
    assert isinstance(language_model("mlbl-f", V, D, factors=3), FactoredLogBilinear)


# ---------------------------------------------------------------- search


class Table(LanguageModel):
    """The next word depends on the last one alone, by a table of logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.table, self.words, self.features = logits, len(logits), 1

    def forward(
        self, features: torch.Tensor | None, ids: torch.Tensor, where: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.table[ids]

    def begin(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (features,)

    def step(self, state: tuple[torch.Tensor, ...], ids: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        return self.table[ids] + 3 * state[0], state


def best_of_all(model: Table, longest: int, length: float) -> list[tuple[float, tuple[int, ...]]]:
    """All sentences of up to `longest` words with the end, the best first."""
    log_p = model.table.log_softmax(1)
    found = []
    for size in range(1, longest):
        for words in itertools.product(range(4, model.words), repeat=size):
            trigrams = [words[i : i + 3] for i in range(len(words) - 2)]
            if len(set(trigrams)) == len(trigrams):
                path = (START, *words, END)
                total = sum(float(log_p[a, b]) for a, b in itertools.pairwise(path))
                found.append((total / (size + 1) ** length, words))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("length", [0.0, 0.7, 1.0])
def test_a_wide_beam_finds_the_best_sentences(length: float) -> None:
    torch.manual_seed(int(length * 10))
    model = Table(2 * torch.randn(8, 8))
    found = search(model, torch.zeros(2, 1), n=3, beam=200, longest=6, length=length)
    truth = best_of_all(model, 6, length)[:3]
    for b in range(2):
        for k, (score, words) in enumerate(truth):
            assert found.ids[b, k].tolist()[: len(words) + 1] == [*words, 0]
            assert float(found.log_p[b, k] / found.words[b, k] ** length) == pytest.approx(score, abs=1e-4)


def test_something_else_may_choose_among_the_sentences() -> None:
    torch.manual_seed(3)
    found = search(Table(2 * torch.randn(8, 8)), torch.zeros(1, 1), n=5, beam=50, longest=6)
    assert torch.equal(best(found, torch.zeros(1, 5), 2).ids, found.ids[:, :2])
    chosen = best(found, torch.tensor([[0.0, 0.0, 0.0, 99.0, 50.0]]), 2)
    assert torch.equal(chosen.ids, found.ids[:, [3, 4]]) and torch.equal(chosen.log_p, found.log_p[:, [3, 4]])
    none = Sentences(found.ids, torch.full_like(found.log_p, -1e30).index_fill(1, torch.tensor([4]), -9.0), found.words)
    assert torch.equal(best(none, torch.tensor([[99.0, 0, 0, 0, -99.0]]), 1).ids, found.ids[:, 4:])  # 0 to 3: not found


def test_a_batch_gives_what_each_picture_gives_alone() -> None:
    torch.manual_seed(1)
    net, features = LstmDecoder(V, K, D, 9).eval(), torch.randn(5, D)
    together = search(net, features, n=2, beam=4)
    for b in range(5):
        alone = search(net, features[b : b + 1], n=2, beam=4)
        assert torch.equal(alone.ids[0], together.ids[b])
        assert torch.allclose(alone.log_p[0], together.log_p[b], atol=1e-4)


def test_log_p_is_that_of_the_words(model: LanguageModel) -> None:
    features = torch.randn(3, D)
    found = search(model, features, beam=3, longest=9)
    for b in range(3):
        words = [w for w in found.ids[b, 0].tolist() if w]
        ends = len(words) < found.words[b, 0]  # else it was cut
        path = [START, *words, *([END] if ends else [])]
        log_p = model(features[b : b + 1], torch.tensor([path[:-1]])).detach()[0].log_softmax(1)
        assert float(log_p[range(len(path) - 1), path[1:]].sum()) == pytest.approx(float(found.log_p[b, 0]), abs=1e-3)
        assert float(found.words[b, 0]) == len(path) - 1


def test_no_three_words_come_twice_and_no_marks() -> None:
    logits = torch.full((7, 7), -9.0)
    logits[:, 4] = 5.0  # the same word for ever
    logits[:, [0, 1, 2]] = 9.0  # marks
    found = search(Table(logits), torch.zeros(1, 1), beam=2, longest=12)
    words = [w for w in found.ids[0, 0].tolist() if w]
    assert len({tuple(words[i : i + 3]) for i in range(len(words) - 2)}) == len(words) - 2 and min(words) > 3


def test_given_words_come_first_and_do_not_count() -> None:
    torch.manual_seed(2)
    model = Table(2 * torch.randn(9, 9))
    found = search(model, torch.zeros(1, 1), n=2, beam=9, first=[7, 5], longest=8)
    assert found.ids[0, :, :2].tolist() == [[7, 5]] * 2
    words = [w for w in found.ids[0, 0].tolist() if w]
    log_p = model.table.log_softmax(1)
    path = [5, *words[2:], END]
    ends = len(words) - 2 < found.words[0, 0]
    assert float(found.log_p[0, 0]) == pytest.approx(
        sum(float(log_p[a, b]) for a, b in itertools.pairwise(path if ends else path[:-1])), abs=1e-4
    )


def test_samples_are_as_frequent_as_they_are_likely() -> None:
    logits = torch.full((6, 6), -math.inf)
    logits[START, 4], logits[START, 5] = math.log(0.8), math.log(0.2)
    logits[4:, END] = 0.0
    logits[[0, 1, END], 4] = 0.0
    g = torch.Generator().manual_seed(0)
    found = sample(Table(logits), torch.zeros(1, 1), n=2000, generator=g)
    share = (found.ids[0, :, 0] == 4).double().mean()
    assert float(share) == pytest.approx(0.8, abs=0.03)
    assert found.log_p[0, 0] >= found.log_p[0, -1] and float(found.words[0, 0]) == 2
    assert float(found.log_p[0, 0]) == pytest.approx(math.log(0.8), abs=1e-4)
    cold = sample(Table(logits), torch.zeros(1, 1), n=500, temperature=0.3, generator=g)
    assert (cold.ids[0, :, 0] == 4).double().mean() > 0.95
