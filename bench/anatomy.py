"""How long does it take to read a network, and how much memory? Against the tools that only count.

    python bench/anatomy.py                       # ResNet-50 and ResNet-152, one picture of 224x224
    python bench/anatomy.py --zoo                 # also: every net of the zoo

Time: median of `--repeats` runs of each tool, taken in turns after one run of each to warm up, in one process. The
trace does all that it does by default: shapes, parameters, MACs, memory, receptive fields, and memory in training.

Memory: each tool in a fresh process. There PyTorch, neocog and the tool are imported, the net is built with its
weights and the picture is made; the figure is the most that the resident memory then rises above that while the tool
runs once (by the kernel's high-water mark, reset just before; without that, by the process's peak). `first` is the
time of this first run, which nothing has warmed up.

Tools that are not installed are named and skipped; `--tools neocog,fvcore` chooses. bench/counters.py says why the
totals differ.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from counters import TOOLS, Tool, present, quietly
from torch import Tensor, nn

from neocog import nets
from neocog.anatomy.trace import trace
from neocog.fit.device import hardware

NETS = ("resnet50", "resnet152")
# What a tool's package is imported as, so that its import is not counted as memory of the run.
MODULES = {
    "neocog": "neocog.anatomy.trace",
    "FlopCounterMode": "torch.utils.flop_counter",
    "fvcore": "fvcore.nn",
}


def _everything(net: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """The whole trace, with memory in training, and not only the count."""
    anatomy = trace(net, inputs)
    assert anatomy.training_bytes and anatomy.peak_bytes and anatomy.receptive_field and anatomy.params
    return anatomy.macs


ONCE = TOOLS | {"neocog": TOOLS["neocog"]._replace(total=_everything)}


def ready(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A net with weights, in evaluation mode, and one picture."""
    torch.manual_seed(0)
    return nets.build(name).eval(), (torch.randn(1, 3, 224, 224),)


# --- time --------------------------------------------------------------------------------------------------------


def times(name: str, tools: dict[str, Tool], repeats: int) -> list[dict[str, Any]]:
    """Seconds and total of each tool on one net; the tools take turns."""
    made = {tool: ready(name) for tool in tools}  # each has a net of its own, because some tools change it
    seconds: dict[str, list[float]] = {tool: [] for tool in tools}
    totals: dict[str, int] = {}
    for turn in range(repeats + 1):
        for tool, (net, inputs) in made.items():
            gc.collect()
            begin = time.perf_counter()
            with quietly():
                totals[tool] = int(tools[tool].total(net, inputs))
            if turn:
                seconds[tool].append(time.perf_counter() - begin)
    ours = statistics.median(seconds["neocog"]) if "neocog" in seconds else None
    rows: list[dict[str, Any]] = []
    for tool, values in seconds.items():
        median = statistics.median(values)
        ratio = median / ours if ours else None
        rows.append({"net": name, "tool": tool, "total": totals[tool], "seconds": median, "least": min(values),
                     "most": max(values), "times_neocog": ratio})  # fmt: skip
    return rows


# --- memory ------------------------------------------------------------------------------------------------------


