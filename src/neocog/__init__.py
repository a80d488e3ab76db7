"""neocog: train a convolutional network on your own pictures, and understand what you trained.

    import neocog

    run = neocog.train("photos/", epochs=10)
    print(run.metrics)
    for prediction in run.predict(["new.jpg"]):
        print(prediction.label, prediction.probability)

The names below are loaded when they are first used, so that ``import neocog`` is instant and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        from neocog.errors import closest

        raise AttributeError(f"module 'neocog' has no attribute {name!r}{closest(name, _LAZY)}")
    module, attribute = _LAZY[name]
    found = importlib.import_module(module)
    value = found if attribute is None else getattr(found, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
