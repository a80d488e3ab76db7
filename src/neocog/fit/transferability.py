"""How far the layers of a net carry over to other classes: the experiment of Yosinski et al. 2014, on any data.

"How transferable are features in deep neural networks?", NIPS 27. The classes are split by chance into halves A and B,
and a net is trained on each. Then, for each n, the first n layers are taken over, the others begin anew, and the
whole is trained on B; see `KINDS`. The base is the net of the half itself.

Everything stands in one folder of ordinary runs; a call that was interrupted continues with what is there.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neocog import nets
from neocog.charts import line_chart
from neocog.data import open_source
from neocog.data.kinds import Category
from neocog.data.source import Selected, Source
from neocog.errors import UsageError
from neocog.fit.depth import in_order, units
from neocog.fit.device import choose, place
from neocog.fit.job import Data, Job, Wishes
from neocog.fit.parallel import World
from neocog.fit.plan import make_plan
from neocog.fit.predicting import Run
from neocog.fit.run import free_folder, write_atomically, write_json
from neocog.fit.show import Show
from neocog.fit.start import open_start
from neocog.fit.training import carry_out_new, resume
from neocog.fit.transfer import describe
from neocog.page import Html, page, paragraph, table
from neocog.records import counted

KINDS = {
    "BnB": "own layers, frozen: below the base where neighbouring layers had learned together",
    "BnB+": "own layers, learning on: the control",
    "AnB": "layers of the other classes, frozen: falls where features become special to A",
    "AnB+": "layers of the other classes, learning on: above the base where they help",
}
_DEPTHS = 8  # of a deep net so many depths are tried, evenly spaced


class _Half(Selected):
    """The pictures of some classes of a source, the classes numbered anew."""

    def __init__(self, base: Source, classes: Sequence[int], name: str) -> None:
        number = np.full(len(base.classes), -1)
        number[list(classes)] = np.arange(len(classes))
        rows = np.flatnonzero((base.labels >= 0) & (number[base.labels] >= 0))
        super().__init__(base, rows)
        self.name = f"{base.name}-{name}"
        self.columns = {"label": Category(number[base.labels[rows]], [base.classes[c] for c in classes])}


def transferability(
    data: Any,
    *,
    net: str | None = None,
    depths: Sequence[int] | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    recipe: str | None = None,
    epochs: float | None = None,
    set: Mapping[str, Any] | None = None,
    size: int | None = None,
    seed: int = 0,
    device: str | None = None,
    offline: bool = False,
    out: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure the accuracy on half of the classes against the number of layers transferred from either half.

    Args:
        data: labelled pictures of at least four classes.
        net, recipe, epochs, set, size, device, offline: as for `train`; every training is as long as the others.
        depths: numbers of layers; None takes all, or eight of a deeper net. A layer is a module with filters or a
            matrix and all that follows it; the last one, which names the classes, always begins anew.
        kinds: which of `KINDS`.
        seed: of the halves and of every training.
        out: the folder; None makes a new one under ``runs/``.

    Returns:
        ``{"net", "data", "A", "B" (class names), "layers" (first module of each), "base": {"A", "B": accuracy},
        "n_test", "seed", "rows": [{"n", "layer", "kind", "accuracy", "interval"}], "page", "plot"}``, also written as
        transferability.json; "page" and "plot" are the files that draw them. Accuracies are those on the test pictures
        of B.

    Raises:
        UsageError: too few classes, or no such kind or depth.
    """
    place(device)
    source = open_source(data, offline=offline)
    source.require_labels()
    if len(source.classes) < 4:
        raise UsageError(f"two halves of classes need at least 4 classes, and {source.name} has {len(source.classes)}")
    if wrong := [k for k in kinds if k not in KINDS]:
        raise UsageError(f"unknown kind {wrong[0]!r}; expected one of {', '.join(KINDS)}")
    order = np.random.default_rng(seed).permutation(len(source.classes))
    middle = len(order) // 2
    halves = {"A": _Half(source, sorted(order[:middle]), "A"), "B": _Half(source, sorted(order[middle:]), "B")}
    opened = {half: Data.open(pictures, None, offline, task="label") for half, pictures in halves.items()}
    show, here = Show(progress), choose(device, training=True)
    wishes = Wishes(net=net, recipe=recipe, size=size, epochs=epochs, fields=dict(set or {}), seed=seed).read()
    planned = {half: make_plan(wishes, opened[half], here, World(), show) for half in halves}
    plans = {half: plan for half, (plan, _) in planned.items()}
    used = in_order(nets.build(**plans["B"].net))
    names = [used[group[0]].name for group in units(used)]
    chosen = _depths(depths, len(names))
    folder = Path(out) if out else free_folder(f"transferability-{source.name}".replace("/", "-"))
    folder.mkdir(parents=True, exist_ok=True)

    def trained(name: str, half: str, begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The metrics of a run of this experiment: as it is there, continued, or new."""
        place = folder / name
        if (place / "net.json").exists():
            return Run(place).metrics
        if (place / "run.json").exists():
            return resume(place, data=halves[half], progress=False).metrics
        plan = plans[half]
        if begun:
            start = open_start(folder / begun["base"], say=show.say)
            told = describe(start, "all", "transferability", None, planned[half][1])
            plan = dataclasses.replace(
                plan,
                start={**told, "head": "new", "first": begun["first"], "frozen": begun["frozen"]},
                recipe=plan.recipe.changed(lr_last=1.0, lr_early=1.0),  # in the paper all layers learn at one rate
                preprocess=start.preprocess,
                seed=seed + 1,  # the layers that begin anew do not begin as those that the base grew from
            )
        job = Job(plan, opened[half], planned[half][1], here, World(), Show(False), place, time.monotonic())
        return carry_out_new(job, diagnosis=False).metrics

    rows: list[dict[str, Any]] = []
    wanted = [(n, kind) for n in chosen for kind in kinds]
    with show.bar("transferring layers") as bar:
        base = {}
        for number, half in enumerate(halves):
            bar(number / (2 + len(wanted)), f"base {half}")
            base[half] = trained(f"base-{half}", half)
        for number, (n, kind) in enumerate(wanted, 2):
            bar(number / (2 + len(wanted)), f"{kind}, {counted(n, 'layer')}")
            begun = {"base": f"base-{kind[0]}", "first": n, "frozen": not kind.endswith("+")}
            figures = trained(f"{kind.replace('+', '-tuned')}-{n}", "B", begun)
            told = {"accuracy": figures["test_accuracy"], "interval": figures["test_accuracy_interval"]}
            rows.append({"n": n, "layer": names[n - 1], "kind": kind, **told})
    result = {
        "net": plans["B"].net["name"],
        "data": source.name,
        "A": list(halves["A"].classes),
        "B": list(halves["B"].classes),
        "layers": names,
        "base": {half: figures["test_accuracy"] for half, figures in base.items()},
        "n_test": base["B"]["test_n"],
        "seed": seed,
        "rows": rows,
        "page": str(folder / "transferability.html"),
        "plot": str(folder / "transferability.svg"),
    }
    write_json(folder / "transferability.json", result)
    write_atomically(folder / "transferability.html", transferability_page(result).encode())
    write_atomically(folder / "transferability.svg", _file(_chart(result)).encode())
    show.say(f"written: {folder / 'transferability.html'}")
    return result


def _depths(wanted: Sequence[int] | None, layers: int) -> list[int]:
    if wanted is None:
        return sorted({round(float(n)) for n in np.linspace(1, layers, min(layers, _DEPTHS))})
    if wrong := [n for n in wanted if not 1 <= n <= layers]:
        raise UsageError(f"depth {wrong[0]} is not one of the net's layers before its last, 1 to {layers}")
    return sorted({int(n) for n in wanted})


def _chart(result: Mapping[str, Any]) -> Html:
    """Accuracy on B against the number of layers, a line for each kind and one for the base."""
    rows, base = result["rows"], result["base"]["B"]
    series = {"base B": [(0.0, base), (float(max((row["n"] for row in rows), default=1)), base)]}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        series[kind] = [(0.0, base), *((float(r["n"]), r["accuracy"]) for r in rows if r["kind"] == kind)]
    return line_chart(series, x="layers transferred", y="accuracy on B")


def _file(chart: str) -> str:
    """A chart of a page as the text of an SVG file, with the style that the page would have given it."""
    coloured = re.sub(r"var\(--c(\d)\)", lambda found: _COLOURS[int(found[1])], chart)
    return coloured.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{_STYLE}", 1)


_COLOURS = ("#0b62c4", "#c2410c", "#0a7d55", "#a21caf", "#8a6100", "#0e7490", "#be123c", "#52525b")
_STYLE = (
    "<style>svg{background:#fff;font:12px sans-serif}text{fill:#5d6670}.name{fill:#1c1f23}.axis{stroke:#d9dee3;"
    "fill:none}.grid{stroke:#d9dee3;stroke-width:.6}.line{fill:none;stroke-width:1.8}</style>"
)


def transferability_page(result: Mapping[str, Any]) -> str:
    """The result as a page: accuracy against the number of layers, and the figures."""
    rows = result["rows"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    half = max((high - low for low, high in (row["interval"] for row in rows)), default=0.0) / 2
    parts = [
        paragraph(
            f"{result['net']} trained on {len(result['A'])} classes (A: {', '.join(result['A'])}) and on "
            f"{len(result['B'])} others (B: {', '.join(result['B'])}). The first n layers of one of them were taken "
            "over, frozen or (+) learning on, and the rest retrained on B."
        ),
        _chart(result),
        paragraph(
            f"One training each, seed {result['seed']}, n = {result['n_test']:,} test pictures: a difference below "
            f"{100 * half * 2**0.5:.1f} points may be chance, and more where another seed would change a training."
        ),
    ]
    lines = []
    for n in dict.fromkeys(row["n"] for row in rows):
        here = {row["kind"]: row for row in rows if row["n"] == n}
        name = next(iter(here.values()))["layer"]
        lines.append({"layers": n, "up to": name, **{k: f"{row['accuracy']:.2%}" for k, row in here.items()}})
    sections = [
        ("Accuracy by depth", Html("".join(parts))),
        ("Figures", table(lines, numeric=("layers", *kinds))),
        ("What the lines mean", table([{"kind": kind, "meaning": meaning} for kind, meaning in KINDS.items()])),
    ]
    return page(
        f"How far features carry: {result['net']} on {result['data']}",
        sections,
        subtitle="After Yosinski et al. 2014, How transferable are features in deep neural networks?",
    )
