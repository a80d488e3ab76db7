"""The command that shows what a network sees: look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neocog.cli import terminal, write
from neocog.errors import UsageError

if TYPE_CHECKING:
    from neocog.look import Space


def look(
    net: Annotated[
        str, typer.Argument(metavar="NET", help="A run, a net of the zoo ('neocog nets'), or with --map a library.")
    ],
    pictures: Annotated[list[str] | None, typer.Argument(metavar="[PICTURE...]", help="Files, folders, or -.")] = None,
    what: Annotated[
        str | None, typer.Option(metavar="ANSWER", help="What is explained: a class, tag, point, number of a box ...")
    ] = None,
    other: Annotated[
        Path | None, typer.Option("--with", metavar="PICTURE", help="The picture to compare with (task match).")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="gradcam, hirescam, guided, occlusion, gradient, smoothgrad, integrated, deconvnet."
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show this layer's maps and units; default: the deepest map.")
    ] = None,
    unit: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Show these units of the layer, and what they prefer.")
    ] = None,
    over: Annotated[
        str | None, typer.Option(metavar="DATA", help="Show the patches of a collection that excite the units most.")
    ] = None,
    moved: Annotated[
        bool, typer.Option("--moved", help="Show how layers change when the pictures shift, turn and grow.")
    ] = False,
    map: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="Map a collection: tsne or pca, of a library or of PICTURE (data)."),
    ] = None,
    near: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --map: the nearest neighbours of this picture.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the sheet there, .png or .jpg; default: look.png.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a page.")] = None,
    device: terminal.Device = None,
    json: terminal.Json = False,
) -> None:
    """Show what a network sees in pictures: its answer, what speaks for it, and the units that are most active.

    Without pictures: the filters of its first layer, and what they are tuned to.
    """
    with terminal.work():
        if near is not None and map is None:
            raise UsageError("--near needs --map, such as --map tsne")
        if map is not None:
            made, document = _map(net, pictures or [], map, layer, near, device)
        else:
            made, document = _sheet(net, pictures or [], what, other, method, layer, unit, over, moved, device)
        files = [f for f in (out, html) if f] or ([] if json else [Path("look.png")])
        if html is not None and html.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--html expects a file that ends in .html, got {html.name!r}")
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            terminal.say(f"wrote {made.save(file)}")
    if json:
        write.show_json(document)
        return
    for line in document.get("said", ()):
        terminal.echo(line)


def _sheet(
    net: str, pictures: list[str], what: str | None, other: Path | None, method: list[str] | None, layer: str | None,
    unit: list[int] | None, over: str | None, moved: bool, device: str | None,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    from neocog import look as room

    seen = room.subject(net, device=device)
    for note in seen.notes:
        terminal.say(note)
    if unit is not None and layer is None:
        raise UsageError(f"--unit needs --layer, such as --layer {seen.layer().name}")
    paths = list(terminal.picture_paths(pictures))
    looked = room.look_at(
        seen, paths, what=what, methods=method, layer=layer, units=unit, maps=layer is not None and unit is None,
        other=other,
    )  # fmt: skip
    document: dict[str, Any] = {"net": seen.name, "pictures": looked}
    said = [f"{one.key}: {one.answer.text()}" for one in looked]
    sheet = room.sheet_of(seen, looked)
    if unit is not None:
        tiles = [room.Tile(room.prefer(seen, u, layer), f"unit {u}") for u in unit]
        sheet.rows.append(room.Row("What they prefer, made from noise", tiles, side=160))
    elif what is not None and not paths:
        sheet.rows.append(room.Row("What it prefers, made from noise", [room.Tile(room.prefer(seen, what), what)]))
    if over is not None:
        top = room.top_patches(seen, over, layer, unit, progress=True)
        rows = top.sheet().rows
        sheet.rows += [room.Row(f"Top patches of {top.layer}", rows[0].tiles, rows[0].side, rows[0].text)]
        document["top"] = {
            "layer": top.layer, "n": top.n,
            "units": {
                u: [{"picture": h.key, "value": h.value, "box": h.box} for h in hits]
                for u, hits in top.units.items()
            },
        }  # fmt: skip
    if moved:
        if not paths:
            raise UsageError("--moved needs pictures: neocog look NET PICTURE... --moved")
        from neocog.look.early import invariance_rows

        sheet.rows += invariance_rows(seen, paths)
    if not sheet.rows:
        sheet = room.filters_sheet(seen)
        found = room.tuning(seen)
        document["filters"] = [
            {"angle": a, "wavelength": w, "fit": f, "colour": float(c)}
            for (a, w, f), c in zip(found.best, found.colour, strict=True)
        ]
        said = [found.text()]
    document["said"] = said
    return sheet, document


def _map(
    net: str, data: list[str], how: str, layer: str | None, near: str | None, device: str | None
) -> tuple[Space, dict[str, Any]]:
    from neocog import look as room

    if Path(net).is_dir() and not Path(net, "net.json").is_file():
        if data or layer:
            raise UsageError("the map of a library is that of its own vectors; leave out the pictures and --layer")
        space = _library(net, how)
    elif len(data) != 1:
        raise UsageError("--map needs a collection: neocog look NET DATA --map tsne, or neocog look LIBRARY --map tsne")
    else:
        space = room.space_of(room.subject(net, device=device), data[0], layer, method=how, progress=True)
    document: dict[str, Any] = {
        "method": space.method, "kept": space.kept,
        "points": [{"picture": k, "at": p} for k, p in zip(space.keys, space.places.tolist(), strict=True)],
        "said": [space.text],
    }  # fmt: skip
    if near is not None:
        rows = [i for i, key in enumerate(space.keys) if near in (key, Path(key).name)]
        if not rows:
            raise UsageError(f"there is no picture {near!r} in the map; its names are such as {space.keys[0]!r}")
        found = space.neighbours(rows[0])
        document["near"] = [{"picture": space.keys[i], "cosine": c} for i, c in found]
        document["said"] += [f"{c:.3f}  {space.keys[i]}" for i, c in found]
    return space, document


def _library(folder: str, how: str) -> Space:
    """The map of a library's own vectors."""
    from neocog import look as room
    from neocog.data.places import read_place
    from neocog.library import Library
    from neocog.library.view import view_of

    library = Library(folder)  # a view holds its store weakly
    view = view_of(library.store)
    model = view.model()
    if model is None:
        raise UsageError(f"{folder} has no vectors yet; 'neocog index FOLDER' makes them")
    rows, vectors = view.vectors(model)
    paths = [view.paths(int(row))[0] for row in rows]
    return room.space(vectors, lambda i: read_place(paths[i]), paths, method=how)
