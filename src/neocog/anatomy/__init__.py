"""What any network is made of: shapes, parameters, multiply-adds, memory and receptive fields, layer by layer.

    anatomy = neocog.anatomy.trace(module, (3, 224, 224))
    print(anatomy)                       # a table
    anatomy.macs, anatomy.receptive_field
    for advice in neocog.anatomy.advise(anatomy):
        print(advice)

`module` is any `torch.nn.Module`; it is left exactly as it was.
"""

from .advice import Advice, advise
from .compare import compare
from .drawing import to_svg
from .measure import EffectiveField, Misfit, Timing, effective_receptive_field, intensity, misfits, time_layers
from .output import to_csv, to_html, to_json, to_text
from .record import Field, Layer, Totals
from .rewrite import Rewritten, rewrite
from .trace import trace
from .whole import Anatomy

__all__ = [
    "Advice",
    "Anatomy",
    "EffectiveField",
    "Field",
    "Layer",
    "Misfit",
    "Rewritten",
    "Timing",
    "Totals",
    "advise",
    "compare",
    "effective_receptive_field",
    "intensity",
    "misfits",
    "rewrite",
    "time_layers",
    "to_csv",
    "to_html",
    "to_json",
    "to_svg",
    "to_text",
    "trace",
]
