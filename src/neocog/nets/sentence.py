"""Convolution over the words of a sentence, and the largest values over time.

- Convolutional Neural Networks for Sentence Classification. Kim 2014, arXiv:1408.5882 (`sentence_cnn`). Film reviews
  (MR), positive or negative: 76.1 % from random word vectors, 81.0 % with given ones (vectors="static"), 81.5 % with
  those trained further ("tuned"), 81.1 % with both ("two"). SST-2: 82.7, 86.8, 87.2 and 88.1 %. TREC: 91.2, 92.8, 93.6
  and 92.2 %.
- Natural Language Processing (Almost) from Scratch. Collobert, Weston, Bottou, Karlen, Kavukcuoglu, Kuksa, JMLR 12,
  2011, section 3.3.2, the sentence approach (`sentence_collobert`): one layer of windows, the largest of each filter,
  a hidden layer with a hard tanh. Made for the roles of words; without the positions that these need it classifies.
- A Convolutional Neural Network for Modelling Sentences. Kalchbrenner, Grefenstette, Blunsom 2014, arXiv:1404.2188
  (`sentence_dcnn`): each number of a word's vector has filters of its own, the k largest values stay, in their order, k
  by the length of the sentence; pairs of rows are added. SST-2 86.8 %, TREC 93.0 %.

Output shapes of sentence_cnn, 18,765 words; the authors put four zeros at either end of up to 56 words, as it does:

    words, padded        B 56
    embedding            B 300 64
    convs, 3, 4, 5       B 100 62, B 100 61, B 100 60
    largest over time    B 300
    fc                   B 2
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError, closest
from ..records import Facts
from .layers import Classifier, check_dropout
from .registry import options, register

VECTORS = ("random", "static", "tuned", "two")
GIVEN = 256  # numbers of a given vector, those of wordllama


class WordVectors(nn.Module):
    """A vector for each id; 0, the padding, has none.

    Args:
        vocabulary: number of ids without the padding. dimensions: of a vector that is not given.
        how: "random": learned; "static": given; "tuned": given, and learned further; "two": both, added up, which is
            what Kim's two channels with common filters are.
    """

    def __init__(self, vocabulary: int, dimensions: int, how: str) -> None:
        super().__init__()
        if vocabulary < 1:
            raise NetError(f"vocabulary is the number of words, at least 1, got {vocabulary!r}")
        if how not in VECTORS:
            raise NetError(f"unknown vectors {how!r}{closest(str(how), VECTORS)}; expected one of {', '.join(VECTORS)}")
        self.how, self.size = how, dimensions if how == "random" else GIVEN
        parts = [nn.Embedding(vocabulary + 1, self.size, padding_idx=0) for _ in range(1 + (how == "two"))]
        with torch.no_grad():  # as Kim's code does
            for part in parts:
                nn.init.uniform_(part.weight, -0.25, 0.25)
                part.weight[0].zero_()
        self.table, self.fixed = parts[0], parts[1] if how == "two" else None
        if how in ("static", "two"):
            (self.table if self.fixed is None else self.fixed).weight.requires_grad_(False)

    @torch.no_grad()
    def give(self, vectors: Tensor) -> None:
        """Take the directions of given vectors float (ids, 256); where one is zeros, as of unknown words, the random
        one stays. Given lengths say how usual a word is (*the*: 2, nouns: 12), and all get the mean one of random ones.
        """
        known = vectors.any(1)
        vectors = F.normalize(vectors, dim=1) * self.table.weight[1:].norm(dim=1).mean()
        for part in [self.table] if self.fixed is None else [self.table, self.fixed]:
            part.weight[known] = vectors[known].to(part.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L), or (B, L, T), parts of words whose mean is taken -> (B, size, L)."""
        if ids.is_floating_point() or ids.ndim not in (2, 3):
            raise NetError(
                f"expected token ids, whole numbers of shape (B, L), got {ids.dtype} of shape {tuple(ids.shape)}"
            )
        x = _looked_up(self.table.weight, ids)
        return (x if self.fixed is None else x + _looked_up(self.fixed.weight, ids)).transpose(1, 2)


def _looked_up(table: Tensor, ids: Tensor) -> Tensor:
    if ids.ndim == 2:
        return F.embedding(ids.long(), table, padding_idx=0)
    if torch.jit.is_tracing():  # graphs have no embedding_bag that leaves out padding
        count = ids.ne(0).sum(2, keepdim=True).clamp(min=1)
        return (F.embedding(ids.long(), table) * ids.ne(0)[..., None]).sum(2) / count
    return F.embedding_bag(ids.flatten(0, 1).long(), table, mode="mean", padding_idx=0).unflatten(0, ids.shape[:2])


