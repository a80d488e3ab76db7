"""Training: recipes, the loop, run folders, and what is done with a trained net.

The names below are loaded when they are first used: choosing a device must not cost the import of all of training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neocog.lazily import of_rooms

if TYPE_CHECKING:
    from neocog.fit.extract import evaluate
    from neocog.fit.predicting import Prediction, Run, match_texts, predict
    from neocog.fit.scan import find_lr
    from neocog.fit.spotting import spot
    from neocog.fit.summary import summarise
    from neocog.fit.training import resume, train

__all__ = ["Prediction", "Run", "evaluate", "find_lr", "match_texts", "predict", "resume", "spot", "summarise", "train"]

_HOMES = {
    "Prediction": "predicting",
    "Run": "predicting",
    "evaluate": "extract",
    "find_lr": "scan",
    "match_texts": "predicting",
    "predict": "predicting",
    "resume": "training",
    "spot": "spotting",
    "summarise": "summary",
    "train": "training",
}

__getattr__, __dir__ = of_rooms(__name__, _HOMES)
