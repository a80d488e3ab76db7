"""What commands print on stdout: JSON documents and tables. What `predict` writes is in answers.py."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neocog import names
from neocog.cli.terminal import echo, say
from neocog.names import plain
from neocog.records import counted, worded

_CLASSES_SHOWN = 50
_EXAMPLES_SHOWN = 5
_NAMES_SHOWN = 8

if TYPE_CHECKING:
    from neocog.anatomy import Advice, Anatomy, EffectiveField, Misfit, Timing
    from neocog.data.check import Check, Known
    from neocog.fit import Run
    from neocog.fit.recipes import Recipe
    from neocog.records import Facts
    from neocog.tasks import Task


def json_text(document: Any, *, line: bool = False) -> str:
    """Return the text of one JSON document, in one line if `line`."""
    return names.json_text(plain(document), indent=None if line else 2)


def show_json(document: Any, *, line: bool = False) -> None:
    """Print one JSON document on stdout, in one line if `line`."""
    echo(json_text(document, line=line))


def show(document: Any, lines: Iterable[object], *, json: bool) -> None:
    """Print an answer on stdout: a JSON document if `json`, else lines for people."""
    if json:
        show_json(document)
        return
    for line in lines:
        echo(line)


def show_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows, all with the keys of the first, as a table on stdout; in a pipe it is never cut to a width."""
    rows = list(rows)
    if not rows:
        echo("(none)")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in rows[0]:
        numeric = all(isinstance(row.get(name), (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(number(row.get(name))) for name in rows[0]))
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 100_000)
    with console.capture() as text:
        console.print(table)
    for line in text.get().splitlines():
        echo(line.rstrip())


def show_run(run: Run, *, json: bool) -> None:
    """Print the results of a training, and its folder."""
    if json:
        show_json(
            {
                "run": run.folder,
                "task": run.task.name,
                "report": run.report,
                "classes": run.classes,
                "metrics": run.metrics,
            }
        )
        return
    echo(f"run: {run.folder}")
    for line in run.summary():
        echo(line)


def show_scan(scan: Mapping[str, Any]) -> None:
    """Print a learning-rate scan: the curve, then what it suggests."""
    for value in scan.values():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            show_table(value)
    for name, value in scan.items():
        if _short(value):
            echo(f"{name}: {number(value)}")


