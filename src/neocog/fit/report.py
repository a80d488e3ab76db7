"""report.html: what one run did, for people, made from the files of its run folder alone.

Whatever a run has not (no test split, no end because it was killed, no pictures at hand) is left out or said.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from neocog.errors import RunError
from neocog.fit import report_task
from neocog.fit.findings import Finding, read_curves, read_dead, read_update_ratios
from neocog.fit.predicting import misfit_metrics, task_in
from neocog.fit.report_results import (
    Pictures,
    calibration_section,
    confusion_section,
    errors_section,
    pairs,
    per_class_section,
    unknown_section,
)
from neocog.fit.report_transfer import cross_validation, transfer_section
from neocog.fit.run import damaged, read_json, records, write_atomically
from neocog.page import Html, line_chart, page, paragraph, table, text
from neocog.records import counted
from neocog.tasks.measures import evaluate_logits, fit_temperature

_PROBLEMS = 50
_ORDER = {"bad": 0, "warn": 1, "good": 2}


def write_report(run_folder: Path, pictures: Pictures | None = None) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    Read are run.json, net.json, log.jsonl, problems.json, and test.safetensors or val.safetensors (logits float32
    (N, K), labels int64 (N,), index int64 (N,)); each may be missing, but not all. `pictures` gives the picture of an
    index, uint8 (H, W, 3) or (H, W) or encoded bytes (a Source's `read`), for the gallery of errors; a picture that
    cannot be read is left out.

    Raises:
        RunError: the folder holds none of these files, or one of its JSON files is damaged.
    """
    run_folder = Path(run_folder)
    run, net = _json(run_folder / "run.json", _Run), _json(run_folder / "net.json", _Net)
    log = records(run_folder)
    asked = _dig(net, "task", "name") or _dig(run, "settings", "task", "name") or "label"
    if asked != "label":
        return _write_task_report(run_folder, run, net, log)
    if wrong := misfit_metrics(net.get("metrics") or {}):
        raise damaged(run_folder / "net.json", wrong)
    results = {split: found for split in ("test", "val") if (found := _logits(run_folder / f"{split}.safetensors"))}
    if not (run or net or log or results):
        raise RunError(f"expected a run folder with run.json or log.jsonl, got {run_folder}; 'neocog train' makes one")
    start, end = _last(log, "start"), _last(log, "end")
    epochs = list({record.get("step", number): record for number, record in enumerate(_of(log, "epoch"))}.values())
    classes = _classes(run, net, results)
    split = next(iter(results), None)
    temperature = _temperature(net, results)
    figures = _figures(results, split, classes, temperature)

    result = _headline(run, start, end, epochs, figures, split) + _kept(net)
    result += cross_validation(net.get("metrics") or {})
    sections: list[tuple[str, str]] = [("Result", result), *_training(run, log, start, epochs)]
    if figures and split:
        sections.append(("Errors", errors_section(results[split], classes, temperature, figures[1], pictures)))
        sections.append(("Classes", per_class_section(figures[1])))
        sections.append(("Confusion matrix", confusion_section(results[split], figures[1], classes)))
        sections.append(("Calibration", calibration_section(*figures)))
    if net.get("unknown"):
        sections.append(("Unknown pictures", unknown_section(net["unknown"])))
    return _write(run_folder, sections, run, net, log, epochs)


def _write_task_report(folder: Path, run: Any, net: Any, log: Sequence[Mapping[str, Any]]) -> Path:
    """The report of a task that is not label, by the contract of tasks."""
    start = _last(log, "start")
    epochs = list({record.get("step", number): record for number, record in enumerate(_of(log, "epoch"))}.values())
    sections: list[tuple[str, str]] = []
    if net:
        task = task_in(net, folder / "net.json")
        split, seen = report_task.seen_of(folder)
        metrics = net.get("metrics") or {}
        head = report_task.result(task, split, metrics) + _kept(net) + _pictures(run, start)
        sections = [("Result", Html(head)), *_training(run, log, start, epochs)]
        if (shown := report_task.examples(folder)) is not None:
            sections.append(("Examples", shown))
        if split is not None:
            sections += [(part.title, part.body) for part in task.sections(seen, task.figures(seen))]
    else:
        sections = [("Result", Html(_unfinished(epochs) + _pictures(run, start))), *_training(run, log, start, epochs)]
    return _write(folder, sections, run, net, log, epochs)


