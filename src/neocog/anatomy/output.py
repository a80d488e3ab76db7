"""What people see of an Anatomy: a table that folds by module, totals, JSON, CSV and a self-contained page."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from ..names import plain
from ..page import Html, paragraph
from ..page import page as whole_page
from ..page import table as html_table
from .drawing import to_svg
from .record import Field, Layer, Shape, summed

if TYPE_CHECKING:
    from .whole import Anatomy

COLUMNS = (
    "layer", "kind", "output", "parameters", "MACs", "memory", "saved for training",
    "receptive field", "stride", "padding",
)  # fmt: skip
NUMERIC = frozenset(COLUMNS[3:])
_NAMED = 5  # names of parameters or operators in a line of totals


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a module with all that it contains, a layer, or several that are alike, summed up."""

    level: int  # how deep the module lies; 0 is a child of the root
    name: str
    kind: str
    times: int  # modules that this row stands for
    calls: int  # times that each of them runs
    output: Shape  # without the batch, of the last one
    params: int
    macs: int
    others: int
    output_bytes: int
    saved_bytes: int
    field: Field | None  # behind the last one
    field_unknown: bool
    layers: tuple[int, ...]
    folds: bool  # it has rows of its own, below

    @property
    def label(self) -> str:
        """The kind, with how many there are."""
        label = self.kind + (f" x{self.times}" if self.times > 1 else "")
        return label + (f", {self.calls} calls" if self.calls > 1 else "")

    def cells(self) -> tuple[str, ...]:
        """One text for each of `COLUMNS`."""
        size, stride, padding = _field_cells(self)
        return (
            "  " * self.level + self.name,
            self.label,
            shape_text(self.output),
            f"{self.params:,}" if self.params else "-",
            f"{self.macs:,}" if self.macs else "-",
            bytes_text(self.output_bytes) if self.output_bytes else "-",
            bytes_text(self.saved_bytes) if self.saved_bytes else "-",
            size,
            stride,
            padding,
        )


