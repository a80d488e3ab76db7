"""neocog: train a convolutional network on your own pictures, and understand what you trained.

    import neocog

    run = neocog.train("photos/", epochs=10)
    print(run.metrics)
    for prediction in run.predict(["new.jpg"]):
        print(prediction.label, prediction.probability)

The names below are loaded when they are first used, so that ``import neocog`` is instant and loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neocog.lazily import lazy

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from neocog import anatomy, data, export, fit, library, look, nets, tasks
    from neocog.data import open_source
    from neocog.data.check import check
    from neocog.fit.captioning import caption
    from neocog.fit.extract import evaluate
    from neocog.fit.predicting import Run, predict
    from neocog.fit.predicting import Run as load
    from neocog.fit.training import resume, train
    from neocog.library import Library

# public name -> (module, attribute; None is the module itself)
_LAZY: dict[str, tuple[str, str | None]] = {
    "Library": ("neocog.library", "Library"),
    "Run": ("neocog.fit.predicting", "Run"),
    "anatomy": ("neocog.anatomy", None),
    "caption": ("neocog.fit.captioning", "caption"),
    "check": ("neocog.data.check", "check"),
    "data": ("neocog.data", None),
    "evaluate": ("neocog.fit.extract", "evaluate"),
    "export": ("neocog.export", None),
    "fit": ("neocog.fit", None),
    "library": ("neocog.library", None),
    "load": ("neocog.fit.predicting", "Run"),  # reads better than a class: run = neocog.load("runs/photos")
    "look": ("neocog.look", None),
    "nets": ("neocog.nets", None),
    "open_source": ("neocog.data", "open_source"),
    "predict": ("neocog.fit.predicting", "predict"),
    "resume": ("neocog.fit.training", "resume"),
    "tasks": ("neocog.tasks", None),
    "train": ("neocog.fit.training", "train"),
}

__all__ = [
    "Library",
    "Run",
    "__version__",
    "anatomy",
    "caption",
    "check",
    "data",
    "evaluate",
    "export",
    "fit",
    "library",
    "load",
    "look",
    "nets",
    "open_source",
    "predict",
    "resume",
    "tasks",
    "train",
]

__getattr__, __dir__ = lazy(__name__, _LAZY)
