"""The model card of an exported folder: what it answers, from which pictures, how well, its limits, and its licence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neocog.data.read_text import TextReader
from neocog.errors import NeocogError
from neocog.export.given import given_to
from neocog.export.portable import FEATURES
from neocog.export.script import NAME, SUBWORDS
from neocog.fit.predicting import Run
from neocog.names import shown
from neocog.nets.weight_files import description
from neocog.records import counted, speak_of, worded
from neocog.text.tokens import Subwords

FILE = "CARD.md"


def licence(run: Run) -> str:
    """What is known of the licence of the weights, as a sentence."""
    start = run.settings.get("settings", {}).get("start")
    if run.settings and not start:
        return "Trained from random weights by whoever ran the training; they decide on the licence."
    path = Path(start["weights"]) if start and start["weights"] else run.folder
    said = ""
    try:
        if path.is_file():
            note = description(path)
            said = str(note.get("licence") or note.get("license") or note.get("weights") or note.get("source") or "")
        elif path.is_dir() and start:
            return f"Trained further from {path.name}: {licence(Run(path))}"
    except (NeocogError, OSError, ValueError):
        pass
    came = said or f"{path.name}, whose file names no licence: ask whoever published it"
    return f"{'Trained further from' if start else 'The weights are'} {came}."


def _from_wordllama(run: Run) -> list[str]:
    """What of a run on texts came with the package wordllama, and its licence, a sentence each."""
    if not isinstance(run.reader, TextReader):
        return []
    made = []
    if run.spec.get("vectors", "random") != "random":
        made.append("Its word vectors began as those of the package wordllama (MIT).")
    if isinstance(run.reader.tokenizer, Subwords):
        made.append(
            f"`{SUBWORDS}` is copied from the package wordllama (MIT, © 2024 Lee Miller); its subwords: Llama 2."
        )
    return made


def figures_text(run: Run) -> list[str]:
    """What is known of how good it is, a line each."""
    lines, kind = [], given_to(run).kind
    for split, name in (("test", "test"), ("val", "validation")):
        found = {k.removeprefix(f"{split}_"): v for k, v in run.metrics.items() if k.startswith(f"{split}_")}
        if found:
            speak_of(kind)
            lines.append(f"{name} {kind}s, before export: {worded(run.task.headline(found))}")
    return lines or [f"no figures of its own: not judged on {kind}s here"]


def limits(run: Run) -> list[str]:
    """What it cannot do, a sentence each."""
    given, data, unknown = given_to(run), run.settings.get("data", {}), run._card.get("unknown")
    lines = []
    if run.classes:
        lines.append(f"It knows {counted(len(run.classes), 'class')}, listed in `net.json`, and nothing else.")
    if data:
        lines.append(
            f"It was trained on {counted(data.get('train', 0), given.kind)} of {data['name']}, and is judged on "
            f"{given.kind}s from there; on {given.kind}s from elsewhere it will be worse."
        )
    if unknown and unknown.get("threshold"):
        lines.append(
            f"A picture unlike the training data is 'unknown' by its `{FEATURES}` (`unknown.safetensors`, method "
            f"{unknown['method']}): {unknown['false_alarm']:.0%} of ordinary pictures are called so, too."
        )
    lines.append(given.limit)
    return lines


def text(run: Run, about: Mapping[str, Any], parity: Mapping[str, Any]) -> str:
    """CARD.md. `about`: what net.json says of the export; `parity`: what parity.json says."""
    given = given_to(run)
    sizes = zip(about["input"]["layout"], about["input"]["shape"], strict=True)
    shape = f"({', '.join(name if n is None else str(n) for name, n in sizes)})"
    outputs = [f"- `{one['name']}` ({', '.join(map(str, one['shape']))})" for one in about["outputs"]]
    places = f" Places are in pixels of the input: undo what `{NAME}` does to have those of the file."
    agreed = (
        f"against the run, on {parity[f'{given.kind}s']} {parity['on']}: {parity['equal_answers']:.1%} equal answers, "
        f"outputs differ by {parity['largest_difference']:.2g} at most (`parity.json`)"
    )
    lines = [
        f"# {about['file']}: {run.spec['name']}, task {run.task.name}",
        f"{run.task.about.capitalize()}. {about['precision']}, exported by neocog {about['neocog']}.",
        "## Input and outputs",
        f"`{given.name}` {given.type} {shape} as `{NAME}` prepares it: {given.about}",
        "\n".join(outputs),
        f"{run.task.reading}{places if run.task.geometry else ''}",
        "## Figures",
        "\n".join(f"- {line}" for line in [*figures_text(run), *about.get("figures", ()), agreed]),
        "## Limits",
        "\n".join(f"- {line}" for line in limits(run)),
        "## Licence of the weights",
        " ".join([licence(run), *_from_wordllama(run)]),
    ]
    return shown("\n\n".join(lines) + "\n")
