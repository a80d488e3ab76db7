"""Architecture search: budgets are kept exactly, and a search that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from neocog import anatomy, nets
from neocog.errors import RunError, UsageError
from neocog.fit import design as room
from neocog.fit.candidates import KNOWN, REFUSED, design_of, fitted, known_choice, space, traced_as
from neocog.fit.design import design
from neocog.fit.job import Wishes
from neocog.fit.opening import planned
from neocog.nets.designed import DEFAULT, scaled

SPEC = {"name": "designed", "classes": 5, "in_channels": 3, "input_size": 32}
DATA = "drawn:n=64,size=32"
HOW: dict[str, Any] = {"max_macs": 1e6, "max_params": 50_000, "minutes": 60, "progress": False}


def test_a_design_is_as_wide_as_the_budget_allows() -> None:
    limits = {"macs": 2e6, "params": math.inf}
    found = fitted(DEFAULT, SPEC, (3, 32, 32), limits)
    assert found is not None and found[1].macs <= 2e6
    width = found[0]["stages"][-1]["width"]
    wider = scaled(DEFAULT, (width + 8) / DEFAULT["stages"][-1]["width"])
    assert traced_as(wider, SPEC, (3, 32, 32)).macs > 2e6
    assert fitted(DEFAULT, SPEC, (3, 32, 32), {"macs": 1e4, "params": math.inf}) is None


@pytest.mark.parametrize(("size", "stages"), [(32, 3), (64, 3), (128, 4)])
def test_every_choice_is_a_net(size: int, stages: int) -> None:
    for place in (0, -1):
        made = design_of({name: values[place] for name, values in space(size).items()})
        assert len(made["stages"]) == stages
        with torch.device("meta"):
            nets.build(**SPEC, design=scaled(made, 0.2))


@pytest.mark.parametrize(("size", "macs"), [(32, 5e6), (64, 10e6), (128, 20e6)])
def test_known_designs_keep_a_usual_budget_and_the_rules(size: int, macs: float) -> None:
    for number in range(len(KNOWN)):
        choice = known_choice(space(size), number)
        assert choice.keys() == space(size).keys()
        found = fitted(design_of(choice), SPEC, (3, size, size), {"macs": macs, "params": math.inf})
        assert found is not None and not list(anatomy.advise(found[1], rules=REFUSED))


def test_a_search_begins_with_known_designs(tmp_path: Path, quickly: None) -> None:
    kinds = {}
    for search in ("tpe", "random"):
        found = design(DATA, out=tmp_path / search, trainings=3, search=search, **HOW)
        first = sorted(found["candidates"], key=lambda row: int(row["candidate"]))[:3]
        kinds[search] = [{(one["expand"], one["group"]) for one in row["design"]["stages"]} for row in first]
    assert kinds["tpe"] == [{(0, 0)}, {(4, 1)}, {(1, 16)}]
    assert kinds["random"] != kinds["tpe"]


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow nets instead of the widest that fit, and trainings of 2, 6 and 18 steps."""

    def narrow(design: Any, spec: Any, shape: Any, limits: Any) -> Any:
        small = scaled(design, 0.1)
        return small, traced_as(small, spec, shape)

    monkeypatch.setattr(room, "fitted", narrow)
    monkeypatch.setattr(room._Search, "_measure", lambda self, seconds: setattr(self, "unit", 2))


def test_a_search_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quickly: None
) -> None:
    whole = design(DATA, out=tmp_path / "whole", trainings=4, **HOW)

    fit, calls = room.fit, 0

    def stopped(job: Any, state: Any, clock: Any, **how: Any) -> None:
        nonlocal calls
        calls += 1
        fit(job, state, clock, **{**how, "interrupted": lambda: calls == 4 and state.step % 2 == 1})

    monkeypatch.setattr(room, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        design(DATA, out=tmp_path / "parts", trainings=4, **HOW)
    assert (tmp_path / "parts" / "best.json").is_file()  # what is known so far
    parts = design(DATA, out=tmp_path / "parts", trainings=1, **HOW)
    assert parts["candidates"] == whole["candidates"]
    assert [row["steps"] for row in whole["candidates"]] == [6, 2, 2]  # of three, one was trained on
    first = whole["candidates"][0]
    drawn = sorted(whole["candidates"], key=lambda row: row["candidate"])
    assert first["curve"][0][1] == max(row["curve"][0][1] for row in drawn)
    assert Path(whole["page"]).read_text().count("<svg") == 2

    net = json.loads(Path(whole["net"]).read_text())
    assert (net["macs"], net["params"]) == (first["macs"], first["params"])
    job = planned(Wishes(net=whole["net"]), DATA, progress=False)  # as train does
    assert (job.plan.net["name"], job.plan.net["design"]) == ("designed", first["design"])
    assert (job.plan.net["classes"], job.plan.recipe.name) == (8, "compact")
    with pytest.raises(UsageError, match="a search with other limits"):
        design(DATA, out=tmp_path / "parts", **{**HOW, "max_macs": 2e6})


def test_a_search_that_finds_nothing_new_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quickly: None
) -> None:
    fitted, kept = room.fitted, list[Any]()

    def same(*given: Any) -> Any:
        found = kept[0] if kept else fitted(*given)
        kept.extend([found] if found and not kept else [])
        return found

    monkeypatch.setattr(room, "fitted", same)
    monkeypatch.setattr(room, "_DRAWS", 20)
    found = design(DATA, out=tmp_path / "one", trainings=9, **HOW)
    assert len(found["candidates"]) == 1 and Path(found["net"]).is_file()


def test_two_processes_take_up_different_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quickly: None
) -> None:
    taken: list[str] = []

    def meanwhile(job: Any, *_: Any, **__: Any) -> None:
        other = room._Search(room._optuna(), job, tmp_path, {"macs": 1e6, "params": 5e4}, "tpe", 3)
        other.open(60)
        number, told = other._next(math.inf) or (0, {})
        taken.extend((job.folder.name, other._place(told).name))
        other.study.tell(number, 0.0)
        raise RunError("the loss became nan")

    monkeypatch.setattr(room, "fit", meanwhile)
    found = design(DATA, out=tmp_path, trainings=1, **HOW)
    assert len(set(taken)) == 2
    assert [f"{row['candidate']:04d}" for row in found["candidates"]] == taken[1:]  # the other one's loss was lost


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "a search needs a budget"),
        ({"max_macs": 10}, "nothing fits this budget"),
        ({"max_macs": 1e6, "search": "grid"}, "tpe or random"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path: Path, how: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        design(DATA, out=tmp_path, progress=False, **how)
