"""See inside a net: what speaks for an answer, what excites a unit, how a collection lies in the space of a layer.

    net = neocog.look.subject("efficientnet_lite0")      # or a run, or any module with its preprocessing
    neocog.look.explain(net, "cat.jpg").draw()           # a picture, uint8 (H, W, 3)
    looked = neocog.look.look_at(net, ["cat.jpg"])
    neocog.look.sheet_of(net, looked).save("look.png")

The methods themselves, on any function of a net's outputs, are in `neocog.look.maps`.
"""

from .early import Invariance, Tuning, activations, filters_sheet, first_filters, invariance, maps_row, tuning
from .explaining import METHODS, Active, Looked, Map, explain, look_at, sheet_of
from .maps import Backwards, deconvolve, gradcam, gradient, integrated, occlusion, of_layer, smoothgrad
from .plane import Space, space, space_of
from .playing import Film, film
from .sheet import Row, Sheet, Tile
from .subject import Shown, Subject, subject
from .units import Hit, Top, prefer, top_patches

__all__ = [
    "METHODS",
    "Active",
    "Backwards",
    "Film",
    "Hit",
    "Invariance",
    "Looked",
    "Map",
    "Row",
    "Sheet",
    "Shown",
    "Space",
    "Subject",
    "Tile",
    "Top",
    "Tuning",
    "activations",
    "deconvolve",
    "explain",
    "film",
    "filters_sheet",
    "first_filters",
    "gradcam",
    "gradient",
    "integrated",
    "invariance",
    "look_at",
    "maps_row",
    "occlusion",
    "of_layer",
    "prefer",
    "sheet_of",
    "smoothgrad",
    "space",
    "space_of",
    "subject",
    "top_patches",
    "tuning",
]