class _Sentences(Classifier):
    """What nets for sentences have in common: word vectors, and how they take given ones."""

    head = "fc"
    embedding: WordVectors

    @staticmethod
    def example(spec: dict[str, Any], batch: int) -> Tensor:
        """Return random words, (batch, input_size)."""
        vocabulary = {**options(spec["name"]), **spec}["vocabulary"]
        return torch.randint(1, vocabulary + 1, (batch, spec["input_size"]))

    def take_vectors(self, make: Callable[[], Tensor], nothing: Iterable[int] = ()) -> None:
        """Begin with given vectors where the net was built for them; ``make()`` gives them, float (ids, 256).

        Ids of `nothing`, such as that of unknown words, begin at 0, as padding does.
        """
        if self.embedding.how != "random":
            self.embedding.give(make())
        with torch.no_grad():
            for part in self.embedding.children():
                part.weight[list(nothing)] = 0.0  # type: ignore[operator]


class SentenceCNN(_Sentences):
    """Filters over three, four and five words at a time; of each the largest value in the sentence.

    Reads token ids: whole numbers (B, words), 1 to `vocabulary` for words and 0 for padding at the end.

    Args:
        dimensions, vectors: see `WordVectors`.
        widths, maps: how many words the filters of each group see, and filters in each group.
        largest: so many values of each filter are kept, the largest, in their order.
        words: share of the words that are left out at each step.
        norm: the weights of an output are kept to this length; 0: to none.
    """

    def __init__(
        self,
        *,
        classes: int,
        vocabulary: int = 18_765,
        dimensions: int = 300,
        vectors: str = "random",
        widths: Sequence[int] = (3, 4, 5),
        maps: int = 100,
        largest: int = 1,
        dropout: float = 0.5,
        words: float = 0.0,
        norm: float = 3.0,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise NetError(f"widths is a list of numbers of words, such as [3, 4, 5], got {widths!r}")
        check_dropout(dropout)
        self.embedding = WordVectors(vocabulary, dimensions, vectors)
        convs = [nn.Conv1d(self.embedding.size, maps, width) for width in widths]
        self.widths, self.widest, self.largest, self.words, self.norm = tuple(widths), max(widths), largest, words, norm
        self.convs = nn.ModuleList(convs)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(maps * largest * len(widths), classes)
        for conv in convs:
            nn.init.uniform_(conv.weight, -0.01, 0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def places(self, x: Tensor) -> list[Tensor]:
        """(B, words) -> for each width (B, maps, windows): what each window says; windows without a word say 0."""
        room = self.widest - 1
        words = F.pad(self.embedding(x), (room, room))  # (B, dimensions, words + 2 room)
        there = F.pad((x if x.ndim == 2 else x.amax(2)).ne(0).to(words.dtype)[:, None], (room, room))
        return [
            self.relu(conv(words)) * F.max_pool1d(there, width, 1)
            for conv, width in zip(self.convs, self.widths, strict=True)
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, words) -> (B, maps x largest x number of widths)."""
        made = [one.amax(2) if self.largest == 1 else k_max(one, self.largest).flatten(1) for one in self.places(x)]
        return self.dropout(torch.cat(made, 1))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, words) -> logits (B, classes)."""
        if self.training and self.words:
            left = torch.rand(x.shape[:2], device=x.device) >= self.words
            x = x * (left if x.ndim == 2 else left[..., None])
        if self.training and self.norm:
            with torch.no_grad():  # after each step, as the paper says
                self.fc.weight.copy_(self.fc.weight.renorm(2, 0, self.norm))
        return super().forward(x)


class CollobertSentence(_Sentences):
    """Windows of one width, the largest value of each filter, a hidden layer with a hard tanh.

    Args:
        window, maps: words of a window, an odd number, and filters.
    """

    def __init__(
        self, *, classes: int, vocabulary: int = 100_000, dimensions: int = 50, vectors: str = "random",
        window: int = 3, maps: int = 300, hidden: int = 500, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise NetError(f"window is an odd number of words, got {window!r}")
        self.embedding = WordVectors(vocabulary, dimensions, vectors)
        self.conv = nn.Conv1d(self.embedding.size, maps, window, padding=window // 2)
        self.hidden = nn.Linear(maps, hidden)
        self.tanh, self.dropout = nn.Hardtanh(), nn.Dropout(dropout)
        self.fc = nn.Linear(hidden, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, words) -> (B, hidden)."""
        there = (x if x.ndim == 2 else x.amax(2)).ne(0)[:, None]
        there[:, :, 0] = True  # an empty text has its first window
        said = self.conv(self.embedding(x)).masked_fill(~there, -torch.inf).amax(2)  # (B, maps)
        return self.dropout(self.tanh(self.hidden(said)))  # type: ignore[no-any-return]


class DCNN(_Sentences):
    """Wide convolutions of each row, dynamic k-max pooling, folding, twice; then all that stays.

    Args:
        dimensions: a multiple of 4.
        widths, maps: words that filters of each layer see, and filters of each row.
        top: values that stay at the end.
    """

    def __init__(
        self, *, classes: int, vocabulary: int = 15_448, dimensions: int = 48, vectors: str = "random",
        widths: Sequence[int] = (7, 5), maps: Sequence[int] = (6, 14), top: int = 4, dropout: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = WordVectors(vocabulary, dimensions, vectors)
        rows, before, self.top = self.embedding.size, 1, top
        if rows % (1 << len(widths)):
            raise NetError(f"dimensions is a multiple of {1 << len(widths)}, since pairs of rows are added, got {rows}")
        self.convs = nn.ModuleList()
        self.biases = nn.ParameterList()
        for width, count in zip(widths, maps, strict=True):
            conv = nn.Conv1d(rows * before, rows * count, width, padding=width - 1, groups=rows, bias=False)
            self.convs.append(conv)
            rows, before = rows // 2, count
            self.biases.append(nn.Parameter(torch.zeros(rows * count)))
        self.tanh, self.dropout = nn.Tanh(), nn.Dropout(dropout)
        self.fc = nn.Linear(rows * before * top, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, words) -> (B, rows x maps x top)."""
        words = (x if x.ndim == 2 else x.amax(2)).ne(0).sum(1).clamp(min=1)  # (B,)
        y, lengths, last = self.embedding(x), words, len(self.convs)
        for number, (conv, bias) in enumerate(zip(self.convs, self.biases, strict=True), 1):
            assert isinstance(conv, nn.Conv1d)
            y = conv(y)  # (B, rows x maps, L + width - 1)
            lengths = lengths + conv.kernel_size[0] - 1
            maps = conv.out_channels // conv.groups
            y = y.unflatten(1, (conv.groups // 2, 2, maps)).sum(2).flatten(1, 2)  # folding: pairs of rows
            share, most = last - number, self.top  # k = max(top, share of the words that are left), rounded up
            if share:
                most = max(self.top, -(-x.shape[1] * share // last))
            keep = torch.minimum(((words * share + last - 1) // last).clamp(min=self.top), lengths)
            there = torch.arange(y.shape[2], device=y.device) < lengths[:, None]
            y = k_max(y.masked_fill(~there[:, None], -torch.inf), most, keep)
            y, lengths = self.tanh(y + bias[:, None]), keep
            # what lies behind the values that stay is nothing, as it was behind the words
            y = y * (torch.arange(y.shape[2], device=y.device) < lengths[:, None])[:, None]
        return self.dropout(y.flatten(1))  # type: ignore[no-any-return]


def k_max(x: Tensor, k: int, keep: Tensor | None = None) -> Tensor:
    """(B, C, L) -> (B, C, k): the `k` largest values in their order, 0 where there are fewer; of row b ``keep[b]``.

    Of equal ones the first, as ONNX's TopK takes; PyTorch's ``topk`` takes any, and characters make many equal ones.
    """
    if x.shape[2] < k:
        x = F.pad(x, (0, k - x.shape[2]), value=-torch.inf)
    if torch.onnx.is_in_onnx_export():
        values, at = x.topk(k, 2)
    else:
        values, at = (part[..., :k] for part in x.sort(dim=2, descending=True, stable=True))
    if keep is not None:
        values = values.masked_fill(torch.arange(k, device=x.device) >= keep[:, None, None], -torch.inf)
    at = at.masked_fill(values == -torch.inf, x.shape[2])  # to the end
    order = at.argsort(2)
    return values.gather(2, order).masked_fill(values.gather(2, order) == -torch.inf, 0.0)


for _builder, _name, _year, _paper, _params, _macs, _words, _accuracy in (
    (SentenceCNN, "sentence_cnn", 2014, "Kim 2014, arXiv:1408.5882", 5_990_702, 21_900_600, 56,
     "MR film reviews 81.5 % (76.1 % from random word vectors)"),
    (CollobertSentence, "sentence_collobert", 2011, "Collobert et al. 2011, JMLR 12", 5_196_852, 1_231_000, 24, ""),
    (DCNN, "sentence_dcnn", 2014, "Kalchbrenner et al. 2014, arXiv:1404.2188", 755_306, 223_104, 24,
     "SST-2 86.8 %, TREC 93.0 %"),
):  # fmt: skip
    _facts = Facts(_name, "sentence", _year, _paper, _params, _macs, (_words,), 2, 1, _accuracy, reads="text")
    register(_facts)(_builder)
