"""The main job once, from pictures to predictions: what `make demo` shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neocog.records import counted

if TYPE_CHECKING:
    from neocog.fit import Run

# Real handwritten digits, and pictures that neocog draws itself: both are there without a network.
BUILT_IN = ("digits", "drawn:n=2000,size=32")
MINUTES = 1.0  # for each of the two built-in sets
MINUTES_YOURS = 3.0


def demo(
    data: str | None = None,
    *,
    minutes: float | None = None,
    out: str | Path | None = None,
    offline: bool = False,
    progress: bool = True,
    say: Callable[[str], Any] = print,
) -> list[Run]:
    """Look pictures over, train on them, measure, predict; on `data`, or on two built-in sets.

    `minutes` is how long each run takes; `out` the folder for the run folders (default ``runs``). `say` is
    called with one line of text at a time.

    Returns: the runs.
    Raises: NeocogError, as `neocog.train` does.
    """
    each = minutes if minutes is not None else MINUTES if data is None else MINUTES_YOURS
    parent = Path("runs" if out is None else out)
    runs = [_one(spec, each, parent, offline, progress, say) for spec in ([data] if data else BUILT_IN)]
    say("")
    say("Reports, each one file for the browser:")
    for run in runs:
        say(f"  {run.report}")
    say("Next, with pictures of your own, in a folder with a folder for each class:")
    say("  neocog check photos/    neocog train photos/    neocog predict RUN new.jpg")
    return runs


def _one(spec: str, minutes: float, parent: Path, offline: bool, progress: bool, say: Callable[[str], Any]) -> Run:
    from neocog.data import open_source
    from neocog.data.check import check
    from neocog.fit import train
    from neocog.fit.run import free_folder, read_tensors

    source = open_source(spec, offline=offline)
    say("")
    say(f"{source.name}: {counted(len(source))}, {counted(len(source.classes), 'class')}")
    found = check(source)
    say(found.summary)
    run = train(
        spec, minutes=minutes, out=free_folder(f"demo-{source.name}", parent), offline=offline, progress=progress
    )
    for line in run.summary():
        say(line)
    tested = read_tensors(run.folder / "test.safetensors")[0]["index"].tolist()
    some = tested[:: max(1, len(tested) // 5)][:5]
    say("some of the test pictures:")
    for i, prediction in zip(some, run.predict([source.read(i) for i in some], top=1), strict=True):
        said = "unknown" if prediction.unknown else f"{prediction.label} ({prediction.probability:.0%})"
        say(f"  {source.key(i)}, which is {source.sample(i).label}: {said}")
    return run
