"""What an architecture search chooses from, how a choice becomes a net that keeps a budget, and the page of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from neocog import anatomy, nets
from neocog.charts import line_chart
from neocog.nets.designed import scaled
from neocog.page import Html, page, paragraph, table, text
from neocog.records import counted
from neocog.tasks import Task

BLOCKS: dict[str, dict[str, float]] = {
    "basic": {"expand": 0, "group": 0},
    "separable": {"expand": 0, "group": 1},
    "bottleneck": {"expand": 0.25, "group": 0},
    "inverted": {"expand": 4, "group": 1},
    "grouped": {"expand": 1, "group": 16},
}
# What is chosen for a net, and for each of its stages. Widths are relative: all are brought to the budget together.
SPACE: dict[str, tuple[Any, ...]] = {
    "stem kernel": (3, 5),
    "first stride": (1, 2),
    "growth": (1.0, 1.4, 2.0),  # of the width from stage to stage
    "gate": (0, 4, 8),
    "head": (0, 1, 2, 4),  # width of the 1x1 convolution before the mean, by that of the last stage
}
STAGE: dict[str, tuple[Any, ...]] = {"block": tuple(BLOCKS), "depth": (1, 2, 3, 4), "kernel": (3, 5)}
# What a search begins with, so that nets that are known to be good are among the candidates: ResNet's, MobileNet v2's
# and RegNet's blocks. Kernels are 3x3.
KNOWN: tuple[dict[str, Any], ...] = (
    {"block": "basic", "depth": 1, "first stride": 2, "growth": 2.0, "gate": 0, "head": 0},
    {"block": "inverted", "depth": 2, "first stride": 2, "growth": 1.4, "gate": 0, "head": 4},
    {"block": "grouped", "depth": 2, "first stride": 2, "growth": 2.0, "gate": 4, "head": 0},
)
REFUSED = ("bottleneck", "receptive-field", "padding-only", "unused")  # rules of the advice that a net must keep


def space(size: int) -> dict[str, tuple[Any, ...]]:
    """All that is chosen for a net for pictures of `size` pixels: name -> the values it may have."""
    stages = 3 if size <= 64 else 4
    each = {f"{name} {number}": values for number in range(1, stages + 1) for name, values in STAGE.items()}
    return {**SPACE, "stem stride": (1,) if size <= 48 else (1, 2) if size <= 96 else (2,), **each}


def known_choice(space: Mapping[str, tuple[Any, ...]], number: int) -> dict[str, Any]:
    """One of `KNOWN` as a choice from a space: the same for every stage, a stem with the largest stride."""
    one = {"kernel": 3, "stem kernel": 3, "stem stride": space["stem stride"][-1], **KNOWN[number]}
    return {name: one[name] if name in one else one[name.rsplit(" ", 1)[0]] for name in space}


def design_of(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The design (see nets/designed.py) of chosen values, with widths that are still to be scaled."""
    stages, width = [], 64.0
    for number in range(1, sum(name.startswith("block ") for name in choice) + 1):
        stages.append(
            {
                "width": round(width),
                "depth": choice[f"depth {number}"],
                "stride": choice["first stride"] if number == 1 else 2,
                "kernel": choice[f"kernel {number}"],
                **BLOCKS[choice[f"block {number}"]],
                "gate": choice["gate"],
            }
        )
        width *= choice["growth"]
    stem = {"width": 32, "kernel": choice["stem kernel"], "stride": choice["stem stride"]}
    return {"stem": stem, "stages": stages, "head": {"width": choice["head"] * stages[-1]["width"]}}