def _training(
    run: Any, log: Sequence[Mapping[str, Any]], start: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """How it was learned: what it started from, the diagnosis, the curves."""
    sections: list[tuple[str, str]] = []
    if start.get("start"):
        sections.append(("Start", transfer_section(start["start"], _last(log, "head"))))
    if epochs or _dig(start, "start", "regime") != "features":
        sections.append(("Diagnosis", _diagnosis(log, epochs, run)))
        sections.append(("Curves", _curves(epochs)))
    return sections


def _write(
    folder: Path,
    sections: list[tuple[str, str]],
    run: Any,
    net: Any,
    log: Sequence[Mapping[str, Any]],
    epochs: Sequence[Mapping[str, Any]],
) -> Path:
    """Add what is the same for every task, and write the page."""
    start, end = _last(log, "start"), _last(log, "end")
    sections.append(("Time", _time(epochs, end)))
    sections.append(("Settings", _settings(run, start)))
    problems = _json(folder / "problems.json", list[Any] | dict[str, Any])
    sections.append(("Notes and problems", _notes(run, start, problems)))
    sections.append(("How to reproduce", _reproduce(run, net)))
    name, data = _net_name(run, net, start), _dig(run, "data", "name")
    title = f"{name} on {data}" if data else name
    path = folder / "report.html"
    html = page(title, sections, subtitle=f"neocog run {folder.resolve().name}")
    write_atomically(path, html.encode())
    return path


# ---------------------------------------------------------------- reading


class _Run(TypedDict, total=False):
    command: str | list[str]
    settings: dict[str, Any]
    data: dict[str, Any]


class _Unknown(TypedDict, total=False):
    false_alarm: float
    auroc: dict[str, float] | float | None
    caught: dict[str, float]


class _Kept(TypedDict):
    epoch: float
    of: float
    why: str


class _Net(TypedDict, total=False):
    net: dict[str, Any] | str
    classes: list[str]
    temperature: float | None
    metrics: dict[str, Any]
    task: dict[str, Any]
    unknown: _Unknown | None
    kept: _Kept


def _json(path: Path, form: Any) -> Any:
    return read_json(path, form) if path.exists() else {}


def _logits(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}); 'neocog resume' writes it again") from None
    if not {"logits", "labels"} <= arrays.keys():
        raise RunError(f"{path}: expected the arrays logits, labels and index, got {', '.join(sorted(arrays))}")
    # Unlabelled pictures are -1 for the measures and -100 for PyTorch's loss.
    known = arrays["labels"] >= 0
    arrays.setdefault("index", np.arange(len(known)))
    return {name: arrays[name][known] for name in ("logits", "labels", "index")} if known.any() else None


