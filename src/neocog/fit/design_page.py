"""The page of an architecture search: the best net, and the candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neocog import anatomy
from neocog.page import Html, line_chart, page, paragraph, table, text
from neocog.records import counted
from neocog.tasks import Task

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