def by_depth(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each number of transferred layers, with a column for each kind of transfer."""
    table: dict[int, dict[str, Any]] = {}
    for row in rows:
        line = table.setdefault(row["n"], {"layers": row["n"], "up to": row["layer"]})
        line[row["kind"]] = row["accuracy"]
    kinds = list(dict.fromkeys(kind for line in table.values() for kind in line))
    return [{kind: line.get(kind) for kind in kinds} for _, line in sorted(table.items())]


def show_evaluation(result: Mapping[str, Any]) -> None:
    """Print the measures of each run, and of the mean of their probabilities, one row each."""
    echo(f"{result['data']}, split {result['split']}: {worded(counted(result['n']))}")
    for note in result["notes"]:
        say(worded(note))
    measured = list(result["runs"])
    if result["ensemble"]:
        measured.append({"run": "all together", **result["ensemble"]})
    names = [name for name, value in measured[0].items() if name not in ("run", "n") and _short(value)]
    show_table({"run": one["run"], **{name: one.get(name) for name in names}} for one in measured)
    if result["ensemble"]:
        from neocog.fit.ensembles import tables

        echo(f"in the order of {result['ensemble']['order']}:")
        for rows in tables(result["ensemble"]):
            show_table(rows)


def _known(column: Known, pictures: int) -> str:
    """What is known in one column: "boxes of 118 of 120 pictures, 402 in total: car, bus, bicycle"."""
    of = "all pictures" if column.pictures == pictures else f"{column.pictures:,} of {counted(pictures)}"
    names = column.names[:_NAMES_SHOWN]
    more = f" and {len(column.names) - len(names):,} more" if len(column.names) > len(names) else ""
    said = [f"{column.kind} of {of}"]
    said += [f"{column.things:,} in total"] if column.things is not None else []
    return ", ".join(said) + (f": {', '.join(names)}{more}" if names else "")


def show_check(found: Check) -> None:
    """Print what a check found: counts, then the findings, the worst first, each with advice."""
    document = found.to_json()
    echo(f"{found.source}: {found.summary}")
    for note in found.notes:
        echo(f"note: {note}")
    splits = [name for name, count in document["splits"].items() if count]
    rows = [{"class": row["name"], **{name: row[name] for name in splits}} for row in document["classes"]]
    if document["unlabelled"]:
        by_split = dict(zip(document["splits"], found.counts[-1].tolist(), strict=True))
        rows.append({"class": "(no label)" if rows else "(no classes)", **{name: by_split[name] for name in splits}})
    if [one.role for one in found.columns] != ["label"]:
        for one in found.columns:
            echo(f"{one.role}: {_known(one, found.pictures)}")
    echo("")
    show_table(rows[:_CLASSES_SHOWN])
    if len(rows) > _CLASSES_SHOWN:
        echo(f"... and {counted(len(rows) - _CLASSES_SHOWN, 'more class')}; --json has them all")
    for side, span in document["sizes"].items():
        echo(f"{side}: {span['min']} to {span['max']} pixels, median {span['median']}")
    if found.noise:
        echo("\nhow pictures are labelled, as far as can be told:")
        show_table([_noise(name, row) for name, row in list(found.noise.items())[:_CLASSES_SHOWN]])
    for finding in found.findings:
        echo(f"\n{finding.severity}: {finding.title}")
        for group in finding.groups[:_EXAMPLES_SHOWN]:
            echo("    " + " = ".join(one.key for one in group) + f"  {group[0].note}".rstrip())
        hidden = len(finding.groups) - _EXAMPLES_SHOWN + finding.more
        if hidden > 0:
            echo(f"    ... and {hidden:,} more; --html and --json show them")
        echo(f"  {finding.advice}")


def _noise(name: str, row: Mapping[str, float]) -> dict[str, str]:
    """A row of the noise matrix: the labels that pictures of a class carry wrongly, the commonest first."""
    wrong = sorted(((p, label) for label, p in row.items() if label != name and p >= 0.005), reverse=True)
    others = ", ".join(f"{label} {p:.0%}" for p, label in wrong[:4])
    return {"class": name, "labelled so": f"{row.get(name, 0.0):.0%}", "labelled otherwise": others}


def show_nets(facts: Iterable[Facts]) -> None:
    """Print the zoo, one net a row, and how many there are."""
    rows = [
        {
            "name": f.name,
            "family": f.family,
            "year": str(f.year),
            "parameters": f.params,
            "MACs": f.macs,
            "reads": f.reads,
            "input": "x".join(map(str, f.input)),
            "task": f.task,
            "published": f.accuracy,
            "paper": f.paper,
        }
        for f in facts
    ]
    show_table(rows)
    say(counted(len(rows), "net"))


def show_anatomy(anatomy: Anatomy, depth: int | None) -> None:
    """Print the table and the totals of a net."""
    from neocog.anatomy import to_text

    echo(to_text(anatomy, depth))


def show_misfits(misfits: Sequence[Misfit]) -> None:
    """Say what becomes useless at this input size."""
    if misfits:
        echo("\nAt this size:")
    for item in misfits:
        echo(f"  {item.text}")


def show_advice(items: Sequence[Advice], anatomy: Anatomy) -> None:
    """Print the advice, the largest saving first."""
    for number_, item in enumerate(items, start=1):
        names = ", ".join(item.layers[:4]) + (f" and {len(item.layers) - 4} more" if len(item.layers) > 4 else "")
        echo(f"{number_}. {item.rule}: {names}")
        echo(f"   {item.evidence}")
        echo(f"   change: {item.change}")
        saved = [
            f"{value:,} {what}" + (f" ({value / whole:.0%})" if whole else "")
            for value, what, whole in (
                (item.saves_params, "parameters", anatomy.params),
                (item.saves_macs, "multiply-adds", anatomy.macs),
                (item.saves_bytes, "bytes", 0),
            )
            if value
        ]
        if saved:
            echo(f"   saves: {', '.join(saved)}")
        if item.rewrite:
            echo(f"   do it: neocog.anatomy.rewrite(net, {item.rewrite!r})")
        echo("")
    echo(f"{counted(len(items), 'piece')} of advice" if items else "nothing to improve was found")


def show_measured(
    anatomy: Anatomy, times: Sequence[Timing] | None = None, effective: EffectiveField | None = None
) -> None:
    """Print times of layers, the slowest first, and the effective receptive field."""
    if times is not None:
        from neocog.anatomy import intensity

        layers = {layer.name: layer for layer in anatomy.layers}
        rows = [
            {
                "layer": t.name,
                "kind": t.kind,
                "ms": round(1e3 * t.seconds, 3),
                "share": f"{t.share:.1%}",
                "MACs": layers[t.name].macs if t.name in layers else 0,
                "operations per byte": round(intensity(layers[t.name], anatomy), 1) if t.name in layers else 0.0,
            }
            for t in sorted(times, key=lambda t: -t.seconds)
        ]
        show_table(rows)
        say(f"{1e3 * sum(t.seconds for t in times):.1f} ms in total (medians of single layers)")
    if effective is not None:
        theoretical = " x ".join(map(str, effective.theoretical))
        echo(
            f"effective receptive field of {effective.layer}: about {effective.size:.0f} x {effective.size:.0f} "
            f"pixels, {effective.share:.0%} of the theoretical {theoretical} inside the picture"
        )


def task_facts(task: type[Task]) -> dict[str, Any]:
    """What `neocog tasks --json` says of a task."""
    goal, best = task.goal
    return {
        "name": task.name,
        "about": task.about,
        "needs": dict(task.needs),
        "goal": goal,
        "figure": task.figure,
        "best": best,
        "options": dict(task.options),
    }


def show_tasks(tasks: Sequence[type[Task]]) -> None:
    """Print the tasks: what each needs of a picture, the figure that judges it, and its options."""
    show_table(
        {
            "name": one.name,
            "about": one.about,
            "needs": ", ".join(f"{role} ({kind})" if role != kind else role for role, kind in one.needs.items()),
            "judged by": f"{one.figure} ({one.goal[0]})" if one.figure != one.goal[0] else one.figure,
            "options": " ".join(f"{k}={v}" for k, v in one.options.items()),
        }
        for one in tasks
    )
    say("'neocog train DATA --task NAME' trains one; without --task it is chosen by the annotations")


def show_recipes(recipes: Iterable[Recipe]) -> None:
    """Print the recipes: what each is for, and the fields that people change most."""
    fields = ("epochs", "batch_size", "optimizer", "lr", "weight_decay", "schedule")
    show_table({"name": r.name, **{field: getattr(r, field) for field in fields}, "about": r.about} for r in recipes)
    say("'neocog recipes --json' shows every field; 'neocog train DATA --set FIELD=VALUE' changes one")


def _short(value: Any) -> bool:
    """Whether a value fits in a table cell."""
    return value is None or isinstance(value, (str, int, float))


def number(value: Any) -> str:
    """A value as people read it: thousands separators, four significant digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "not a number"
    return str(value)
