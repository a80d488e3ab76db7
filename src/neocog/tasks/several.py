"""Several tasks on one trunk: ``--task label+pose``. The loss is a weighted sum of theirs.

A picture counts for the tasks whose annotations it has: the heads of the others do not see it in training, and their
figures leave it out. The loss of a task is a mean over all pictures of a batch, so that a task with few annotated
pictures has a small part in it; weights change that.

With ``learned=true`` the weights are learned (Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh
Losses", equation 7): the loss L of a task becomes exp(-s) L + s / 2 with a number s for each task, so that a task whose
loss stays large gets a small weight. The weights given are those that it begins with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neocog.data.batches import Batch
from neocog.errors import DataError, UsageError
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.combined import Heads, Line, Seeing, Together
from neocog.tasks.registry import find, joins, load, saved
from neocog.tasks.task import LabelSets, Losses, Section, Seen, Source, Targets, Task, Trunk, Warp, by_rows

_KNOWN = "known"  # target of each part: which pictures have its annotation
_LEARNED = "log_variances"  # beside the parts' outputs


class Several(Task):
    """Parts and their weights. `joined` makes the class of some parts; `kinds` are their classes, by name.

    Args:
        parts: planned tasks, in the order of the name.
        weights: of their losses. learned: whether those are only what it begins with.
    """

    kinds: ClassVar[Mapping[str, type[Task]]]

    def __init__(self, parts: Sequence[Task], weights: Sequence[float], learned: bool = False) -> None:
        self.parts = {part.name: part for part in parts}
        super().__init__(learned=learned)
        self.weights, self.learned = tuple(float(w) for w in weights), self.how["learned"]
        self.notes = tuple(f"{part.name}: {note}" for part in parts for note in part.notes)
        self._figured: dict[str, set[str]] = {}
        self.views_back = all(part.views_back for part in parts)

    @classmethod
    def check(cls, source: Source) -> None:
        for kind in cls.kinds.values():
            kind.check(source)

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Several:
        weights = _weights(str(settings.get("weights", "")), tuple(cls.kinds))
        recipe = {k: v for k, v in settings.items() if k not in cls.options}
        parts = []
        for name, kind in cls.kinds.items():
            known = rows[kind.known(source)[rows]]
            if not len(known):
                raise DataError(
                    f"no training picture of {source.name} has {' and '.join(kind.needs)} for the task {name}; remove "
                    f"{name} from --task {cls.name}"
                )
            own = {k: settings.get(f"{name}.{k}", v) for k, v in kind.options.items()}
            parts.append(kind.plan(source, known, {**recipe, **own}))
        return cls(parts, weights, settings.get("learned", False))

    def to_json(self) -> dict[str, Any]:
        parts = [saved(part) for part in self.parts.values()]
        return {"parts": parts, "weights": list(self.weights), "learned": self.learned}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Several:
        return cls([load(part) for part in values["parts"]], values["weights"], values["learned"])

    @classmethod
    def known(cls, source: Source) -> np.ndarray:
        """Pictures that any part can learn from."""
        return np.asarray(np.stack([kind.known(source) for kind in cls.kinds.values()]).any(0))

    @classmethod
    def strata(cls, source: Source) -> np.ndarray | LabelSets | None:
        return _first(kind.strata(source) for kind in cls.kinds.values())

    @classmethod
    def groups(cls, source: Source) -> np.ndarray | None:
        return _first(kind.groups(source) for kind in cls.kinds.values())

    # ---- the net

    def head(self, trunk: Trunk) -> nn.Module:
        heads = {
            name: part.head(trunk) if part.outputs is None else Line(trunk.channels, part.outputs)
            for name, part in self.parts.items()
        }
        return Heads(heads, [-math.log(w) for w in self.weights] if self.learned else None)

    def run(self, net: Any, batch: Batch) -> dict[str, Any]:
        """Outputs by part, of the pictures that are known for it (of all, where nothing is asked)."""
        maps, heads, outputs = net.trunk.maps(batch.x), net.answer, dict[str, Any]()
        for name, part in self.parts.items():
            rows, own = self._own(name, batch)
            if rows is None:
                outputs[name] = part.run(Seeing(heads.parts[name], maps), own)
            elif len(rows):
                chosen = rows.to(batch.x.device)
                outputs[name] = part.run(Seeing(heads.parts[name], {s: m[chosen] for s, m in maps.items()}), own)
        if self.learned:
            outputs[_LEARNED] = heads.log_variances
        return outputs

    def unmirrored(self, outputs: dict[str, Any]) -> dict[str, Any]:
        return {k: self.parts[k].unmirrored(v) if k in self.parts else v for k, v in outputs.items()}

    @property
    def reading(self) -> str:  # type: ignore[override]
        return " ".join(f"{name}: {part.reading}" for name, part in self.parts.items())

    def readings(self, outputs: dict[str, Any], size: tuple[int, int]) -> dict[str, Tensor]:
        """Those of the parts as ``part.name``."""
        each = ((name, part.readings(outputs[name], size)) for name, part in self.parts.items())
        return {f"{name}.{k}": v for name, made in each for k, v in made.items()}

    # ---- a batch

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        """The parts' targets as ``part.name``; a picture without a part's annotation borrows another one's there."""
        made: Targets = {}
        for name, part in self.parts.items():
            own = {role: values[role] for role in part.needs}
            known = torch.stack([_there(value) for value in own.values()]).all(0)
            made[f"{name}.{_KNOWN}"] = known
            if known.any():
                filled = {role: _filled(value, known) for role, value in own.items()}
                targets = part.collate(filled, warp, valid & known)
                made |= {f"{name}.{k}": v for k, v in targets.items()}
        return made

    def _own(self, name: str, batch: Batch) -> tuple[Tensor | None, Batch]:
        """A part's view of a batch, and which rows of it are there (None: all)."""
        targets = {
            k.removeprefix(f"{name}."): v
            for k, v in batch.targets.items()
            if k.startswith(f"{name}.") and k != f"{name}.{_KNOWN}"
        }
        known = batch.targets.get(f"{name}.{_KNOWN}")
        if known is None or bool(known.all()):
            return None, replace(batch, targets=targets)
        if batch.mix is not None:
            raise DataError(
                f"some pictures have no {' and '.join(self.parts[name].needs)}, so pictures cannot be mixed; type "
                "--set mixup=0 --set cutmix=0"
            )
        rows = known.nonzero().flatten()
        there = rows.cpu()
        return there, Batch(
            tuple(x[rows] for x in batch.inputs),
            {k: v[rows] if isinstance(v, Tensor) else [v[i] for i in there.tolist()] for k, v in targets.items()},
            batch.rows[there],
            batch.valid[rows],
            None if batch.warp is None else batch.warp[there],
        )

    def order(self, columns: Mapping[str, Any], n: int, batch: int, g: torch.Generator) -> Tensor | None:
        """That of the first part that has one, if all pictures are known for it."""
        for part in self.parts.values():
            if all(columns[role].known.all() for role in part.needs):
                found = part.order(columns, n, batch, g)
                if found is not None:
                    return found
        return None

    def losses(self, outputs: dict[str, Any], batch: Batch) -> Losses:
        count, parts, figures = len(batch), dict[str, Tensor](), dict[str, Tensor]()
        zero = batch.x.new_zeros((), dtype=torch.float32)
        for k, (name, part) in enumerate(self.parts.items()):
            weight, more = zero + self.weights[k], zero
            if self.learned:
                weight, more = torch.exp(-outputs[_LEARNED][k]), outputs[_LEARNED][k] / 2
                figures[f"{name}_weight"] = weight.detach() * count
            if name in outputs:
                _, own = self._own(name, batch)
                found = part.losses(outputs[name], own)
                parts[name] = (weight * found.total + more) * (len(own) / count)
                scale = len(own) / torch.as_tensor(found.count, dtype=torch.float32).clamp(min=1e-6)
                mine = {f"{name}_{k}": v * scale for k, v in found.figures.items()}
                self._figured[name] = set(mine)
                figures |= mine
            else:  # none of these pictures is annotated for it: the same names, so that processes can be added up
                parts[name] = zero
                figures |= dict.fromkeys(self._figured.get(name, ()), zero)
        return Losses(parts, count, figures)

    # ---- figures

    def observe(self, outputs: dict[str, Any], batch: Batch) -> dict[str, Any]:
        made: dict[str, Any] = {"rows": batch.rows}
        for name, part in self.parts.items():
            if name in outputs:
                seen = part.observe(outputs[name], self._own(name, batch)[1])
                made |= {_kept(part, k): v for k, v in seen.items()}
        return made

    def _seen(self, part: Task, seen: Seen) -> Seen:
        """What a part observed."""
        before = f"each_{part.name}.", f"{part.name}."
        own = {k.removeprefix(b): v for k, v in seen.items() for b in before if k.startswith(b)}
        return by_rows(own, part.summed)

    def _each(self, seen: Seen) -> dict[str, tuple[Task, Seen]]:
        return {name: (part, self._seen(part, seen)) for name, part in self.parts.items()}

    def _of(self, name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
        return {k.removeprefix(f"{name}_"): v for k, v in figures.items() if k.startswith(f"{name}_")}

    def figures(self, seen: Seen) -> dict[str, Any]:
        made: dict[str, Any] = {"n": len(seen.get("rows", ())), "loss": math.nan}
        losses = []
        for weight, (name, (part, own)) in zip(self.weights, self._each(seen).items(), strict=True):
            found = part.figures(own)
            made |= {f"{name}_{k}": v for k, v in found.items()}
            losses += [weight * found["loss"]] * bool(found["n"])
        if losses:
            made["loss"] = float(sum(losses))
        return made

    def error(self, figures: Mapping[str, Any]) -> float:
        name, part = next(iter(self.parts.items()))
        own = self._of(name, figures)
        return part.error(own) if own.get("n") else 0.0

    def calibrate(self, seen: Seen) -> None:
        for part, own in self._each(seen).values():
            if len(own.get("rows", ())):
                part.calibrate(own)

    def worst(self, seen: Seen) -> np.ndarray:
        """Those of the first part that says which they are."""
        for part, own in self._each(seen).values():
            if len(own.get("rows", ())) and len(rows := part.worst(own)):
                return rows
        return np.zeros(0, np.int64)

    def caption(self, seen: Seen, row: int) -> str:
        lines = [
            f"{name}: {line}"
            for name, (part, own) in self._each(seen).items()
            if row in own.get("rows", ()) and (line := part.caption(own, row))
        ]
        return "\n".join(lines)

    def headline(self, figures: Mapping[str, Any]) -> str:
        each = {name: self._of(name, figures) for name in self.parts}
        return "; ".join(
            f"{name}: {self.parts[name].headline(own) if own.get('n') else 'no annotated picture'}"
            for name, own in each.items()
        )

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        return [
            Section(f"{name}: {section.title}", section.body)
            for name, (part, own) in self._each(seen).items()
            if len(own.get("rows", ()))
            for section in part.sections(own, self._of(name, figures))
        ]

    # ---- answers

    def truth(self, columns: Mapping[str, Any], i: int) -> dict[str, Any]:
        """The truths of the parts that are known, by name."""
        there = {name: part for name, part in self.parts.items() if all(columns[role].known[i] for role in part.needs)}
        return {name: part.truth(columns, i) for name, part in there.items()}

    def answers(self, outputs: dict[str, Any], batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        found: list[dict[str, Answer]] = [{} for _ in keys]
        for name, part in self.parts.items():
            if name in outputs:
                rows, own = self._own(name, batch)
                chosen = list(range(len(keys))) if rows is None else rows.tolist()
                made = part.answers(outputs[name], own, [keys[b] for b in chosen], top)
                for b, answer in zip(chosen, made, strict=True):
                    found[b][name] = answer
        before = self._before()[0]
        return [Together(key, parts, before) for key, parts in zip(keys, found, strict=True)]

    claims = "task:what, such as label:cat, or a task alone"

    def claim(self, outputs: dict[str, Any], batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        name, _, rest = (what or next(iter(self.parts))).partition(":")
        which(name, tuple(self.parts), "task", 0)
        own = None if other is None else other[name]
        made = self.parts[name].claim(outputs[name], self._own(name, batch)[1], rest or None, own)
        return replace(made, name=f"{name}: {made.name}", score=lambda out: made.score(out[name]))

    def categories(self) -> list[dict[str, Any]]:
        return self._before()[1]

    def _before(self) -> tuple[dict[str, int], list[dict[str, Any]]]:
        """How many of COCO's categories stand before those of each part, and all of them, numbered anew."""
        before, every = dict[str, int](), list[dict[str, Any]]()
        for name, part in self.parts.items():
            before[name] = len(every)
            if part.unread("", "").gives("coco"):
                every += [{**one, "id": one["id"] + before[name]} for one in part.categories()]
        return before, every

    def unread(self, key: str, problem: str) -> Answer:
        return Together(key, {name: part.unread(key, problem) for name, part in self.parts.items()}, problem=problem)


_made: dict[str, type[Several]] = {}


@joins
def joined(name: str) -> type[Several]:
    """The class of a name such as ``label+pose``. Raises: UsageError: parts that cannot be together."""
    if name in _made:
        return _made[name]
    parts = [part.strip() for part in name.split("+")]
    if "" in parts or len(set(parts)) < len(parts):
        raise UsageError(f"--task {name} needs different tasks, joined by a plus, as in label+pose")
    kinds = {part: find(part) for part in parts}
    needs: dict[str, str] = {}
    for part, kind in kinds.items():
        if not kind.needs:
            raise UsageError(f"the task {part} cannot share a trunk with others: what it learns is the pictures")
        for role, column in kind.needs.items():
            if needs.setdefault(role, column) != column or column == "picture":
                raise UsageError(f"the task {part} cannot share a trunk with others: it needs {role} ({column})")
    first, every = kinds[parts[0]], kinds.values()
    options: dict[str, Any] = {"weights": "", "learned": False}
    options |= {f"{part}.{k}": v for part, kind in kinds.items() for k, v in kind.options.items()}
    sizes = [kind.size for kind in every if kind.size]
    values: dict[str, Any] = {
        "kinds": kinds,
        "name": "+".join(parts),
        "about": "; ".join(kind.about for kind in every),
        "needs": needs,
        "goal": (f"{parts[0]}_{first.goal[0]}", first.goal[1]),
        "figure": f"{first.figure} of {parts[0]}",
        "fit": "pad" if any(kind.fit == "pad" for kind in every) else "crop",
        "geometry": any(kind.geometry for kind in every),
        "mixes": all(kind.mixes for kind in every),
        "mirrors": all(kind.mirrors for kind in every),
        "whole_batch": any(kind.whole_batch for kind in every),
        "recipe": next((kind.recipe for kind in every if kind.recipe), None),
        "size": max(sizes) if sizes else None,
        "options": options,
        "summed": frozenset(f"{part}.{k}" for part, kind in kinds.items() for k in kind.summed),
    }
    return _made.setdefault(name, type("Several_" + "_".join(parts), (Several,), values))


def _weights(text: str, names: Sequence[str]) -> list[float]:
    """``"1,0.5"`` as one number for each part; "": 1 for all."""
    if not text:
        return [1.0] * len(names)
    try:
        made = [float(part) for part in text.strip("[()] ").split(",")]
    except ValueError:
        made = []
    if len(made) != len(names) or not all(0 < w < math.inf for w in made):
        example = ",".join(["1", *["0.5"] * (len(names) - 1)])
        raise UsageError(
            f"--task-option weights={text} must be one number above 0 for each of {', '.join(names)}, as in "
            f"weights={example}"
        )
    return made


def _kept(part: Task, name: str) -> str:
    """The name under which a part's array is kept; the meter leaves it in the order in which it came."""
    return f"{part.name}.{name}" if name in part.summed else f"each_{part.name}.{name}"


def _there(values: Any) -> Tensor:
    """bool (B,): which values of a column are known."""
    if isinstance(values, Tensor):
        return values >= 0
    return torch.tensor([value is not None for value in values], dtype=torch.bool)


def _filled(values: Any, known: Tensor) -> Any:
    """The values, with that of the first known sample where a sample is not known; such samples do not count."""
    first = int(known.nonzero()[0])
    if isinstance(values, Tensor):
        return torch.where(known, values, values[first])
    return [value if known[b] else values[first] for b, value in enumerate(values)]


def _first(found: Any) -> Any:
    return next((one for one in found if one is not None), None)
