"""A sentence about each picture, learned from sentences that people wrote: a language model that reads the picture.

The models are those of ``nets.language``. Each learns to say the next word of a caption from the picture and the words
before (teacher forcing); a new picture gets the sentence that beam search finds the likeliest.

Perplexity is ``2 ** -mean(log2 P)`` over the words of all captions, their ends counted and rare words as one unknown
word, so it can be compared only between models of one vocabulary. Marks of punctuation are left out everywhere, as in
the published figures of BLEU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.errors import DataError, NetError, UsageError
from neocog.nets.beam import best, sample, search
from neocog.nets.language import END, MODELS, PAD, UNKNOWN, language_model
from neocog.tasks.answer import Answer
from neocog.tasks.bleu import bleu
from neocog.tasks.canvas import PLAIN, RIGHT, WRONG, captioned
from neocog.tasks.cider import cider
from neocog.tasks.task import Batch, Losses, Seen, Source, Targets, Task, Trunk, Warp, register
from neocog.text.tokens import Words, load_tokenizer, split_words

_KEPT = 40  # words of a caption that are compared with what was written
_CHOICE = 4  # times as many sentences are found as `beam` says, where there is something else to choose by
_FITS = 0.5  # weighted share of a sentence's words that some caption must have, so that it is said to fit
_SHOWN_FIT = 0.7  # share of the sentences that are not withheld which should fit, on validation pictures


@dataclass(frozen=True, slots=True)
class Writing:
    """How sentences are found: `n` of each picture by beam search, or by chance at a `temperature` above 0."""

    n: int = 1
    beam: int = 5
    temperature: float = 0.0
    first: str = ""
    longest: int = 25
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Described(Answer):
    """What is said of one picture: `texts`, the best first, and the mean log2 P of a word of each, `sure`.

    `least`: sentences less sure are withheld, because too many of them are wrong. `strange`: so are all of a picture
    unlike those that were learned from.
    """

    texts: tuple[str, ...] = ()
    sure: tuple[float, ...] = ()
    least: float = -math.inf
    strange: bool = False

    @property
    def withheld(self) -> bool:
        return self.strange or (bool(self.sure) and self.sure[0] < self.least)

    def row(self) -> dict[str, Any]:
        return {"caption": self.texts[0], "log2_p": round(self.sure[0], 4), "withheld": self.withheld}

    def text(self) -> str:
        return f"(not sure) {self.texts[0]}" if self.withheld else self.texts[0]

    def to_json(self) -> dict[str, Any]:
        every = [{"text": text, "log2_p": round(p, 4)} for text, p in zip(self.texts, self.sure, strict=True)]
        return {"captions": every, "withheld": self.withheld}

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """The sentence below the picture; and what people wrote: it is green if one of them wrote the same."""
        said = [plain(text) for text in truth or ()]
        colour = PLAIN if not said else RIGHT if self.texts[0] in said else WRONG
        return captioned(picture, [(self.text(), colour), *((text, PLAIN) for text in truth or ())])


def plain(text: str) -> str:
    """A text without marks of punctuation, in lower case."""
    return " ".join(word for word in split_words([text])[0] if any(map(str.isalnum, word)))


class Familiar(nn.Module):
    """Whether pictures are like those that were learned from: what of their features the directions in which those
    vary most (PCA) do not explain, against `usual`.

    A language model does not notice it by itself: it is as sure of "a brown and white dog" for a picture of a hook.
    """

    centre: Tensor
    axes: Tensor
    usual: Tensor

    def __init__(self, features: int, axes: int = 64) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("axes", torch.zeros(features, axes))
        self.register_buffer("usual", torch.tensor(math.inf))

    def rest(self, features: Tensor) -> Tensor:
        """(B, F) -> (B,): the mean square of what is left over."""
        x = features - self.centre
        return (x**2).mean(1) - ((x @ self.axes) ** 2).sum(1) / x.shape[1]

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> bool (B,): unlike them."""
        return self.rest(features) > self.usual

    def learn(self, features: Tensor, others: Tensor, share: float = 0.1) -> Familiar:
        """From features (N, F) that were learned from; of `others` (M, F) like them, a share may be called unlike."""
        self.centre = features.mean(0)
        _, _, axes = torch.pca_lowrank(features, self.axes.shape[1], niter=4)
        self.axes = axes
        self.usual = self.rest(others).quantile(1 - share)
        return self


