"""The commands about networks: nets, anatomy, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neocog.cli import terminal, write
from neocog.errors import UsageError


def nets(
    family: Annotated[str | None, typer.Option(metavar="NAME", help="Only the nets of one family.")] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="Only nets for label, segment, reconstruct, vae, embed or control."),
    ] = None,
    max_macs: Annotated[
        str | None, typer.Option(metavar="N", help="At most this many multiply-adds, such as 600M.")
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(metavar="N", help="At most this many parameters, such as 5M.")
    ] = None,
    since: Annotated[int | None, typer.Option(metavar="YEAR", help="Published this year or later.")] = None,
    sort: Annotated[str, typer.Option(metavar="COLUMN", help="name, year, params or macs.")] = "name",
    json: terminal.Json = False,
) -> None:
    """List the networks, with their published figures."""
    with terminal.work():
        from neocog import nets
        from neocog.cli import subject

        facts = everything = [nets.facts(name) for name in nets.names(family, task)]
        if max_macs is not None:
            facts = [f for f in facts if f.macs <= subject.amount(max_macs, "--max-macs")]
        if max_params is not None:
            facts = [f for f in facts if f.params <= subject.amount(max_params, "--max-params")]
        facts = [f for f in facts if since is None or f.year >= since]
        if sort not in ("name", "year", "params", "macs"):
            raise UsageError(f"--sort expects name, year, params or macs; got {sort!r}")
        if sort != "name":
            facts.sort(key=lambda f: getattr(f, sort))
        if not facts:
            least = min(everything, key=lambda f: f.macs)
            terminal.say(f"no net fits; {least.name} needs least: {least.macs:,} MACs, {least.params:,} parameters")
    write.show_json(facts) if json else write.show_nets(facts)


_NET_HELP = (
    "A net ('neocog nets' lists them), a run folder, a net file, or any module: file.py:Name or package.module:Name."
)
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="An option of the net, or an argument of the module."),
]
_Input = Annotated[
    str | None,
    typer.Option("--input", metavar="SHAPE", help="3x224x224, or 224 (a square picture); default: the usual input."),
]


def anatomy(
    net: Annotated[str, typer.Argument(metavar="NET", help=_NET_HELP)],
    input: _Input = None,
    options: _Set = None,
    depth: Annotated[int | None, typer.Option(metavar="N", help="Levels of modules to open; default: 2; 0: all.")] = 2,
    advice: Annotated[bool, typer.Option("--advice", help="Advise what to improve, and what it would save.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Run it, and time every layer on this machine.")] = False,
    effective: Annotated[
        bool, typer.Option("--effective", help="Measure the effective receptive field, with random weights.")
    ] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the net, to scale.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page: drawing and table.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one line for each layer.")] = None,
    json: terminal.Json = False,
) -> None:
    """Show what a network is made of: shapes, parameters, multiply-adds, memory and receptive fields."""
    with terminal.work():
        from neocog import anatomy as room
        from neocog.cli import subject

        found = subject.load(net, input, terminal.settings(options or [], example="classes=10"))
        given = subject.usable_input(found)
        traced = room.trace(found.module, given, name=found.name)
        items = room.advise(traced, found.module) if advice else []
        for path, text in ((svg, room.to_svg), (html, room.to_html), (csv, room.to_csv)):
            if path:
                with terminal.output(path) as file:
                    file.write(text(traced))
                terminal.say(f"wrote {path}")
        measured: dict[str, object] = {}
        if time or effective:
            real = subject.with_numbers(found)
            if time:
                measured["times"] = room.time_layers(real, given)
            if effective:
                measured["effective"] = room.effective_receptive_field(real, subject.picture_shape(found))
    if json:
        document = {**traced.as_dict(), "misfits": room.misfits(traced)}
        write.show_json({**document, **({"advice": items} if advice else {}), **measured})
        return
    if not advice and not measured:
        write.show_anatomy(traced, depth or None)
        write.show_misfits(room.misfits(traced))
    if advice:
        write.show_advice(items, traced)
    write.show_measured(traced, **measured)  # type: ignore[arg-type]


def compare(
    nets: Annotated[list[str], typer.Argument(metavar="NET...", help=_NET_HELP)],
    input: _Input = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Plot accuracy against multiply-adds.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page: plot and table.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table.")] = None,
    json: terminal.Json = False,
) -> None:
    """Set networks side by side: size, cost, memory, receptive field and published accuracy."""
    with terminal.work():
        from neocog import anatomy as room
        from neocog.cli import subject

        found = [subject.load(name, input) for name in dict.fromkeys(nets)]
        traced = {s.name: room.trace(s.module, subject.usable_input(s), name=s.name) for s in found}
        result = room.compare(
            traced,
            {s.name: s.facts.accuracy for s in found if s.facts},
            {s.name: s.facts.year for s in found if s.facts},
        )
        for path, text in ((svg, result.to_svg), (html, result.to_html), (csv, result.to_csv)):
            if path:
                with terminal.output(path) as file:
                    file.write(text())
                terminal.say(f"wrote {path}")
    write.show_json(result.as_dict()) if json else write.show_table(result.rows())
