"""Which engine computes a graph here: what is installed and the processor's flags decide, then a short measurement.

Graphs are kept in the user's cache (``graphs``), each with a note of which engines gave PyTorch's answers for it; a
graph with such a note is used without PyTorch. What was measured is in ``speed.json``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from neocog.engine.engines import GRAPHS, Engine, Shared, agreement, cores, installed
from neocog.engine.speed import cpuinfo, processor, recalled, seconds_of
from neocog.errors import NeocogError
from neocog.files import cache_folder, read_dict, write_atomically

FORMAT = 1  # of the graphs in the cache; another one when what is written changes
# Cosine to PyTorch's float32: in float32, in bfloat16. EfficientNet-Lite0 in OpenVINO's bfloat16 has 0.9992, MobileNet
# v1 0.75 only 0.9974, so that it is computed in float32.
LEAST = {False: 0.9999, True: 0.999}
_KEPT = 12  # graphs in the cache, of 10 to 100 MB; the one that was used least recently goes first
_BF16 = {"amx_bf16", "avx512_bf16"}
_hinted: set[str] = set()
Reference = Callable[[np.ndarray], Sequence[np.ndarray]]


def candidates(fast: bool) -> list[str]:
    """Names in `GRAPHS` of what is installed; with `fast`, bfloat16 where the processor is made for it.

    Whatever comes after a bfloat16 engine is slower: 1.9 times on a processor with AVX512-BF16.
    """
    there = [name for name, (engine, _) in GRAPHS.items() if installed(engine.package)]
    wide = fast and bool(_BF16 & set(cpuinfo("flags").split()))
    return [name for name in there if wide or not GRAPHS[name][1]]


def place(*parts: Any) -> Path:
    """Where the graph is kept that `parts`, JSON-able, tell apart from all others: weights, net, layer, size, ..."""
    text = json.dumps([FORMAT, *parts], sort_keys=True, default=str)
    return cache_folder() / "graphs" / f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.onnx"


def ensure(path: Path, write: Callable[[Path], object]) -> None:
    """Have a graph written, unless it is there; old ones go. Raises: what `write` raises, OSError."""
    if path.is_file():
        os.utime(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    for old in sorted(path.parent.glob("*.onnx"), key=lambda one: -one.stat().st_mtime)[_KEPT:]:
        old.unlink(missing_ok=True)
        old.with_suffix(".json").unlink(missing_ok=True)


def facts(path: Path) -> dict[str, Any]:
    """What is noted beside a graph: shapes of its outputs, and the cosine to PyTorch of engines that agree."""
    found = read_dict(path.with_suffix(".json"))
    return found if path.is_file() and isinstance(found.get("agreement"), dict) else {}


def checked(path: Path, *, fast: bool = False) -> Engine | None:
    """An engine that was found to agree on this graph before, the one that starts first; None if there is none."""
    agreed = facts(path).get("agreement", {})
    names = candidates(fast)
    for name in names if fast else reversed(names):  # ONNX Runtime starts in half the time
        if _versioned(name) in agreed:
            try:
                return _opened(name, path)
            except Exception:  # a damaged file, an engine that refuses: PyTorch computes, and the graph is made again
                path.unlink(missing_ok=True)
                return None
    return None


def graph_of(
    path: Path,
    write: Callable[[Path], object],
    reference: Reference,
    x: np.ndarray,
    *,
    structure: str,
    fast: bool,
    say: Callable[[str], object] = lambda text: None,
) -> Engine | None:
    """The fastest engine here that answers as PyTorch does; None if there is none, or the graph cannot be written.

    Of several that are left open one is taken by a measurement of less than half a second on `x`, which is kept. An
    engine that fails or disagrees is not used, and `say` tells so.

    Args:
        path: the graph; `write` makes it where it is not kept.
        reference: PyTorch's answers in float32.
        x: a real batch.
        structure: what the speed of a net depends on; not its weights.
        fast: bfloat16 may be used, and measuring pays.
    """
    names = candidates(fast)
    if not names or not installed("onnx"):
        hint(say)
        return None
    try:
        ensure(path, write)
    except (NeocogError, OSError) as error:
        say(f"PyTorch computes: {error}")
        return None
    if fast:
        hint(say)
    question = f"{structure}, {len(x)} inputs"
    machine = f"{processor()}, {cores()} cores, {', '.join(map(_versioned, names))}"
    known = recalled(question, machine, names)
    measured = fast and known is None and not any(GRAPHS[name][1] for name in names)
    order = sorted(names, key=known.__getitem__) if known else names if fast else names[::-1]
    expected = reference(x)
    agreed: dict[str, float] = {}

    def ready(name: str) -> Engine | None:
        kind, bf16 = GRAPHS[name]
        try:
            engine = _opened(name, path)
            cosine = agreement(Shared(engine).run_here(x), expected)
        except Exception as error:  # an operator or a size that the engine lacks
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            say(f"{kind.title} is not used: it cannot compute this net ({reason})")
            return None
        if cosine >= LEAST[bf16]:
            agreed[_versioned(name)] = cosine
            return engine
        say(f"{engine.how} is not used: its answers are not PyTorch's (cosine {cosine:.5f}, expected {LEAST[bf16]})")
        return None

    found: dict[str, Engine] = {}
    for name in order:
        if (engine := ready(name)) is not None:
            found[name] = engine
            if not measured:
                break
    best = next(iter(found), None)
    if len(found) > 1:
        times = seconds_of(question, machine, {name: partial(Shared(one).run_here, x) for name, one in found.items()})
        best = min(times, key=times.__getitem__)
    if fast and _versioned(names[-1]) not in agreed:
        ready(names[-1])  # the one that starts first, for later searches
    known_before = facts(path).get("agreement", {})
    text = {"agreement": known_before | agreed, "shapes": [one.shape[1:] for one in expected]}
    with contextlib.suppress(OSError):  # a disk that is full: checked again next time
        write_atomically(path.with_suffix(".json"), json.dumps(text).encode())
    return found[best] if best else None


def _versioned(name: str) -> str:
    return f"{name} {installed(GRAPHS[name][0].package)}"


def hint(say: Callable[[str], object]) -> None:
    """Say once in a process what would make computing faster here, if anything would."""
    if not installed("openvino") and "openvino" not in _hinted:
        _hinted.add("openvino")
        say("OpenVINO would compute this faster: pip install 'neocog[fast]'")


def _opened(name: str, path: Path) -> Engine:
    kind, bf16 = GRAPHS[name]
    return kind(path, bf16) if bf16 else kind(path)  # type: ignore[call-arg]