class Teller(nn.Module):
    """The head: a language model on the means of the deepest maps, cut into `grid` x `grid` parts.

    `fits`, if there is one, chooses among four times as many sentences as beam search otherwise follows: of what was
    read of pictures (B, F) and ids (B, n, L) of sentences it makes float (B, n), which is added to what they are
    compared by.

    ``forward(maps, x, ids)``: log P (B, T, L - 1) of what follows each of ids (B, T, L), 0 at padding; with `write`
    also the sentences that are found. `x` (B, F) in place of pictures are what `features` made of them.
    """

    familiar: Familiar | None
    fits: Callable[[Tensor, Tensor], Tensor] | None = None

    def __init__(self, trunk: Trunk, model: str, words: int, grid: int, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        self.grid, self.familiar = grid, None
        self.reads = f"means of {grid} x {grid} parts"
        deepest = trunk.channels[max(trunk.levels)]
        self.width = deepest * grid * grid  # numbers that are read of a picture
        self.model = language_model(model, words, self.width, **sizes)

    def features(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Maps by stride -> (B, F)."""
        return F.adaptive_avg_pool2d(maps[max(maps)], self.grid).flatten(1)

    def forward(
        self,
        maps: Mapping[int, Tensor],
        x: Tensor,
        ids: Tensor | None = None,
        write: Writing | None = None,
        **more: Any,
    ) -> dict[str, Tensor]:
        """See the class."""
        read = x if x.ndim == 2 else self.features(maps)
        # of deviation 1: an LSTM that sees pooled features (0.2 on average) only once learns to ignore them
        read = read if read.dtype == torch.float64 else read.float()
        features = F.layer_norm(read, (self.width,))
        made: dict[str, Tensor] = {}
        if ids is not None:
            flat, wanted = ids.flatten(0, 1)[:, :-1], ids.flatten(0, 1)[:, 1:]
            there = wanted != PAD
            logits = self.model(features.repeat_interleave(ids.shape[1], 0), flat, there)
            log_p = -F.cross_entropy(logits.float(), wanted[there], reduction="none")
            made["log_p"] = log_p.new_zeros(wanted.shape).masked_scatter(there, log_p).view(*ids.shape[:2], -1)
        if write is not None:
            made |= self._written(read, features, write, **more)
        return made or {"features": features}

    def _written(self, read: Tensor, features: Tensor, how: Writing, first: Sequence[int] = ()) -> dict[str, Tensor]:
        options: dict[str, Any] = {"longest": how.longest, "first": first}
        if how.temperature:
            g = torch.Generator(features.device).manual_seed(how.seed)
            found = sample(self.model, features, n=how.n, temperature=how.temperature, generator=g, **options)
        else:
            several = max(how.n, how.beam * (1 if self.fits is None else _CHOICE))
            found = search(self.model, features, n=how.n if self.fits is None else several, beam=several, **options)
            if self.fits is not None:
                found = best(found, self.fits(read, found.ids), how.n)
        ids = F.pad(found.ids, (0, how.longest - found.ids.shape[2]))
        strange = self.familiar(features) if self.familiar is not None else torch.zeros(len(ids), dtype=torch.bool)
        return {"written": ids, "sure": found.each / math.log(2), "strange": strange}


@register
class Caption(Task):
    """Sentences about pictures.

    Args:
        words: the vocabulary, as ``Words.to_json`` gives it.
        model: one of ``nets.language.MODELS``.
        dimensions: of the words' vectors.
        width: of an LSTM's state; of what is read of the picture (mlbl-b, mlbl-f), and the factors (mlbl-f).
        dropout: on pictures, words and what the last layer reads.
        grid: the picture is read as the means of grid x grid parts of its last maps; 1: where things are is lost.
        each: captions of a picture that are shown at each step.
        sure: sentences with a smaller mean log2 P of a word are withheld.
    """

    name = "caption"
    about = "a sentence about each picture"
    needs = {"captions": "texts"}
    goal = ("perplexity", "min")
    figure = "perplexity per word"
    views_back = False
    on_features = True
    recipe = "sentences"
    scratch = "sentences-scratch"
    unportable = "sentences are found word by word, in a search of which no fixed graph can be made"
    answer = Described
    choices = {"model": tuple(MODELS)}
    options = {
        "model": "mlbl-b", "dimensions": 256, "width": 256, "dropout": 0.4, "grid": 1, "each": 2, "least": 5,
    }  # fmt: skip

    def __init__(self, words: Mapping[str, Any], sure: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.words: Words = load_tokenizer(words)  # type: ignore[assignment]
        self.shown_texts = self.how["each"]
        self.sure = -math.inf if sure is None else float(sure)
        self.write: Writing | None = None  # how sentences are found where captions are given, too; None: they are not
        self.writing = Writing()
        counts = np.concatenate((np.full(4, 1), self.words.counts)).astype(np.float64)
        self._weights = np.log(counts.sum() / counts.clip(1))  # rare words tell more
        self._weights[:4] = 0.0

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Caption:
        column, least = source.columns["captions"], cls.chosen(settings)["least"]
        texts = [text for i in rows for text in column[int(i)] or ()]
        words = Words.learn(map(plain, texts), least=least)
        if not words.words:
            raise DataError(
                f"no word stands {least} times or more in the captions of {len(rows):,} training pictures of "
                f"{source.name}; more captions, or --task-option least=1"
            )
        task = cls(words.to_json(), **cls.chosen(settings))
        task.notes = (
            f"{len(words.words):,} words stand in the captions at least {least} times; all others are unknown",
        )
        return task

    def to_json(self) -> dict[str, Any]:
        sure = None if math.isinf(self.sure) else self.sure
        return {"words": self.words.to_json(), **self.how, "sure": sure}

    # ---- the net

    def head(self, trunk: Trunk) -> nn.Module:
        how = self.how
        sizes: dict[str, Any] = {"dimensions": how["dimensions"], "dropout": how["dropout"]}
        names = {"lstm": ("width",), "mlbl-b": ("hidden",), "mlbl-f": ("hidden", "factors"), "attend": ("width",)}
        sizes |= dict.fromkeys(names.get(how["model"], ()), how["width"])
        if how["model"] == "attend":
            sizes["cells"] = how["grid"] ** 2
        try:
            return Teller(trunk, how["model"], self.words.size, how["grid"], sizes)
        except (NetError, RuntimeError) as error:
            raise UsageError(f"these options of the task caption do not go together: {error}") from None

    def run(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        ids = batch.targets.get("ids")
        how = self.writing if ids is None else None if net.training else self.write
        more = {} if how is None else {"write": how, "first": self.first_words(how.first)}
        made: dict[str, Tensor] = net(*batch.inputs, ids=ids, **more)
        return made

    def first_words(self, text: str) -> list[int]:
        """Ids of words that are given. Raises: UsageError: a word that no caption had often enough."""
        if not text:
            return []
        ids = [int(k) for k in self.words.encode([plain(text)])[0] if k]
        if UNKNOWN in ids:
            word = plain(text).split()[ids.index(UNKNOWN)]
            raise UsageError(f"the captions that were learned from do not have the word {word!r} often enough")
        return ids

    # ---- a batch

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        rows = [tuple(row or ()) if good else () for row, good in zip(values["captions"], valid.tolist(), strict=True)]
        most = max(1, *map(len, rows)) if rows else 1
        ids = self.words.encode([plain(t) for row in rows for t in (*row, *("",) * (most - len(row)))], ends=True)
        made = torch.from_numpy(ids.astype(np.int64)).view(len(rows), most, -1)
        there = torch.tensor([[k < len(row) for k in range(most)] for row in rows])
        return {"ids": made * there[:, :, None]}

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> Losses:
        count = (batch.targets["ids"][:, :, 1:] != PAD).sum()
        return Losses({"loss": -outputs["log_p"].sum() / count.clamp(min=1)}, count)

    # ---- figures

    def thorough(self) -> None:
        self.write = self.writing

    def observe(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Any]:
        ids = batch.targets["ids"]
        there = ids[:, :, 1:] != PAD
        made: dict[str, Any] = {"rows": batch.rows, "log_p": outputs["log_p"].sum((1, 2)), "words": there.sum((1, 2))}
        if "written" in outputs:
            told = there.any(2)
            cut = F.pad(ids[:, :, 1:], (0, max(0, _KEPT - ids.shape[2] + 1)))[:, :, :_KEPT]
            made |= {"written": outputs["written"][:, 0].int(), "sure": outputs["sure"][:, 0]}
            made["sure"] = made["sure"].masked_fill(outputs["strange"], -math.inf)
            made |= {"each_caption": cut[told].int(), "each_row": batch.rows.to(told.device)[told.nonzero()[:, 0]]}
        return made

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("rows", ())):
            return {"n": 0, "perplexity": math.nan, "loss": math.nan}
        loss = float(-seen["log_p"].sum() / max(1, seen["words"].sum()))
        made: dict[str, Any] = {
            "n": len(seen["rows"]),
            "perplexity": math.exp(min(loss, 50.0)),
            "loss": loss,
            "words": int(seen["words"].sum()),
        }
        if "written" in seen:
            written, captions = self._sentences(seen)
            made |= {f"bleu_{n}": v for n, v in enumerate(bleu(written, captions), 1)}
            made["cider"] = cider(written, captions)
            made["distinct"] = len(set(written)) / len(written)
            made["same_as_a_caption"] = float(np.mean([w in c for w, c in zip(written, captions, strict=True)]))
            made["fits"] = float((self._fits(seen) >= _FITS).mean())
            made["withheld"] = float((seen["sure"] < self.sure).mean())
        return made

    def _sentences(self, seen: Seen) -> tuple[list[tuple[int, ...]], list[list[tuple[int, ...]]]]:
        """What was written of each picture, and its captions, as ids up to the end."""
        captions: dict[int, list[tuple[int, ...]]] = {}
        for row, ids in zip(seen["each_row"].tolist(), seen["each_caption"], strict=True):
            captions.setdefault(row, []).append(_words(ids))
        return [_words(ids) for ids in seen["written"]], [captions.get(row, [()]) for row in seen["rows"].tolist()]

    def _fits(self, seen: Seen) -> np.ndarray:
        """float (N,): share of each sentence's words that a caption of the picture has, rare words weighing more."""
        made = []
        for written, captions in zip(*self._sentences(seen), strict=True):
            known = {word for caption in captions for word in caption}
            weight = self._weights[list(written)]
            right = np.array([word in known for word in written], bool)
            made.append(float(weight[right].sum() / max(1e-9, weight.sum())))
        return np.array(made)

    def calibrate(self, seen: Seen) -> None:
        """The least sureness that is shown: the lowest at which `_SHOWN_FIT` of the sentences above it fit."""
        if "written" not in seen or len(seen["rows"]) < 20:
            return
        order = np.argsort(-seen["sure"], kind="stable")
        share = np.cumsum(self._fits(seen)[order] >= _FITS) / np.arange(1, len(order) + 1)
        good = np.flatnonzero(share[19:] >= _SHOWN_FIT)  # of fewer than 20 a share says nothing
        self.sure = float(seen["sure"][order[19 + good[-1] if len(good) else 19]])

    def worst(self, seen: Seen) -> np.ndarray:
        if "written" not in seen:
            return np.asarray(seen["rows"][np.argsort(seen["log_p"] / seen["words"].clip(1), kind="stable")])
        return np.asarray(seen["rows"][np.lexsort((seen["sure"], self._fits(seen)))])

    def caption(self, seen: Seen, row: int) -> str:
        at = int(np.flatnonzero(seen["rows"] == row)[0])
        each = math.exp(min(50.0, -float(seen["log_p"][at]) / max(1, int(seen["words"][at]))))
        said = f"perplexity of its captions {each:.1f}"
        if "written" not in seen:
            return said
        sentence = self.words.text(seen["written"][at])
        return f"'{sentence}', log2 P {seen['sure'][at]:.2f} a word; {said}"

    def headline(self, figures: Mapping[str, Any]) -> str:
        made = f"perplexity {figures['perplexity']:.2f} a word (n = {figures['n']:,}, {figures['words']:,} words)"
        if "bleu_1" not in figures:
            return made
        each = " / ".join(f"{100 * figures[f'bleu_{n}']:.1f}" for n in range(1, 5))
        return f"{made}, BLEU-1 to 4 {each}, CIDEr {figures['cider']:.2f}, {figures['distinct']:.0%} distinct"

    # ---- answers

    def answers(self, outputs: dict[str, Tensor], batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        rows = zip(keys, *(outputs[k].tolist() for k in ("written", "sure", "strange")), strict=True)
        return [
            Described(key, tuple(self.words.text(one) for one in ids[:top]), tuple(sure[:top]), self.sure, strange)
            for key, ids, sure, strange in rows
        ]


def _words(ids: Any) -> tuple[int, ...]:
    """The ids of a sentence up to its end."""
    made = []
    for word in map(int, ids):
        if word in (END, PAD):
            break
        made.append(word)
    return tuple(made)
