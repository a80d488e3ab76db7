"""Pictures and sentences in one space: which sentence fits a picture, and which picture a sentence.

The deep structured semantic model with a picture on one side: two towers, and the cosine of their vectors. The loss is
``-log P(D|Q)``, P the softmax of gamma times the cosines over all pictures and texts of a step, in both directions
(Huang et al. 2013, with the batch as negatives); or a hinge (Kiros et al. 2014), or the hinge of the worst (VSE++,
Faghri et al. 2018). Another caption of the same picture, or the same words under another picture, is never a negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.errors import DataError
from neocog.nets.matching import READS, PicturesAndTexts
from neocog.page import Html, paragraph, table
from neocog.tasks import ranking
from neocog.tasks.answer import Answer
from neocog.tasks.match import Vector
from neocog.tasks.ranking import LOSSES, both_ways, figures_of_both, ranks
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, Targets, Trunk, Warp, register
from neocog.tasks.together import all_rows
from neocog.tasks.towers import Matching, as_targets, build_tower, learn_tokenizer
from neocog.text.tokens import Tokenizer

SIDES = ("picture_to_sentence", "sentence_to_picture")


@register
class MatchCaptions(Matching):
    """Which sentence fits which picture.

    Args:
        tokenizer: of the sentences.
        tower: of the sentences, one of `towers.TOWERS`.
        dimensions: of the common space.
        learned, filters: of the tower "sentence", see ``nets.matching.Windows``.
        reads: what is read of the trunk's last maps, one of ``nets.matching.READS``.
        hidden: numbers of a hidden layer beside the linear one, between features and space; 0: none.
        dropout: in both towers.
        words: share of the words that are left out at each step.
        loss: one of `ranking.LOSSES`. margin: of the hinges.
        gamma: on the cosines before the softmax; 0: learned.
        negatives: wrong answers for each question, so many of the step's; 0: all. hard: the nearest ones.
        captions: of each picture's captions, so many are shown at a step.
        space: a folder with a sentence space of one tower (``text.space``) to start from; "": random weights.
    """

    name = "match-captions"
    about = "which sentence fits which picture"
    needs = {"captions": "texts"}
    on_features = True
    scratch = "towers-scratch"
    answer = Vector
    choices = {"loss": LOSSES, "reads": READS}
    options = {
        "tower": "sentence", "dimensions": 512, "learned": 64, "filters": 256, "reads": "mean", "hidden": 0,
        "dropout": 0.2, "words": 0.1,
        "loss": "softmax", "margin": 0.2, "gamma": 0.0, "negatives": 0, "hard": False, "captions": 1,
        "space": "",
    }  # fmt: skip

    def __init__(self, tokenizer: Tokenizer, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        self.shown_texts = max(1, int(self.how["captions"]))

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> MatchCaptions:
        column = source.columns["captions"]
        texts = [text for i in rows for text in column[int(i)]]
        if len(set(texts)) < 2:
            raise DataError(
                f"{source.name} has {len(set(texts))} different captions to learn from; expected pictures with "
                "sentences that tell them apart"
            )
        task = cls(learn_tokenizer(settings["tower"], texts), **cls.chosen(settings))
        task.notes = (f"{len(texts):,} captions of {len(rows):,} pictures to learn from",)
        return task

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "space": ""}

    # ---- the net and its steps

    def head(self, trunk: Trunk) -> nn.Module:
        how, deepest = self.how, max(trunk.channels)
        texts = build_tower(
            how["tower"], self.tokenizer, how["dimensions"], how["learned"], how["filters"], how["dropout"]
        )
        options = {name: how[name] for name in ("reads", "hidden", "dropout", "words", "gamma")}
        head = PicturesAndTexts(trunk.channels[deepest], texts, how["dimensions"], **options)
        if how["space"]:
            from neocog.text.space import Space
            from neocog.text.space_making import tensors_of

            began = tensors_of(Space.load(how["space"]), self.tokenizer.size)
            head.load_state_dict({name: torch.from_numpy(value) for name, value in began.items()}, strict=False)
        return head

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        every = [(of or ()) if good else () for of, good in zip(values["captions"], valid.tolist(), strict=True)]
        return as_targets(self.tokenizer, every, self.shown_texts)

    def run(self, net: nn.Module, batch: Batch) -> Any:
        return net(*batch.inputs, texts=batch.targets.get("tokens"))

    def losses(self, outputs: Any, batch: Batch) -> Losses:
        codes = all_rows(batch.targets["codes"])  # (B, K)
        pictures, texts = all_rows(outputs["pictures"]), all_rows(outputs["texts"])
        there = codes != 0
        codes, texts, has = codes[there], texts[there], there.any(1)
        owns = torch.repeat_interleave(torch.arange(len(there), device=there.device), there.sum(1))
        # a picture's are its own, and whatever says the same
        same = codes[:, None] == codes[None]  # (T, T)
        positive = torch.zeros(len(there), len(codes), dtype=torch.int64, device=codes.device)
        positive = positive.index_add(0, owns, same.long()).bool()[has]  # (P, T)
        cosines = pictures[has] @ texts.T
        if not len(codes):
            return Losses({"loss": outputs["pictures"].sum() * 0.0}, len(batch))
        loss = self.loss_of(cosines, positive, outputs["gamma"])
        best = cosines.detach().argmax(0)
        right = positive[best, torch.arange(len(codes), device=codes.device)].double().mean() * len(batch)
        return Losses({"loss": loss}, len(batch), {"recall_at_1": right})

    # ---- figures

    def observe(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        there = batch.targets["codes"] != 0
        owners = torch.as_tensor(batch.rows)[:, None].expand(there.shape)
        return {
            "rows": batch.rows,
            "pictures": outputs["pictures"],
            "each_sentence": outputs["texts"][there],
            "each_owner": owners[there.cpu()],
            "each_gamma": outputs["gamma"].reshape(1),
        }

    def _matched(self, seen: Seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        owner = np.searchsorted(seen["rows"], seen["each_owner"])
        return seen["pictures"].astype(np.float32), seen["each_sentence"].astype(np.float32), owner

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("rows", ())):
            return {"n": 0, "mean_recall": math.nan, "loss": math.nan}
        pictures, sentences, owner = self._matched(seen)
        gamma = float(seen["each_gamma"].mean())
        both = both_ways(pictures, sentences, (owner, np.arange(len(sentences))), gamma, ())
        counts = {"n": len(pictures), "sentences": len(sentences), "gamma": gamma}
        return {**counts, **figures_of_both(both, SIDES)}

    def worst(self, seen: Seen) -> np.ndarray:
        forward = ranks(*self._matched(seen))[0] if len(seen.get("rows", ())) else np.zeros(0, np.int64)
        return seen["rows"][np.argsort(-forward, kind="stable")] if len(forward) else forward

    def caption(self, seen: Seen, row: int) -> str:
        k = int(np.searchsorted(seen["rows"], row))
        pictures, sentences, owner = self._matched(seen)
        cosines = sentences @ pictures[k]
        best = np.sort(cosines[owner == k])[::-1]
        rank = 1 + int(((cosines >= best[0]) & (owner != k)).sum()) if len(best) else 0
        return f"the nearest of its sentences is number {rank:,} of {len(sentences):,}"

    def headline(self, figures: Mapping[str, Any]) -> str:
        return f"{ranking.told(figures, SIDES)} (n = {figures['n']:,} pictures, {figures['sentences']:,} sentences)"

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        rows = ranking.rows_of(figures, SIDES)
        said = (
            f"{figures['n']:,} pictures and {figures['sentences']:,} sentences. A picture counts by the closest of its "
            "sentences, each sentence by its picture; an answer that is as near as the right one stands before it."
        )
        return [Section("Search", Html(paragraph(said) + table(rows)))]

    # ---- answers

    def answers(self, outputs: Any, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        rows = outputs["pictures"].cpu().tolist()
        return [Vector(key, tuple(row)) for key, row in zip(keys, rows, strict=True)]

    reading = "`output` (B, D) is a picture's vector of length 1 in the space of pictures and sentences."
