"""Language models conditioned on a picture's features: which word comes next, given a picture and the words before.

- Log-bilinear (Mnih and Hinton 2007, "Three new graphical models for statistical language modelling"):
  ``r = sum_i C_i r_{w_i}`` over the `context` words before, ``P(w) ~ exp(r . r_w + b_w)``.
- MLBL-B and MLBL-F (Kiros, Salakhutdinov and Zemel 2014, "Multimodal neural language models", sections 3.1 and 3.2):
  ``r`` gets ``C_m x`` of the picture; in the factored one the picture also scales `factors` between ``r`` and words.
- LSTM (Vinyals et al. 2015, "Show and tell", equations 10 to 12): the picture is the first input, and only that.
- Convolutions (Aneja, Deshpande and Schwing 2018, "Convolutional image captioning", without attention): causal,
  gated; every word comes with the picture.
- LSTM with attention (Lu et al. 2017, "Knowing when to look", section 2, without the sentinel): the parts of the
  picture are looked at after each word, from several sides at once (Vaswani et al. 2017).

All read ids of words that begin with `START`, and are read in two ways: ``forward`` gives what follows each word of
known sentences, ``begin`` and ``step`` go on word by word with a state, a tuple of tensors (B, ...).

Output: features (B, F), ids (B, L) -> logits (B, L, words); row t says what follows ``ids[:, :t + 1]``. With `where`,
bool (B, L), logits (M, words) of these places alone: the last layer takes longest, and half a batch is padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ..errors import NetError, closest

PAD, UNKNOWN, START, END = 0, 1, 2, 3  # ids that every vocabulary begins with
State = tuple[Tensor, ...]


class LanguageModel(nn.Module, ABC):
    """What all have in common. `words`: number of ids. `features`: of a picture; 0: none is read."""

    words: int
    features: int

    @abstractmethod
    def forward(self, features: Tensor | None, ids: Tensor, where: Tensor | None = None) -> Tensor:
        """(B, F), int64 (B, L) -> logits (B, L, words), or (M, words) where `where` is true."""

    @abstractmethod
    def begin(self, features: Tensor) -> State:
        """The state before the first word."""

    @abstractmethod
    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        """One more word of each sentence, int64 (B,) -> logits (B, words) of the next, and the state after it."""


class LogBilinear(LanguageModel):
    """LBL, and with `features` MLBL-B.

    Args:
        dimensions: of the words' vectors, K.
        context: how many words before are read; what lies before the beginning reads as `START`.
        diagonal: every C_i has only its diagonal (Mnih and Hinton 2008), else K x K.
        hidden: the picture is read through ``relu(J x + b)`` of so many numbers, as in Kiros's released code; 0: not.
        dropout: on the picture's features and the words' vectors.
    """

    def __init__(
        self,
        words: int,
        dimensions: int = 100,
        features: int = 0,
        context: int = 5,
        diagonal: bool = False,
        hidden: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.words, self.features, self.context = words, features, context
        self.vectors = nn.Embedding(words, dimensions)
        # C_1 to C_context as one causal convolution over the words before
        groups = dimensions if diagonal else 1
        self.contexts = nn.Conv1d(dimensions, dimensions, context, groups=groups, bias=False)
        self.bias = nn.Parameter(torch.zeros(words))
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Sequential(nn.Linear(features, hidden), nn.ReLU()) if features and hidden else None
        self.read = hidden or features
        self.picture = nn.Linear(self.read, dimensions, bias=False) if features else None
        nn.init.normal_(self.vectors.weight, std=dimensions**-0.5)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """Int64 (...) -> (..., K)."""
        return self.vectors(ids)  # type: ignore[no-any-return]

    def scores(self, r: Tensor, x: Tensor | None) -> Tensor:
        """Predicted vectors (..., K) and the pictures' features (..., F') -> logits (..., words)."""
        return F.linear(r, self.vectors.weight, self.bias)

    def seen(self, features: Tensor | None) -> Tensor | None:
        """(B, F) -> (B, F'): what is read of a picture."""
        if not self.features or features is None:
            return None
        x: Tensor = self.dropout(features)
        return x if self.hidden is None else self.dropout(self.hidden(x))

    def _predicted(self, words: Tensor, x: Tensor | None) -> Tensor:
        """Vectors (B, context - 1 + L, K) -> (B, L, K)."""
        r = self.contexts(words.transpose(1, 2)).transpose(1, 2)
        return r if x is None else r + self.picture(x)[:, None]  # type: ignore[misc]

    def forward(self, features: Tensor | None, ids: Tensor, where: Tensor | None = None) -> Tensor:
        x = self.seen(features)
        r = self._predicted(self.dropout(self.vectors_of(F.pad(ids, (self.context - 1, 0), value=START))), x)
        x = None if x is None else x[:, None].expand(*ids.shape, -1)
        return self.scores(r, x) if where is None else self.scores(r[where], None if x is None else x[where])

    def begin(self, features: Tensor) -> State:
        """(x (B, F'), the last words (B, context - 1))."""
        x = self.seen(features)
        before = torch.full((len(features), self.context - 1), START, device=features.device)
        return (features.new_zeros(len(features), 0) if x is None else x), before

    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        x, before = state
        last = torch.cat((before, ids[:, None]), 1)  # (B, context)
        read = x if self.features else None
        r = self._predicted(self.vectors_of(last), read)
        return self.scores(r[:, 0], read), (x, last[:, 1:])


class FactoredLogBilinear(LogBilinear):
    """MLBL-F: vectors of words ``E = W_fr^T W_fv``; ``f = (W_fr r) * (W_fx x)``, ``P(w) ~ exp(W_fv[:, w] f + b_w)``.

    Args:
        factors: F of the paper.
    """

    def __init__(
        self,
        words: int,
        dimensions: int = 100,
        features: int = 1280,
        context: int = 5,
        factors: int = 100,
        hidden: int = 0,
        dropout: float = 0.0,
    ) -> None:
        if not features:
            raise NetError("the factored log-bilinear model needs features; without a picture use LogBilinear")
        super().__init__(words, dimensions, features, context, False, hidden, dropout)
        self.vectors = nn.Embedding(words, factors)  # W_fv
        self.of_vector = nn.Linear(dimensions, factors, bias=False)  # W_fr
        self.of_picture = nn.Linear(self.read, factors, bias=False)  # W_fx
        nn.init.normal_(self.vectors.weight, std=factors**-0.5)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """Int64 (...) -> (..., K): columns of the folded E."""
        return F.linear(self.vectors(ids), self.of_vector.weight.T)

    def scores(self, r: Tensor, x: Tensor | None) -> Tensor:
        factors = self.of_vector(r) * self.of_picture(x)
        return F.linear(factors, self.vectors.weight, self.bias)


class LstmDecoder(LanguageModel):
    """Show and tell: LSTM with the picture as its input before the first word.

    Args:
        dimensions: of the words' vectors and of the picture's. width: numbers in the state.
    """

    def __init__(
        self, words: int, dimensions: int = 512, features: int = 1280, width: int = 512, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.words, self.features = words, features
        self.picture = nn.Linear(features, dimensions)
        self.vectors = nn.Embedding(words, dimensions)
        self.lstm = nn.LSTM(dimensions, width, batch_first=True)
        self.output = nn.Linear(width, words)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.vectors.weight, std=0.1)
        # gates that keep: at 0 half of the state, and so of the picture, is forgotten at each word
        nn.init.constant_(self.lstm.get_parameter("bias_ih_l0")[width : 2 * width], 2.0)

    def forward(self, features: Tensor | None, ids: Tensor, where: Tensor | None = None) -> Tensor:
        assert features is not None
        first = self.picture(self.dropout(features))[:, None]
        made, _ = self.lstm(torch.cat((first, self.dropout(self.vectors(ids))), 1))
        made = made[:, 1:] if where is None else made[:, 1:][where]
        return self.output(self.dropout(made))  # type: ignore[no-any-return]

    def begin(self, features: Tensor) -> State:
        """(h, c), (B, width) each, after the picture."""
        _, (h, c) = self.lstm(self.picture(self.dropout(features))[:, None])
        return h[0], c[0]

    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        made, (h, c) = self.lstm(self.vectors(ids)[:, None], (state[0][None], state[1][None]))
        return self.output(made[:, 0]), (h[0], c[0])


class ConvDecoder(LanguageModel):
    """Causal gated convolutions over words that each carry the picture; halved before the last layer.

    Args:
        dimensions: of words, picture, and every layer. depth: layers. kernel: words that each reads.
    """

    def __init__(
        self,
        words: int,
        dimensions: int = 512,
        features: int = 1280,
        depth: int = 3,
        kernel: int = 5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.words, self.features, self.kernel = words, features, kernel
        self.picture = nn.Linear(features, dimensions)
        self.vectors = nn.Embedding(words, dimensions)
        widths = (2 * dimensions, *(dimensions,) * depth)
        self.layers = nn.ModuleList(weight_norm(nn.Conv1d(width, 2 * dimensions, kernel)) for width in widths[:depth])
        self.around = nn.Linear(2 * dimensions, dimensions)  # the first layer is narrower than what it reads
        self.narrow = nn.Linear(dimensions, dimensions // 2)
        self.output = nn.Linear(dimensions // 2, words)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.vectors.weight, std=0.1)

    def _layer(self, k: int, before: Tensor, x: Tensor) -> Tensor:
        """Layer k of inputs (B, D, L), `kernel` - 1 more of which lie in `before`."""
        read = self.dropout(torch.cat((before, x), 2))
        made = F.glu(self.layers[k](read), dim=1)
        kept = x if k else self.around(x.transpose(1, 2)).transpose(1, 2)
        return (made + kept) * 0.5**0.5

    def _through(self, x: Tensor, before: Any, where: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Inputs (B, 2 D, L) -> logits (B, L, words), and what each layer read last."""
        after = []
        for k, past in enumerate(before):
            after.append(torch.cat((past, x), 2)[:, :, -past.shape[2] :] if past.shape[2] else past)
            x = self._layer(k, past, x)
        x = x.transpose(1, 2) if where is None else x.transpose(1, 2)[where]
        return self.output(self.dropout(self.narrow(x))), after

    def _nothing(self, x: Tensor) -> list[Tensor]:
        return [x.new_zeros(len(x), layer.in_channels, self.kernel - 1) for layer in self.layers]  # type: ignore[call-overload]

    def forward(self, features: Tensor | None, ids: Tensor, where: Tensor | None = None) -> Tensor:
        assert features is not None
        words = self.vectors(ids)
        picture = self.picture(self.dropout(features))[:, None].expand_as(words)
        x = torch.cat((words, picture), 2).transpose(1, 2)  # (B, 2 D, L)
        return self._through(x, self._nothing(x), where)[0]

    def begin(self, features: Tensor) -> State:
        """The picture (B, D), and what each layer has read, (B, D', kernel - 1)."""
        picture = self.picture(features)
        return (picture, *self._nothing(picture))

    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        picture, *before = state
        x = torch.cat((self.vectors(ids), picture), 1)[:, :, None]
        logits, after = self._through(x, before)
        return logits[:, 0], (picture, *after)


class AttendingDecoder(LanguageModel):
    """An LSTM over words that each carry the picture's mean; its state after a word asks for parts of the picture.

    What was looked at joins the state before the last layer. A relation needs looks at two places: there are `heads`.

    Args:
        dimensions: of the words' vectors and of the picture's. width: numbers in the state, a multiple of `heads`.
        cells: parts of the picture; features (B, F) are channels of (F / cells) x cells.
        heads: looks at each word.
    """

    def __init__(
        self,
        words: int,
        dimensions: int = 256,
        features: int = 1280,
        width: int = 256,
        cells: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise NetError(f"expected a width that {heads} looks can share, got {width}; take {width + -width % heads}")
        self.words, self.features, self.cells, self.heads = words, features, cells, heads
        channels = features // cells
        self.picture = nn.Linear(channels, dimensions)
        self.places = nn.Parameter(0.02 * torch.randn(cells, channels))
        self.vectors = nn.Embedding(words, dimensions)
        self.lstm = nn.LSTM(2 * dimensions, width, batch_first=True)
        self.query, self.parts = nn.Linear(width, width), nn.Linear(channels, 2 * width)
        self.joined = nn.Linear(2 * width, width)
        self.output = nn.Linear(width, words)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.vectors.weight, std=0.1)

    def _seen(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, F) -> the mean (B, D), and keys and values of the parts, (B, heads, cells, width / heads) each."""
        parts = self.dropout(features).unflatten(1, (-1, self.cells)).transpose(1, 2) + self.places
        keys, values = self.parts(parts).unflatten(2, (2 * self.heads, -1)).transpose(1, 2).chunk(2, 1)
        return self.picture(parts.mean(1)), keys, values

    def _said(self, made: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """States (B, L, width) -> what the last layer reads, (B, L, width)."""
        query = self.query(made).unflatten(2, (self.heads, -1)).transpose(1, 2)
        found = F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
        return self.dropout(torch.relu(self.joined(torch.cat((made, found), 2))))

    def forward(self, features: Tensor | None, ids: Tensor, where: Tensor | None = None) -> Tensor:
        assert features is not None
        picture, keys, values = self._seen(features)
        words = self.dropout(self.vectors(ids))
        made, _ = self.lstm(torch.cat((words, picture[:, None].expand_as(words)), 2))
        made = self._said(made, keys, values)
        return self.output(made if where is None else made[where])  # type: ignore[no-any-return]

    def begin(self, features: Tensor) -> State:
        """h and c (B, width), and what is seen of the picture."""
        empty = features.new_zeros(len(features), self.lstm.hidden_size)
        return (empty, empty, *self._seen(features))

    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        h, c, picture, keys, values = state
        made, (h, c) = self.lstm(torch.cat((self.vectors(ids), picture), 1)[:, None], (h[None], c[None]))
        return self.output(self._said(made, keys, values)[:, 0]), (h[0], c[0], picture, keys, values)


MODELS: dict[str, type[LanguageModel]] = {
    "lstm": LstmDecoder,
    "mlbl-b": LogBilinear,
    "mlbl-f": FactoredLogBilinear,
    "conv": ConvDecoder,
    "attend": AttendingDecoder,
}


def language_model(name: str, words: int, features: int, **options: Any) -> LanguageModel:
    """The model of that name (see `MODELS`). Raises: NetError: no such model, or an option that it does not have."""
    if name not in MODELS:
        raise NetError(f"unknown language model {name!r}{closest(name, MODELS)}; expected one of {', '.join(MODELS)}")
    try:
        return MODELS[name](words, features=features, **options)  # type: ignore[call-arg]
    except TypeError as error:
        raise NetError(f"the language model {name} cannot be built so: {error}") from None
