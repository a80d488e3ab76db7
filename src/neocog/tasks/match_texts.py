"""Texts that belong together: queries and titles, questions and answers, translations; or paraphrases, yes or no.

A table with two columns of texts trains two towers (Huang et al. 2013): each text of a step is asked which of the texts
on the other side belongs to it. Rows with equal texts on one side are one question with several right answers. It is
judged by ranking: each different text of the split asks among all different texts on the other side.

A table that also says 1 or 0 (the task match-pairs) trains a judge, which reads the cosine of one tower for both sides
and what the two texts share (see ``neocog.text.pairs``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.data.read_text import TextReader
from neocog.data.reader import Reader
from neocog.errors import DataError
from neocog.page import Html, paragraph, table
from neocog.tasks import ranking
from neocog.tasks.answer import Answer
from neocog.tasks.measures import auroc
from neocog.tasks.ranking import both_ways, figures_of_both
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, Targets, Warp, register
from neocog.tasks.together import all_rows
from neocog.tasks.towers import LONGEST, Matching, as_targets, build_tower, learn_tokenizer
from neocog.text.pairs import SHARED, shared
from neocog.text.tokens import Tokenizer, normal

SIDES = ("first_to_second", "second_to_first")


@dataclass(frozen=True, slots=True)
class Pair(Answer):
    """How near two texts are.

    Attributes:
        cosine: of their vectors.
        same: the probability that they say the same, where a judge was trained.
        least: from which probability (or, without a judge, cosine) on they are called the same; None: not known.
        words: of both texts, what each token contributed to the cosine, as far as the tower's maximum says it.
    """

    cosine: float = 0.0
    same: float | None = None
    least: float | None = None
    words: tuple[tuple[tuple[str, float], ...], ...] = ()

    @property
    def answer(self) -> bool | None:
        """Whether they are called the same."""
        return None if self.least is None else (self.cosine if self.same is None else self.same) >= self.least

    def row(self) -> dict[str, Any]:
        made: dict[str, Any] = {"cosine": round(self.cosine, 6)}
        if self.same is not None:
            made |= {"same": self.answer, "probability": round(self.same, 6)}
        return made

    def to_json(self) -> dict[str, Any]:
        words = [[{"token": token, "part": round(part, 6)} for token, part in side] for side in self.words]
        return {**self.row(), "from": self.least, "words": words}


@register
class MatchTexts(Matching):
    """Which text belongs to which.

    Args:
        tokenizer: of both sides.
        tower: one of `towers.TOWERS`. dimensions: of the common space.
        sides: 1: one tower reads both sides; 2: each has its own.
        words, loss, margin, gamma, negatives, hard: as of the task match-captions.
    """

    name = "match-texts"
    about = "which text belongs to which"
    needs: ClassVar[Mapping[str, str]] = {"first": "texts", "second": "texts"}
    inputs = ("text",)
    shown_texts = 1
    mirrors = False
    answer = Pair
    options = {
        "tower": "sentence", "dimensions": 256, "sides": 1, "words": 0.1,
        "loss": "softmax", "margin": 0.2, "gamma": 0.0, "negatives": 0, "hard": False,
    }  # fmt: skip

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> MatchTexts:
        sides = [[text for i in rows for text in source.columns[role][int(i)]] for role in ("first", "second")]
        if min(len(set(side)) for side in sides) < 2:
            raise DataError(f"{source.name} has not two different texts on each side; expected pairs that differ")
        tokenizer = learn_tokenizer(settings["tower"], [*sides[0], *sides[1]])
        task = cls(tokenizer, **cls.chosen(settings), **cls._more(source, rows))
        task.notes = (f"{len(rows):,} pairs to learn from",)
        if clash := getattr(tokenizer, "collisions", 0):
            task.notes += (
                f"{clash:,} of {getattr(tokenizer, 'words', 0):,} words have the letter trigrams of another",
            )
        return task

    @classmethod
    def _more(cls, source: Source, rows: np.ndarray) -> dict[str, Any]:
        return {}

    @classmethod
    def groups(cls, source: Source) -> np.ndarray:
        column = source.columns["first"]
        place: dict[str, int] = {}
        return np.array([place.setdefault(normal((column[i] or ("",))[0]), len(place)) for i in range(len(source))])

    # ---- the net and its steps

    def own_reader(self) -> Reader:
        return TextReader(self.tokenizer, LONGEST)

    def own_net(self) -> nn.Module:
        from neocog.nets.matching import TwoTexts

        how = self.how
        towers = [build_tower(how["tower"], self.tokenizer, how["dimensions"]) for _ in range(int(how["sides"]))]
        net = TwoTexts(towers[0], towers[-1], words=how["words"], gamma=how["gamma"], shared=self._scale())
        net.spec = {"name": how["tower"], "classes": int(how["dimensions"]), "in_channels": 1, "input_size": 1}  # type: ignore[assignment]
        return net

    def _scale(self) -> Tensor | None:
        return None

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        made = as_targets(self.tokenizer, [(of or ("",))[:1] for of in values["second"]])
        asked = as_targets(self.tokenizer, [(of or ("",))[:1] for of in values["first"]])["codes"]
        return {"tokens": made["tokens"], "second": made["codes"][:, 0], "first": asked[:, 0]}

    def run(self, net: nn.Module, batch: Batch) -> Any:
        return net(*batch.inputs, texts=batch.targets["tokens"])

    def losses(self, outputs: Any, batch: Batch) -> Losses:
        first, second = all_rows(outputs["first"]), all_rows(outputs["second"][:, 0])
        a, b = all_rows(batch.targets["first"]), all_rows(batch.targets["second"])
        positive = ((a[:, None] == a[None]).float() @ (b[:, None] == b[None]).float()) > 0
        cosines = first @ second.T
        best = cosines.detach().argmax(1, keepdim=True)
        right = positive.gather(1, best).double().mean() * len(batch)
        loss = self.loss_of(cosines, positive, outputs["gamma"])
        return Losses({"loss": loss}, len(batch), {"recall_at_1": right})

    # ---- figures

    def observe(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        return {
            "rows": batch.rows,
            "vectors": torch.stack([outputs["first"], outputs["second"][:, 0]], 1),
            "first": batch.targets["first"],
            "second": batch.targets["second"],
            "each_gamma": outputs["gamma"].reshape(1),
        }

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("rows", ())):
            return {"n": 0, self.goal[0]: math.nan, "loss": math.nan}
        _, at, a = np.unique(seen["first"], return_index=True, return_inverse=True)
        _, by, b = np.unique(seen["second"], return_index=True, return_inverse=True)
        first, second = seen["vectors"][at, 0].astype(np.float32), seen["vectors"][by, 1].astype(np.float32)
        gamma = float(seen["each_gamma"].mean())
        counts = {"n": len(seen["rows"]), "first": len(first), "second": len(second), "gamma": gamma}
        return {**counts, **figures_of_both(both_ways(first, second, (a, b), gamma), SIDES)}

    def headline(self, figures: Mapping[str, Any]) -> str:
        return f"{ranking.told(figures, SIDES)} (n = {figures['n']:,} pairs)"

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        rows = ranking.rows_of(figures, SIDES)
        said = f"{figures['first']:,} different texts ask among {figures['second']:,} of the other side, and back."
        return [Section("Ranking", Html(paragraph(said) + table(rows)))]

    # ---- answers

    def answers(self, outputs: Any, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        cosines = (outputs["first"] * outputs["second"][:, 0]).sum(1).tolist()
        return [Pair(key, cosine) for key, cosine in zip(keys, cosines, strict=True)]


@register
class MatchPairs(MatchTexts):
    """Whether two texts say the same, of a table that says 1 or 0.

    Args:
        scale: mean and deviation (2, F) of what the pairs share.
        least: the probability from which on two texts are called the same.
    """

    name = "match-pairs"
    about = "whether two texts say the same"
    needs = {**MatchTexts.needs, "same": "category"}
    goal = ("accuracy", "max")
    figure = "accuracy"
    kept = ("scale", "least")
    options = {**MatchTexts.options, "dimensions": 128}

    def __init__(
        self, tokenizer: Tokenizer, scale: Sequence[Sequence[float]] = (), least: float = 0.5, **options: Any
    ) -> None:
        super().__init__(tokenizer, **options)
        self.scale, self.least = np.asarray(scale or [[0.0] * len(SHARED), [1.0] * len(SHARED)], np.float32), least
        self._shared: dict[tuple[str, str], np.ndarray] = {}

    @classmethod
    def _more(cls, source: Source, rows: np.ndarray) -> dict[str, Any]:
        codes = source.columns["same"].codes[rows]  # type: ignore[attr-defined]
        if min((codes == 0).sum(), (codes == 1).sum()) < 2:
            raise DataError(
                f"{source.name} has {(codes == 1).sum()} pairs that say the same and "
                f"{(codes == 0).sum()} that do not; expected at least two of each"
            )
        some = rows[np.linspace(0, len(rows) - 1, min(1000, len(rows))).astype(int)]
        values = shared(*([source.columns[r][int(i)][0] for i in some] for r in ("first", "second")))
        return {"scale": [values.mean(0).tolist(), values.std(0).clip(0.05).tolist()]}

    @classmethod
    def strata(cls, source: Source) -> np.ndarray:
        return source.columns["same"].codes  # type: ignore[attr-defined, no-any-return]

    def _scale(self) -> Tensor:
        return torch.from_numpy(self.scale)

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        made = super().collate(values, warp, valid)
        pairs = [((a or ("",))[0], (b or ("",))[0]) for a, b in zip(values["first"], values["second"], strict=True)]
        if new := list(dict.fromkeys(pair for pair in pairs if pair not in self._shared)):
            self._shared |= dict(zip(new, shared(*zip(*new, strict=True)), strict=True))
        both = torch.from_numpy(np.stack([self._shared[pair] for pair in pairs]))
        same = values.get("same", torch.full((len(pairs),), -1))
        return {**made, "shared": both, "same": same.masked_fill(~valid.cpu(), -1)}

    def run(self, net: nn.Module, batch: Batch) -> Any:
        return net(*batch.inputs, texts=batch.targets["tokens"], shared=batch.targets["shared"])

    def losses(self, outputs: Any, batch: Batch) -> Losses:
        same = batch.targets["same"]
        known = same >= 0
        logits = outputs["logit"][known]
        loss = F.binary_cross_entropy_with_logits(logits, same[known].float(), reduction="sum")
        right = ((logits > 0) == (same[known] > 0)).double().sum()
        return Losses({"loss": loss / known.sum().clamp(min=1)}, known.sum(), {"accuracy": right})

    def observe(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        known = batch.targets["same"] >= 0
        return {
            "rows": torch.as_tensor(batch.rows)[known.cpu()],
            "logit": outputs["logit"][known],
            "same": batch.targets["same"][known],
        }

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("rows", ())):
            return {"n": 0, "accuracy": math.nan, "loss": math.nan}
        logits, same = seen["logit"].astype(np.float64), seen["same"] > 0
        said = logits >= math.log(self.least / (1 - self.least))
        hits, wrong = int((said & same).sum()), int((said != same).sum())
        return {
            "n": len(logits),
            "accuracy": float((said == same).mean()),
            "f1": 2 * hits / max(1, 2 * hits + wrong),
            "majority": float(max(same.mean(), 1 - same.mean())),
            "auc": auroc(logits, same) if same.any() and not same.all() else math.nan,
            "loss": float(np.logaddexp(0, np.where(same, -logits, logits)).mean()),
        }

    def calibrate(self, seen: Seen) -> None:
        """Another threshold than 1/2 only where it is right in more than a standard error more of the pairs."""
        if not len(seen.get("rows", ())):
            return
        self.least = 0.5
        logits, same = seen["logit"].astype(np.float64), seen["same"] > 0
        order = np.sort(np.unique(logits))
        between = (order[1:] + order[:-1]) / 2
        if len(between):
            right = np.array([((logits >= t) == same).mean() for t in between])
            usual, best = ((logits >= 0) == same).mean(), right.max()
            if best - usual > math.sqrt(usual * (1 - usual) / len(logits)):
                middle = float(np.median(between[right == best]))
                self.least = float(np.clip(1 / (1 + math.exp(-middle)), 0.01, 0.99))

    def headline(self, figures: Mapping[str, Any]) -> str:
        return (
            f"accuracy {figures['accuracy']:.2%}, F1 {figures['f1']:.2%} (the commoner answer alone: "
            f"{figures['majority']:.2%}; n = {figures['n']:,} pairs)"
        )

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        said = f"From a probability of {self.least:.3f} on, two texts are called the same. AUC {figures['auc']:.4f}."
        return [Section("Same or different", Html(paragraph(said)))]

    def answers(self, outputs: Any, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        cosines = (outputs["first"] * outputs["second"][:, 0]).sum(1).tolist()
        chances = outputs["logit"].double().sigmoid().tolist()
        return [Pair(key, c, p, self.least) for key, c, p in zip(keys, cosines, chances, strict=True)]