def rows(anatomy: Anatomy, depth: int | None = None, fold: bool = True) -> list[Row]:
    """Return the table: modules before what they contain, in the order of the computation.

    Args:
        anatomy: the net.
        depth: levels of modules that are opened; 1 shows the children of the root only, None everything.
        fold: show identical modules that follow one another as one row; its figures are their sum.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth counts levels of modules from 1, got {depth}")
    root = _tree(anatomy)
    if not root.children:
        return [_row([root], 0, False)] if root.layers else []
    return list(_rows([root], 0, depth, fold))


def summary(anatomy: Anatomy) -> list[tuple[str, str]]:
    """Return the totals as (what, how much), and notes; figures of operations and memory are for the whole batch."""
    a = anatomy
    batch = f" ({a.batch} examples; operations and memory are for all of them)" if a.batch > 1 else ""
    params = f"{a.params:,} ({bytes_text(a.param_bytes)})"
    if a.frozen:
        params += f", {a.frozen:,} of them frozen"
    lines = [
        ("input", "; ".join(shape_text(s[1:]) for s in a.inputs) + batch),
        ("output", "; ".join(shape_text(s[1:]) for s in a.outputs)),
        ("parameters", params),
        ("MACs", f"{a.macs:,}"),
        ("FLOPs", f"{a.flops:,} (2 x MACs)"),
        ("other operations", f"{a.others:,}"),
        ("activations, most at one time", bytes_text(a.peak_bytes)),
        ("activations kept for training", "unknown" if a.training_bytes is None else bytes_text(a.training_bytes)),
    ]
    if a.buffers:
        lines.insert(3, ("numbers in buffers", f"{a.buffers:,}"))
    if (last := a.last_map) is not None and last.field is not None:
        size, stride, padding = _field_cells(last)
        more = "" if last.field.aligned else "; the paths to it are not centred on one another"
        lines.append(("receptive field", f"{size}, stride {stride}, padding {padding}{more}"))
    if (lost := a.field_lost_at) is not None:
        why = f"from {lost.name} on, which moves positions in a way that cannot be followed"
        lines.append(("receptive field", f"unknown, or a lower bound (>=), {why}"))
    if any(x.field is not None and x.field.whole for x in a.layers):
        lines.append(("receptive field with a star", "a position also sees the whole input (a gate, attention)"))
    if a.unused:
        lines.append(("never read", _listed(a.unused, "parameter")))
    if a.uncounted:
        named = [f"{name} x{n}" if n > 1 else name for name, n in a.uncounted.items()]
        lines.append(("NOT COUNTED", f"{_listed(named, 'operator')}; the totals do not include their operations"))
    return lines + [("note", note) for note in a.notes]


def to_text(anatomy: Anatomy, depth: int | None = None, fold: bool = True) -> str:
    """Return the table and the totals as plain text."""
    table = text_table(COLUMNS, [row.cells() for row in rows(anatomy, depth, fold)], NUMERIC)
    totals = summary(anatomy)
    wide = max(len(what) for what, _ in totals)
    kind = anatomy.modules.get("", "")
    heading = anatomy.name if kind in ("", anatomy.name) else f"{anatomy.name} ({kind})"
    return "\n".join([heading, "", table, "", *(f"{what:{wide}}  {value}" for what, value in totals)])


def as_dict(anatomy: Anatomy) -> dict[str, Any]:
    """Return everything as numbers, texts, lists and dicts; fractions become floats, shapes keep the batch."""
    found = {f.name: getattr(anatomy, f.name) for f in dataclasses.fields(anatomy) if f.name != "layers"}
    for name in ("batch", "frozen", "macs", "flops", "others", "output_bytes"):
        found[name] = getattr(anatomy, name)
    found["receptive_field"] = anatomy.receptive_field
    found = plain(found)
    found["layers"] = [
        {**plain(layer), "flops": layer.flops, "connections": layer.connections} for layer in anatomy.layers
    ]
    return found


def to_json(anatomy: Anatomy, indent: int | None = 2) -> str:
    """Return `as_dict` as JSON."""
    return json.dumps(as_dict(anatomy), indent=indent, allow_nan=False)


def to_csv(anatomy: Anatomy) -> str:
    """Return one line for each layer, with a line of names first; sizes are written 3x224x224, without the batch."""
    names = (
        "index name module kind output params frozen shared macs flops connections others output_bytes saved_bytes "
        "receptive_field stride padding aligned whole at_least kernel groups sources"
    ).split()
    lines = []
    for x in anatomy.layers:
        size, stride, padding = _field_cells(x, always=True)
        cells = {name: getattr(x, name) for name in names if hasattr(x, name)} | {
            "output": shape_text(x.output[1:], "x"),
            "receptive_field": size,
            "stride": stride,
            "padding": padding,
            **{f: "" if x.field is None else int(getattr(x.field, f)) for f in ("aligned", "whole", "at_least")},
            "kernel": shape_text(x.settings.get("kernel", ()), "x", empty=""),
            "groups": x.settings.get("groups", ""),
            "sources": " ".join(map(str, x.sources)),
        }
        lines.append([cells[name] for name in names])
    return csv_text(names, lines)


def csv_text(names: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """CSV with a line of names first."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([names, *lines])
    return stream.getvalue()


def to_html(anatomy: Anatomy, page: bool = True, drawing: bool = True) -> str:
    """Return a page without any external resource, or a fragment for a notebook (`page=False`).

    It holds the totals, the drawing, and the table, whose modules fold; bars show the share of parameters and MACs.
    """
    kind = anatomy.modules.get("", "")
    totals = html_table([{"": what, " ": value} for what, value in summary(anatomy)])
    picture = f'<div class="scroll">{to_svg(anatomy, title="")}</div>' if drawing else ""
    layers = _STYLE + _html_rows(anatomy)
    if page:
        sections = [("Totals", totals), ("Drawing", picture), ("Layers", layers)]
        subtitle = "" if kind in ("", anatomy.name) else f"an anatomy of {kind}"
        return whole_page(anatomy.name, [s for s in sections if s[1]], subtitle=subtitle)
    name = paragraph(Html(f"<b>{escape(anatomy.name)}</b>"))
    return f'<div class="neocog-anatomy">{name}{totals}{picture}{layers}</div>'