def _of(log: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    return [record for record in log if record.get("kind") == kind]


def _last(log: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    return next(reversed(_of(log, kind)), {})


def _dig(record: Any, *keys: str) -> Any:
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def _classes(run: Any, net: Any, results: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Return the class names, or numbers where the run does not tell them."""
    names = [str(name) for name in net.get("classes") or _dig(run, "data", "classes") or []]
    width = next((found["logits"].shape[1] for found in results.values()), len(names))
    return names if len(names) == width else [f"class {number}" for number in range(width)]


def _net_name(run: Any, net: Any, start: Mapping[str, Any]) -> str:
    named = _dig(net, "net", "name") or start.get("net") or _dig(run, "settings", "net") or "net"
    return str(named.get("name", "net") if isinstance(named, Mapping) else named)


def _temperature(net: Any, results: Mapping[str, Mapping[str, np.ndarray]]) -> float:
    """Return the run's temperature; a run that has none yet gets that of its validation split."""
    value = net.get("temperature")
    if isinstance(value, int | float) and math.isfinite(value) and value > 0:
        return float(value)
    found = results.get("val")
    return fit_temperature(found["logits"], found["labels"]) if found and np.isfinite(found["logits"]).all() else 1.0


def _figures(
    results: Mapping[str, Mapping[str, np.ndarray]], split: str | None, classes: Sequence[str], temperature: float
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the figures before and after temperature scaling, or None without usable logits."""
    if split is None or not np.isfinite(results[split]["logits"]).all():
        return None
    found = results[split]
    before = evaluate_logits(found["logits"], found["labels"], classes)
    return before, evaluate_logits(found["logits"], found["labels"], classes, temperature)


# ---------------------------------------------------------------- sections


def _headline(
    run: Any,
    start: Mapping[str, Any],
    end: Mapping[str, Any],
    epochs: Sequence[Mapping[str, Any]],
    figures: tuple[dict[str, Any], dict[str, Any]] | None,
    split: str | None,
) -> Html:
    parts = []
    if figures:
        now = figures[1]
        low, high = now["accuracy_interval"]
        where = {"test": "test split", "val": "validation split"}[split or "val"]
        parts.append(f'<p style="font-size:2rem;margin:.2rem 0"><b>{now["accuracy"]:.2%}</b> accuracy</p>')
        line = f"On the {where}, n = {now['n']:,}; 95% interval {low:.2%} to {high:.2%} (Wilson)."
        if split == "val":
            line += (
                " There is no test split: settings were chosen on these pictures, so expect a little less on new ones."
            )
        parts.append(paragraph(line))
        of, there = len(now["per_class"]), sum(row["support"] > 0 for row in now["per_class"])
        equal = "every class counts the same"
        if there < of:
            equal += f"; {of - there} of {of} classes have no picture here and are not measured"
        rows = [
            {"figure": f"macro-F1 ({equal})", "value": f"{now['macro_f1']:.4f}"},
            {"figure": "log loss, after temperature", "value": f"{now['loss']:.4f}"},
            {"figure": "calibration error, after temperature", "value": f"{now['ece']:.2%}"},
            {"figure": "Brier score (0 to 2, lower is better)", "value": f"{now['brier']:.4f}"},
        ]
        if "top5_accuracy" in now:
            rows.insert(0, {"figure": "accuracy among the first five", "value": f"{now['top5_accuracy']:.2%}"})
        parts.append(table(rows, numeric=("value",)))
    elif split:
        parts.append(paragraph("The net's outputs are not finite numbers: the training diverged.", kind="error"))
    elif epochs and isinstance(epochs[-1].get("val_accuracy"), int | float):
        value = f"Validation accuracy after {_epoch(epochs)}: {epochs[-1]['val_accuracy']:.2%}."
        parts.append(paragraph(value + " The run has not been evaluated yet."))
    else:
        parts.append(paragraph("No labelled validation or test picture was evaluated."))
    if not end:
        parts.append(_unfinished(epochs))
    parts.append(_pictures(run, start))
    return Html("".join(parts))


def _unfinished(epochs: Sequence[Mapping[str, Any]]) -> Html:
    when = f" after {_epoch(epochs)}" if epochs else " before the first epoch ended"
    line = f"This training did not end: the log stops{when}. 'neocog resume' continues it."
    return paragraph(line, kind="warning")


def _pictures(run: Any, start: Mapping[str, Any]) -> Html:
    counts = [(name, start.get(name, _dig(run, "data", name))) for name in ("train", "val", "test")]
    shown = ", ".join(f"{count:,} {name}" for name, count in counts if isinstance(count, int))
    size = f"{start['params']:,} parameters; " if isinstance(start.get("params"), int) else ""
    return paragraph(f"{size}pictures: {shown}." if shown else size) if shown or size else Html("")


def _kept(net: Any) -> Html:
    kept = net.get("kept")
    return paragraph("Weights kept: epoch {epoch:.4g} of {of:.4g}, {why}.".format(**kept)) if kept else Html("")


def _epoch(epochs: Sequence[Mapping[str, Any]]) -> str:
    at = epochs[-1].get("epoch")
    return counted(at if isinstance(at, int | float) else len(epochs), "epoch")


def _diagnosis(log: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]], run: Any) -> Html:
    logged = {record.get("name", ""): record for record in _of(log, "diagnosis")}  # a resumed run asks again
    findings = [
        Finding(name, *(str(record.get(key) or "") for key in ("verdict", "evidence", "advice")))
        for name, record in logged.items()
    ]
    read = read_curves(epochs, _dig(run, "settings") or {})
    ratios = [record["update_ratio"] for record in epochs if record.get("update_ratio")]
    dead = [record["dead"] for record in epochs if record.get("dead")]
    optimizer = str(_dig(run, "settings", "recipe", "optimizer") or "sgd")
    read += [read_update_ratios(ratios[len(ratios) // 2], optimizer)] if ratios else []  # at the end the rate is 0
    read += [read_dead(dead[-1])] if dead else []
    findings += [finding for finding in read if finding.name not in logged]
    if not findings:
        return paragraph("No diagnosis: the log has no finished epoch.")
    findings.sort(key=lambda finding: _ORDER.get(finding.verdict, 1))
    rows = [
        {
            "question": finding.name,
            "verdict": Html(
                f'<span class="{finding.verdict if finding.verdict in _ORDER else ""}">{text(finding.verdict)}</span>'
            ),
            "evidence": finding.evidence,
            "what to do": finding.advice,
        }
        for finding in findings
    ]
    return table(rows)


def _series(epochs: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    points = ((record.get("epoch", number + 1), record.get(key)) for number, record in enumerate(epochs))
    return [
        (at, v) for at, v in points if isinstance(v, int | float) and isinstance(at, int | float) and math.isfinite(v)
    ]


def _curves(epochs: Sequence[Mapping[str, Any]]) -> Html:
    if not epochs:
        return paragraph("No epoch was finished.")
    parts = []
    known = {"loss", "error", "accuracy_interval", "classes", "n"}
    logged = dict.fromkeys(key for record in epochs for key in record if key.startswith(("train_", "val_")))
    asked = dict.fromkeys(
        name
        for key in logged
        if (name := key.split("_", 1)[1]) not in known and not name.endswith(("_n", "_standard_error"))
    )
    # first those that training and validation have in common
    figures = sorted(asked, key=lambda name: f"train_{name}" not in logged or f"val_{name}" not in logged)
    own = [
        (
            name.replace("_", " ").capitalize(),
            {"training": f"train_{name}", "validation": f"val_{name}"},
            name.replace("_", " "),
        )
        for name in figures
    ]
    for heading, keys, y in (
        ("Loss", {"training": "train_loss", "validation": "val_loss"}, "loss"),
        *own[:8],
        ("Learning rate", {"learning rate": "lr"}, "learning rate"),
    ):
        series = {name: points for name, key in keys.items() if (points := _series(epochs, key))}
        if series:
            values = [v for points in series.values() for _, v in points]
            deep = y == "loss" and 0 < 20 * min(values) < max(values)  # else the end of the curve is a flat line
            parts.append(_chart(heading, line_chart(series, x="epoch", y=y, log_y=deep)))
    last: Mapping[str, float] = next(
        (record["update_ratio"] for record in reversed(epochs) if record.get("update_ratio")), {}
    )
    if last:
        names = list(last)[:: max(1, math.ceil(len(last) / 8))]
        ratios = [(r.get("epoch", n + 1), r.get("update_ratio") or {}) for n, r in enumerate(epochs)]
        series = {name: [(at, found[name]) for at, found in ratios if found.get(name)] for name in names}
        parts.append(_chart("Update ratio", line_chart(series, x="epoch", y="|step| / |weight|", log_y=True)))
    told = "Training figures are running means over each epoch, on augmented pictures and with label smoothing in the "
    told += "loss, so validation may look better."
    style = "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(28rem,100%),1fr));gap:0 1.5rem"
    return Html(f'<div style="{style}">{"".join(parts)}</div>{paragraph(told)}')


def _chart(heading: str, chart: str) -> str:
    return f"<div><h3>{heading}</h3>{chart}</div>"


def _time(epochs: Sequence[Mapping[str, Any]], end: Mapping[str, Any]) -> Html:
    seconds = sum(v for _, v in _series(epochs, "seconds"))
    rows: dict[str, object] = {}
    if isinstance(end.get("seconds"), int | float):
        rows["whole run"] = _duration(end["seconds"])
    if seconds:
        rows["training epochs"] = _duration(seconds)
        weighed = [(r, r["seconds"]) for r in epochs if isinstance(r.get("seconds"), int | float)]
        rates = [
            (r["pictures_per_second"] * s, s)
            for r, s in weighed
            if isinstance(r.get("pictures_per_second"), int | float)
        ]
        waits = [(r["waiting"] * s, s) for r, s in weighed if isinstance(r.get("waiting"), int | float)]
        if rates:
            rows["pictures per second"] = f"{sum(a for a, _ in rates) / sum(s for _, s in rates):,.0f}"
        if waits:
            share = sum(a for a, _ in waits) / sum(s for _, s in waits)
            advice = ": the data, not the net, limit the speed" if share > 0.2 else ""
            rows["share of the time waiting for data"] = f"{share:.1%}{advice}"
    return pairs(rows) if rows else paragraph("No time was recorded.")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _settings(run: Any, start: Mapping[str, Any]) -> Html:
    settings = dict(_dig(run, "settings") or {})
    settings.pop("classes", None)  # they have their own table
    recipe = settings.pop("recipe", start.get("recipe"))
    rows = {key: value for key, value in settings.items() if value is not None}
    for key, value in (("device", _dig(run, "device") or start.get("device")), ("recipe", _dig(recipe, "name"))):
        if value:
            rows[key] = value
    parts: list[str] = [pairs(rows)]
    if isinstance(recipe, Mapping):
        on = {
            key: v
            for key, v in recipe.items()
            if key not in ("name", "about") and v not in (0, "", None, False, "none")
        }
        off = [key for key in recipe if key not in on and key not in ("name", "about")]
        parts += ["<h3>Recipe</h3>", paragraph(recipe["about"]) if recipe.get("about") else ""]
        # As they are typed after --set; one below the other they would fill a page.
        parts.append(
            f"<p>{' &nbsp; '.join(f'<code>{text(key)}={text(_value(v))}</code>' for key, v in on.items())}</p>"
        )
        parts.append(paragraph(f"Off: {', '.join(off)}.") if off else "")
    elif recipe:
        parts.append(pairs({"recipe": recipe}))
    return Html("".join(parts))


def _notes(run: Any, start: Mapping[str, Any], problems: Any) -> Html:
    notes = list(start.get("notes") or _dig(run, "data", "notes") or [])
    parts = []
    if notes:
        parts.append("<ul>" + "".join(f"<li>{text(note)}</li>" for note in notes) + "</ul>")
    listed = problems.get("problems", []) if isinstance(problems, Mapping) else problems
    rows = [{"picture": row.get("key"), "reason": row.get("reason")} for row in listed if isinstance(row, Mapping)]
    if rows:
        shown = f"; the first {_PROBLEMS} are shown, problems.json has all" if len(rows) > _PROBLEMS else ""
        parts.append(paragraph(f"{counted(len(rows))} could not be used{shown}.", kind="warning"))
        parts.append(table(rows[:_PROBLEMS]))
    return Html("".join(parts)) if parts else paragraph("None.")


def _reproduce(run: Any, net: Any) -> Html:
    parts = []
    command = run.get("command")
    if command:
        words = [command] if isinstance(command, str) else [str(part) for part in command]
        if Path(words[0]).name in ("__main__.py", "neocog"):  # where it is installed is of no interest
            words[0] = "neocog"
        line = command if isinstance(command, str) else shlex.join(words)
        parts.append(f"<pre>{text(line)}</pre>")
    rows: dict[str, object] = {
        "seed": _dig(run, "settings", "seed"),
        "data": _dig(run, "data", "spec"),
        "data fingerprint": _dig(run, "data", "fingerprint"),
        "git commit": run.get("git"),
        "neocog": net.get("neocog"),
    }
    for key in ("versions", "hardware"):
        found = run.get(key)
        rows |= {str(k): v for k, v in found.items()} if isinstance(found, Mapping) else {key: found}
    return Html("".join(parts) + pairs({key: value for key, value in rows.items() if value is not None}))


def _value(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