def _resident(field: str) -> int | None:
    """Bytes that the kernel names in /proc/self/status; None on systems that have none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)


def one(tool: str, name: str) -> None:
    """Run a tool once in this process and print how far the memory rose."""
    importlib.import_module(MODULES.get(tool, TOOLS[tool].package))
    net, inputs = ready(name)
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before, how = _resident("VmRSS"), "VmHWM"
    except OSError:
        before = None
    if before is None:
        unit = 1 if sys.platform == "darwin" else 1024
        before, how = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "ru_maxrss"
    begin = time.perf_counter()
    with quietly():
        ONCE[tool].total(net, inputs)
    first = time.perf_counter() - begin
    peak = _resident("VmHWM") if how == "VmHWM" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert peak is not None
    print(json.dumps({"mib_above": (peak - before) / 2**20, "mib_before": before / 2**20, "first": first, "by": how}))


def memory(name: str, tools: dict[str, Tool]) -> dict[str, dict[str, Any]]:
    """What each tool takes, in a process of its own."""
    found = {}
    for tool in tools:
        command = [sys.executable, __file__, "--one", tool, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[tool] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- the zoo -----------------------------------------------------------------------------------------------------


def zoo() -> dict[str, Any]:
    """Trace every net at its published input, on the meta device; building is timed apart."""
    rows: list[dict[str, Any]] = []
    for name in nets.names():
        begin = time.perf_counter()
        with torch.device("meta"):
            net = nets.build(name)
        built = time.perf_counter()
        facts = nets.facts(name)
        anatomy = trace(net, nets.example(net, 1).to("meta"), name=name)
        done = time.perf_counter()
        wrong = (anatomy.trainable, anatomy.macs) != (facts.params, facts.macs)
        rows.append({"net": name, "seconds": done - built, "build": built - begin, "layers": len(anatomy.layers),
                     "notes": list(anatomy.notes), "uncounted": anatomy.uncounted})  # fmt: skip
        if wrong:
            rows[-1]["wrong"] = [anatomy.trainable, anatomy.macs, facts.params, facts.macs]
    slowest = sorted(rows, key=lambda row: -row["seconds"])[:5]
    total, build = sum(row["seconds"] for row in rows), sum(row["build"] for row in rows)
    print(f"\nthe zoo, {len(rows)} nets: {total:.1f} s to trace, {build:.1f} s to build on the meta device; slowest:")
    for row in slowest:
        print(f"  {row['net']} {row['seconds']:.2f} s, {row['layers']:,} layers")
    for row in rows:
        if row["notes"] or row["uncounted"] or "wrong" in row:
            print(f"  {row['net']}: {row.get('wrong', '')} {'; '.join(row['notes'])} {row['uncounted'] or ''}")
    return {"nets": len(rows), "seconds": total, "build": build, "slowest": slowest,
            "not_as_published": [row["net"] for row in rows if "wrong" in row]}  # fmt: skip


# --- all ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, print, and write bench/results/anatomy.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--tools", default=",".join(TOOLS), help="any of: " + ", ".join(TOOLS))
    parser.add_argument("--zoo", action="store_true", help="also trace every net of the zoo")
    parser.add_argument("--no-memory", action="store_true", help="leave the fresh processes out")
    parser.add_argument("--out", default="bench/results")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    chosen = arguments.tools.split(",")
    if unknown := set(chosen) - set(TOOLS):
        parser.error(f"unknown tools {sorted(unknown)}; there are {', '.join(TOOLS)}")
    tools = {name: ONCE[name] for name in present() if name in chosen}
    rows: list[dict[str, Any]] = []
    for name in filter(None, arguments.nets.split(",")):
        found = times(name, tools, arguments.repeats)
        taken = {} if arguments.no_memory else memory(name, tools)
        print(
            f"\n{name}, one picture of 224x224, median of {arguments.repeats}; memory above imports, net and picture\n"
        )
        print("| tool | seconds | times neocog | first run, s | memory, MiB | it counts |\n|---|---|---|---|---|---|")
        for row in found:
            row |= taken.get(row["tool"], {})
            ratio = f"{row['times_neocog']:.2f}" if row["times_neocog"] else ""
            first, above = (
                f"{row[key]:.{digits}f}" if key in row else "" for key, digits in (("first", 2), ("mib_above", 0))
            )
            print(f"| {row['tool']} | {row['seconds']:.3f} | {ratio} | {first} | {above} | {row['total']:,} |")
        rows += found
    result: dict[str, Any] = {"repeats": arguments.repeats, "rows": rows}
    if arguments.zoo:
        result["zoo"] = zoo()
    result |= {
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, **{t.package: t.version for t in tools.values()}},
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
    }
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "anatomy.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