def fitted(
    design: Mapping[str, Any], spec: Mapping[str, Any], shape: tuple[int, ...], limits: Mapping[str, float]
) -> tuple[dict[str, Any], anatomy.Anatomy] | None:
    """The widest form of a design that keeps the limits, and its anatomy; None if its narrowest does not.

    Args:
        spec: what else the net is built with. shape: of its input, (C, H, W).
    """
    best, low, high = None, -4.0, 4.0  # powers of 2
    for number in range(8):  # to a sixteenth of an octave
        middle = low if number == 0 else (low + high) / 2
        tried = scaled(design, 2**middle)
        traced = traced_as(tried, spec, shape)
        if all(getattr(traced, name) <= most for name, most in limits.items()):
            best, low = (tried, traced), middle
        elif best is None:
            return None
        else:
            high = middle
    return best


def traced_as(design: Mapping[str, Any], spec: Mapping[str, Any], shape: tuple[int, ...]) -> anatomy.Anatomy:
    """The anatomy of a design, built with what else `spec` says."""
    with torch.device("meta"):
        net = nets.build(**{**spec, "design": design})
    return anatomy.trace(net, shape, name="designed", training_memory=False)


def described(design: Mapping[str, Any]) -> str:
    """A design in a line."""
    names = {tuple(sorted(how.items())): name for name, how in BLOCKS.items()}
    parts = [f"stem {design['stem']['width']} {_filters(design['stem'])}"]
    for one in design["stages"]:
        kind = names.get((("expand", one["expand"]), ("group", one["group"])), f"x{one['expand']:g}, {one['group']}")
        parts.append(
            f"{one['depth']} {kind} {one['width']} {_filters(one)}" + f" gate {one['gate']}" * bool(one["gate"])
        )
    return "; ".join(parts) + f"; head {design['head']['width']}" * bool(design["head"]["width"])


def _filters(part: Mapping[str, Any]) -> str:
    return f"{part['kernel']}x{part['kernel']}" + f"/{part['stride']}" * (part["stride"] > 1)


_DRAWN = 8  # candidates whose figures are drawn


def design_page(result: Mapping[str, Any], traced: anatomy.Anatomy, task: Task) -> str:
    """What `design` found, as a page. `traced`: the best net's anatomy."""
    rows, figure, shown = result["candidates"], task.figure, task.shown
    words = {"macs": "multiply-adds", "params": "parameters"}
    budget = " and ".join(f"{int(most):,} {words[name]}" for name, most in result["limits"].items())
    refused = ", ".join(f"{rule} {count}" for rule, count in sorted(result["refused"].items()))
    best = [
        paragraph(
            f"{rows[0]['net']}: {result['macs']:,} multiply-adds and {result['params']:,} parameters for "
            f"{'x'.join(map(str, result['input']))}; {figure} {shown(result['value'])} on "
            f"{counted(result['n_val'], 'validation picture')} after {result['steps']:,} steps. That is a little too "
            "high, because it is the best of many. Trained fully, the net is tested on pictures that the search never "
            "saw:"
        ),
        Html(f"<pre>{text('neocog train {data} --net {net}'.format(**result))}</pre>"),
        Html(f'<div class="scroll">{anatomy.to_svg(traced, title="")}</div>'),
    ]
    lines = [
        {"candidate": row["candidate"], "steps": f"{row['steps']:,}", figure: shown(row["value"]),
         "MACs": f"{row['macs']:,}", "parameters": f"{row['params']:,}", "net": row["net"]}
        for row in rows
    ]  # fmt: skip
    judged = [
        paragraph(
            f"{counted(len(rows), 'net')} of at most {budget}, judged on the validation pictures. Trainings of equal "
            "length are compared, and the best third goes on for three times as long."
            + f" Not trained, by the rule that they broke: {refused}."
            * bool(refused)
        ),
        table(lines, numeric=("candidate", "steps", figure, "MACs", "parameters")),
        line_chart(
            {f"candidate {row['candidate']}": row["curve"] for row in rows[:_DRAWN]}, x="steps", y=figure, log_x=True
        ),
    ]
    return page(
        "A designed net",
        [("The best", Html("".join(best))), ("Candidates", Html("".join(judged)))],
        subtitle=f"{result['data']}, task {result['task']}; at most {budget}",
    )
