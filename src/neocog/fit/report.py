"""report.html: what one run did, for people, made from the files of its run folder alone.

One page for all tasks: the result and the sections that the task makes, and how the training went. Whatever a run has
not (no test split, no pictures at hand) is left out or said.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from neocog.charts import line_chart
from neocog.data.decode import decode
from neocog.errors import NeocogError
from neocog.fit import report_results as results
from neocog.fit.card import read_card, task_in
from neocog.fit.examples import sheets
from neocog.fit.findings import Finding, judged, values_of
from neocog.fit.job import reader_of
from neocog.fit.run import read_json, records, write_atomically
from neocog.page import Html, page, pairs, paragraph, table, text
from neocog.records import counted, speak_of, worded
from neocog.tasks.task import words

_PROBLEMS = 50
_ORDER = {"bad": 0, "warn": 1, "good": 2}


def write_report(folder: Path, pictures: Callable[[int], np.ndarray | bytes] | None = None) -> Path:
    """Write ``report.html`` into the folder of a finished run and return its path.

    Read are run.json, net.json, log.jsonl, problems.json, and test.safetensors or val.safetensors. `pictures` gives
    the picture of an index, uint8 (H, W, 3) or (H, W) or encoded bytes (a Source's `read`), for the gallery of errors;
    a picture that cannot be read is left out.

    Raises:
        RunError: a file is damaged.
    """
    folder = Path(folder)
    run, card, log = read_json(folder / "run.json", _Run), read_card(folder), records(folder)
    task, (split, seen) = task_in(card, folder / "net.json"), results.seen_of(folder)
    figures = task.figures(seen) if split else {}
    start, end = _last(log, "start"), _last(log, "end")
    epochs = list({record.get("step", number): record for number, record in enumerate(_of(log, "epoch"))}.values())

    reader = reader_of(task, card.get("reader"))
    speak_of(reader.kind if reader else "picture")

    def picture(row: int) -> np.ndarray | Html | None:
        try:
            found = pictures(int(seen["index"][row])) if pictures else None
            if reader is not None and found is not None:
                return reader.show(found)
            return decode(found, short_side=192) if isinstance(found, bytes) else found
        except (NeocogError, OSError, LookupError):
            return None  # it is gone or moved

    told = results.result(task, split, seen, figures) + _pictures(run, start) + _kept(card)
    problems, parts = folder / "problems.json", _last(log, "parts").get("rows")
    listed = read_json(problems, list[dict[str, Any]]) if problems.exists() else []
    own = task.sections(seen, figures) if figures.get("n") else ()
    stepped = epochs or _dig(start, "start", "regime") != "features"
    made: list[tuple[str, str | None]] = [
        ("Result", Html(told + results.cross_validation(task, card["metrics"]))),
        ("Start", results.transfer_section(start["start"], _last(log, "head")) if start.get("start") else None),
        ("Parts", results.parts_section(task, parts) if parts else None),
        ("Diagnosis", _diagnosis(log, epochs, run) if stepped else None),
        ("Curves", _curves(epochs, bool(_dig(run, "settings", "task", "smoothing"))) if stepped else None),
        ("Pictures that the net makes", sheets(folder)),
        ("Examples", results.examples(folder)),
        *((one.title, one.body(picture) if callable(one.body) else one.body) for one in own),
        *(reader.sections() if reader else ()),
        ("Unknown pictures", results.unknown_section(card["unknown"]) if card.get("unknown") else None),
        ("Time", _time(epochs, end)),
        ("Settings", _settings(run, start)),
        ("Notes and problems", _notes(run, start, listed)),
        ("How to reproduce", _reproduce(run, card)),
    ]
    sections = [(title, body) for title, body in made if body is not None]
    name, data = str(card["net"]["name"]), _dig(run, "data", "name")
    html = page(f"{name} on {data}" if data else name, sections, subtitle=f"neocog run {folder.resolve().name}")
    path = folder / "report.html"
    write_atomically(path, html.encode())
    return path


# ---------------------------------------------------------------- reading


class _Run(TypedDict, total=False):
    command: list[str]
    settings: dict[str, Any]
    data: dict[str, Any]


def _of(log: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    return [record for record in log if record.get("kind") == kind]


def _last(log: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    return next(reversed(_of(log, kind)), {})


def _dig(record: Any, *keys: str) -> Any:
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


# ---------------------------------------------------------------- sections


def _pictures(run: Any, start: Mapping[str, Any]) -> Html:
    counts = [(name, start.get(name, _dig(run, "data", name))) for name in ("train", "val", "test")]
    shown = ", ".join(f"{count:,} {name}" for name, count in counts if isinstance(count, int))
    size = f"{start['params']:,} parameters; " if isinstance(start.get("params"), int) else ""
    return paragraph(f"{size}pictures: {shown}." if shown else size) if shown or size else Html("")


def _kept(net: Any) -> Html:
    kept = net.get("kept")
    return paragraph("Weights kept: epoch {epoch:.4g} of {of:.4g}, {why}.".format(**kept)) if kept else Html("")


def _diagnosis(log: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]], run: Any) -> Html:
    logged = {record.get("name", ""): record for record in _of(log, "diagnosis")}  # a resumed run asks again
    findings = [
        Finding(name, *(str(record.get(key) or "") for key in ("verdict", "evidence", "advice")))
        for name, record in logged.items()
    ]
    read = judged(epochs, _dig(run, "settings") or {})
    findings += [finding for finding in read if finding.name not in logged]
    if not findings:
        return paragraph("No diagnosis: the log has no finished epoch.")
    findings.sort(key=lambda finding: _ORDER.get(finding.verdict, 1))
    kinds = {one.name: one.verdict if one.verdict in _ORDER else "" for one in findings}
    rows = [
        {"question": one.name, "verdict": Html(f'<span class="{kinds[one.name]}">{text(one.verdict)}</span>'),
         "evidence": worded(one.evidence), "what to do": worded(one.advice)}
        for one in findings
    ]  # fmt: skip
    return table(rows)


def _curves(epochs: Sequence[Mapping[str, Any]], smoothed: bool) -> Html:
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
    own = []
    for name in figures:
        keys = {"training": f"train_{name}"}
        if any(isinstance(record.get(f"val_{name}"), float) for record in epochs):  # counts are no curves
            keys["validation"] = f"val_{name}"
        part = "validation" not in keys and f"train_{name}" in logged  # figures are of both or of validation
        own.append((f"Loss: {words(name)}" if part else _heading(words(name)), keys, words(name)))
    for heading, keys, y in (
        ("Loss", {"training": "train_loss", "validation": "val_loss"}, "loss"),
        *own[:8],
        ("Learning rate", {"learning rate": "lr"}, "learning rate"),
    ):
        series = {name: points for name, key in keys.items() if (points := values_of(epochs, key))}
        if max(map(len, series.values()), default=0) > 1:  # else one dot
            values = [v for points in series.values() for _, v in points]
            deep = y == "loss" and 0 < 20 * min(values) < max(values)  # else the end of the curve is a flat line
            parts.append(_chart(heading, line_chart(series, x="epoch", y=y, log_y=deep)))
    if not parts:
        return paragraph("There are no curves: the figures were taken once.")
    ratios = [(r.get("epoch", n + 1), r["update_ratio"]) for n, r in enumerate(epochs) if r.get("update_ratio")]
    if len(ratios) > 1:
        last = ratios[-1][1]
        names = list(last)[:: max(1, math.ceil(len(last) / 8))]
        series = {name: [(at, found[name]) for at, found in ratios if found.get(name)] for name in names}
        parts.append(_chart("Update ratio", line_chart(series, x="epoch", y="|step| / |weight|", log_y=True)))
    told = "Training figures are running means over each epoch, with dropout and augmentation where there are any"
    told += f"{' and label smoothing in the loss' if smoothed else ''}, so validation may look better."
    if any("exploration" in record for record in epochs):
        told = "Training rewards are of games in which some actions are by chance."
    style = "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(28rem,100%),1fr));gap:0 1.5rem"
    return Html(f'<div style="{style}">{"".join(parts)}</div>{paragraph(told)}')


def _heading(name: str) -> str:
    """The first letter large, unless it is a sign such as mAP."""
    return name if name[1:2].isupper() else name[:1].upper() + name[1:]


def _chart(heading: str, chart: str) -> str:
    return f"<div><h3>{heading}</h3>{chart}</div>"


def _time(epochs: Sequence[Mapping[str, Any]], end: Mapping[str, Any]) -> Html:
    rows: dict[str, object] = {}
    if isinstance(end.get("seconds"), int | float):
        rows["whole run"] = _duration(end["seconds"])
    if seconds := [v for _, v in values_of(epochs, "seconds")]:
        rows["training epochs"] = _duration(sum(seconds))
        rate, wait = (_mean(epochs, key) for key in ("pictures_per_second", "waiting"))
        frames = values_of(epochs, "frames")
        if len(frames) > 1:  # of games that were played meanwhile
            rows["frames played per second"] = f"{(frames[-1][1] - frames[0][1]) / sum(seconds[1:]):,.0f}"
        elif rate is not None and not frames:
            rows[worded("pictures per second")] = f"{rate:,.0f}"
        if wait is not None:
            advice = ": the data, not the net, limit the speed" if wait > 0.2 else ""
            rows["share of the time waiting for data"] = f"{wait:.1%}{advice}"
    return pairs(rows) if rows else paragraph("No time was recorded.")


def _mean(epochs: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The mean of a figure over the time that epochs took."""
    found = [(r[key], r["seconds"]) for r in epochs if all(isinstance(r.get(k), int | float) for k in (key, "seconds"))]
    return sum(v * s for v, s in found) / sum(s for _, s in found) if found else None


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _settings(run: Any, start: Mapping[str, Any]) -> Html:
    settings = dict(_dig(run, "settings") or {})
    settings.pop("classes", None)  # they have their own table
    recipe = settings.pop("recipe", start.get("recipe"))
    for key in ("preprocess", "mirror", "mirror_asked") if settings.get("reader") else ():
        settings.pop(key, None)  # of pictures
    rows = {key: value for key, value in settings.items() if value not in (None, [], ())}
    for key, value in (("device", _dig(run, "device") or start.get("device")), ("recipe", _dig(recipe, "name"))):
        if value:
            rows[key] = value
    parts: list[str] = [pairs(rows)]
    if isinstance(recipe, Mapping):
        fields = {key: v for key, v in recipe.items() if key not in ("name", "about")}
        on = {key: v for key, v in fields.items() if v not in (0, "", None, False, "none", {})}
        off = [key for key in fields if key not in on]
        # As they are typed after --set; one below the other they would fill a page.
        typed = (f"{key}={str(v).lower() if isinstance(v, bool) else v}" for key, v in on.items())
        parts += ["<h3>Recipe</h3>", paragraph(recipe["about"]) if recipe.get("about") else ""]
        parts.append(f"<p>{' &nbsp; '.join(f'<code>{text(one)}</code>' for one in typed)}</p>")
        parts.append(paragraph(f"Off: {', '.join(off)}.") if off else "")
    return Html("".join(parts))


def _notes(run: Any, start: Mapping[str, Any], problems: Any) -> Html:
    notes = list(start.get("notes") or _dig(run, "data", "notes") or [])
    parts = []
    if notes:
        parts.append("<ul>" + "".join(f"<li>{text(worded(note))}</li>" for note in notes) + "</ul>")
    rows = [{"picture": row.get("key"), "reason": row.get("reason")} for row in problems]
    if rows:
        shown = f"; the first {_PROBLEMS} are shown, problems.json has all" if len(rows) > _PROBLEMS else ""
        parts.append(paragraph(f"{counted(len(rows))} could not be used{shown}.", kind="warning"))
        parts.append(table(rows[:_PROBLEMS]))
    return Html("".join(parts)) if parts else paragraph("None.")


def _reproduce(run: Any, net: Any) -> Html:
    words = [str(part) for part in run.get("command") or ()]
    if words and Path(words[0]).name in ("__main__.py", "neocog"):  # where it is installed is of no interest
        words[0] = "neocog"
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
    line = f"<pre>{text(shlex.join(words))}</pre>" if words else ""
    return Html(line + pairs({key: value for key, value in rows.items() if value is not None}))
