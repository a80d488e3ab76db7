"""Training: recipes, the loop, run folders, and what is done with a trained net."""

from neocog.fit.predicting import Prediction, Run, evaluate, predict
from neocog.fit.scan import find_lr
from neocog.fit.training import resume, train

__all__ = ["Prediction", "Run", "evaluate", "find_lr", "predict", "resume", "train"]