# --- texts -----------------------------------------------------------------------------------------------------------


def shape_text(shape: Sequence[object], by: str = " x ", empty: str = "1") -> str:
    """A shape such as "64 x 112 x 112"; a single number has the shape ()."""
    return by.join(map(str, shape)) or empty


def sides_text(sizes: Sequence[object]) -> str:
    """Sizes along several axes: one number where all are equal; "" for none."""
    return str(sizes[0]) if len(set(sizes)) == 1 else shape_text(sizes, empty="")


def bytes_text(number: int) -> str:
    """Bytes with a unit, such as "3.06 MiB"."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number} B"


def _field_cells(of: Layer | Row, always: bool = False) -> tuple[str, str, str]:
    """Size, stride and padding; one number where all axes agree, unless `always`. A star: it also sees everything."""
    field = of.field
    if field is None:
        return "unknown" if of.field_unknown else "", "", ""

    if always:
        return shape_text(field.size, "x"), shape_text(field.stride, "x"), shape_text(field.padding, "x")
    size = ">= " * field.at_least + sides_text(field.size) + " *" * field.whole
    return size, sides_text(field.stride), sides_text(field.padding)


def _listed(names: Sequence[str], noun: str) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''}: {', '.join(names[:_NAMED])}{more}"


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Collection[str]) -> str:
    """Lines of cells below a line of names; columns in `numeric` stand at the right."""
    made = [f"{{:{'>' if c in numeric else '<'}{max(map(len, cells))}}}"
            for c, *cells in zip(columns, columns, *rows, strict=True)]  # fmt: skip
    lines = ["  ".join(made).format(*cells).rstrip() for cells in (columns, *rows)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


# --- the tree of modules ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    """A module, or an operator that a module calls itself."""

    path: str
    kind: str
    layers: list[Layer] = field(default_factory=list)  # with those of its children
    children: list[_Node] = field(default_factory=list)

    def signature(self) -> Hashable:
        """Equal for modules that do the same to inputs of the same shape."""
        start = len(self.path)
        return self.kind, bool(self.children), tuple(
            (x.name[start:], x.kind, x.inputs, x.outputs, x.params + x.shared, x.macs, repr(x.settings))
            for x in self.layers
        )  # fmt: skip


def _tree(anatomy: Anatomy) -> _Node:
    nodes = {"": _Node("", anatomy.modules.get("", ""))}
    for layer in anatomy.layers:
        if layer.functional and not (layer.params or layer.macs or layer.others or layer.output_bytes):
            continue  # a view of numbers that are already there
        path = layer.module
        chain = [layer.name] if layer.functional else []
        while path:
            chain.append(path)
            path = path.rpartition(".")[0]
        node = nodes[""]
        node.layers.append(layer)
        for name in reversed(chain):
            if name not in nodes:
                nodes[name] = _Node(name, layer.kind if name == layer.name else anatomy.modules.get(name, ""))
                node.children.append(nodes[name])
            node = nodes[name]
            node.layers.append(layer)
    if not nodes[""].kind and anatomy.layers:
        nodes[""].kind = anatomy.layers[-1].kind
    return nodes[""]


def _rows(same: list[_Node], level: int, depth: int | None, fold: bool) -> Iterator[Row]:
    """Rows of the children of modules that are alike."""
    children = same[0].children
    at = 0
    while at < len(children):
        run = 1
        if fold:
            signature = children[at].signature()
            while at + run < len(children) and children[at + run].signature() == signature:
                run += 1
            if run < (2 if children[at].children else 3):  # two equal single layers are as long as one folded row
                run = 1
        group = [node.children[k] for node in same for k in range(at, at + run)]
        deeper = bool(children[at].children) and (depth is None or level + 1 < depth)
        yield _row(group, level, deeper, children[at : at + run])
        if deeper:
            yield from _rows(group, level + 1, depth, fold)
        at += run


def _row(group: Sequence[_Node], level: int, folds: bool, named: Sequence[_Node] = ()) -> Row:
    found = summed([layer for node in group for layer in node.layers])
    name = _short(group[0].path) or group[0].kind or "net"
    if len(named) > 1:
        name = f"{name} - {_short(named[-1].path)}"
    return Row(
        level=level,
        name=name,
        kind=group[0].kind,
        times=len(group),
        calls=1 if group[0].children else len(group[0].layers),
        folds=folds,
        **{**found, "output": found["output"][1:]},
    )


def _short(path: str) -> str:
    """The end of a path from its last part that is no number: "layer3.1" of "trunk.layer3.1", "add" of "layer1:add"."""
    path, colon, operator = path.rpartition(":")
    if colon:
        return operator
    parts = operator.split(".")
    start = max((k for k, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[start:])


# --- JSON and HTML ---------------------------------------------------------------------------------------------------


_STYLE = """<style>
.neocog-rows{min-width:65rem;font-size:.8rem}
.neocog-rows .row{display:grid;grid-template-columns:12.5rem 9.5rem 7.6rem 6.8rem 8.2rem 5rem 5rem 4rem 3rem 3.4rem;
border-bottom:1px solid var(--line,#d9dee366);align-items:baseline}
.neocog-rows .row>span{padding:.2rem .45rem;overflow-wrap:anywhere}
.neocog-rows .head{font-weight:600;opacity:.75}.neocog-rows summary{list-style:none;cursor:pointer}
.neocog-rows summary::-webkit-details-marker{display:none}
.neocog-rows summary>.row>span:first-child::before{content:"▸ "}
.neocog-rows details[open]>summary>.row>span:first-child::before{content:"▾ "}
.neocog-rows .num{text-align:right;font-variant-numeric:tabular-nums}
.neocog-rows .share{background:linear-gradient(to left,rgba(90,150,230,.3) var(--s),transparent var(--s))}
.neocog-anatomy .scroll,.neocog-anatomy{overflow-x:auto}
</style>
"""


def _html_rows(anatomy: Anatomy) -> str:
    """The table as nested <details>, so that modules fold without a script."""
    head = "".join(
        f'<span role="columnheader" class="{"num" if c in NUMERIC else "text"}">{escape(c)}</span>' for c in COLUMNS
    )
    out = [f'<div class="scroll"><div class="neocog-rows" role="table"><div class="row head" role="row">{head}</div>']
    open_ = 0
    for row in rows(anatomy):
        while open_ > row.level:
            out.append("</details>")
            open_ -= 1
        line = _html_row(row, anatomy)
        if row.folds:
            # the first level is open, so that the page begins with the parts of the net and not with all its layers
            out.append(f"<details{' open' if row.level == 0 else ''}><summary>{line}</summary>")
            open_ += 1
        else:
            out.append(line)
    out.append("</details>" * open_ + "</div></div>")
    return "\n".join(out)


def _html_row(row: Row, anatomy: Anatomy) -> str:
    cells = []
    shares = {"parameters": (row.params, anatomy.params), "MACs": (row.macs, anatomy.macs)}
    for column, cell in zip(COLUMNS, row.cells(), strict=True):
        css, style = "num" if column in NUMERIC else "text", ""
        if column in shares and shares[column][0]:
            part, whole = shares[column]
            css, style = "num share", f' style="--s:{part / whole:.1%}" title="{part / whole:.1%} of all"'
        if column == "layer":
            style = f' style="padding-left:{0.5 + 1.1 * row.level:.1f}rem"'
        cells.append(f'<span role="cell" class="{css}"{style}>{escape(cell.strip())}</span>')
    return f'<div class="row" role="row">{"".join(cells)}</div>'
