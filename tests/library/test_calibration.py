"""Scores to probabilities: the line that fits, its limits, and what a library keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from library.made import DIMENSION, Picture, made, names

from neocog.library.calibration import (
    DEFAULTS,
    HEARD,
    KINDS,
    MEASURED,
    OWN_WORD,
    RUN_ON_SOUNDS,
    THRESHOLDS,
    Line,
    counts,
    fit_line,
    lines_from,
    lines_to,
    log_odds,
    sigmoid,
    threshold_of,
)
from neocog.library.describe import describe
from neocog.library.searching import search
from neocog.library.store import Store
from neocog.library.unseen import surest
from neocog.nets.packages import DEFAULT


def expected_error(p: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error: mean |share right - mean p| over bins of p, weighted by their size."""
    p, right = np.asarray(p, np.float64), np.asarray(right, np.float64)
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = [abs(right[place == b].mean() - p[place == b].mean()) * (place == b).mean() for b in np.unique(place)]
    return float(np.sum(gaps))


@given(st.floats(1e-5, 1 - 1e-5))
def test_log_odds_undo_the_sigmoid(p: float) -> None:
    assert sigmoid(log_odds(np.array([p])))[0] == pytest.approx(p, rel=1e-3, abs=1e-6)


def test_extremes_are_finite() -> None:
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    assert sigmoid(np.array([-1e30, 0, 1e30])).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.5, -3.0), (4.0, 1.0)])
def test_the_line_that_made_the_data_is_found(slope: float, shift: float) -> None:
    random = np.random.default_rng(0)
    x = random.normal(-shift / slope, 3 / slope, 20_000)
    right = random.random(len(x)) < 1 / (1 + np.exp(-(slope * x + shift)))
    line = fit_line(x, right)
    assert line.slope == pytest.approx(slope, rel=0.06)
    assert line.shift == pytest.approx(shift, rel=0.06, abs=0.08)
    assert line.n == len(x)
    assert expected_error(line(x), right) < 0.015


def test_weights_count_like_copies() -> None:
    random = np.random.default_rng(1)
    x, right = random.normal(size=300), random.random(300) < 0.4
    times = random.integers(1, 4, 300)
    once, many = fit_line(x, right, times), fit_line(np.repeat(x, times), np.repeat(right, times))
    # Platt's softened targets count examples, so the two differ a little
    assert once.slope == pytest.approx(many.slope, abs=0.02)
    assert once.shift == pytest.approx(many.shift, abs=0.02)


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=2, max_size=40),
)
def test_any_data_give_a_finite_line(rows: list[tuple[float, bool]]) -> None:
    line = fit_line(np.array([x for x, _ in rows]), np.array([y for _, y in rows]))
    assert np.isfinite([line.slope, line.shift]).all()
    p = line(np.array([x for x, _ in rows]))
    assert ((p >= 0) & (p <= 1)).all()


def test_scores_that_separate_without_error_stay_finite() -> None:
    line = fit_line(np.array([0.0, 1, 2, 10, 11, 12]), np.array([False] * 3 + [True] * 3))
    assert 0 < line.slope < 100
    np.testing.assert_allclose(line(np.array([1.0, 11.0])), [0.2, 0.8], atol=0.05)  # (1, 4) of 5, as softened


def test_the_expected_error_of_a_liar_is_large() -> None:
    assert expected_error(np.full(100, 0.9), np.zeros(100, bool)) == pytest.approx(0.9)
    assert expected_error(np.array([0.25] * 4), np.array([True, False, False, False])) == 0


def test_a_library_keeps_its_own_lines() -> None:
    mine = Line(2.0, -1.0, 50)
    saved = json.loads(json.dumps(lines_to({"other": {}}, "net", {"word": mine})))
    assert lines_from(saved, "net")["word"] == mine
    assert lines_from(saved, "net")["text"] == DEFAULTS["text"]
    assert lines_from(saved, "third") == DEFAULTS
    assert lines_from(None, "") == DEFAULTS


@pytest.mark.parametrize("net", MEASURED)
def test_what_ships_is_what_was_measured(net: str) -> None:
    lines = lines_from(None, net)
    assert set(lines) == set(KINDS)
    assert all(line.slope > 0 and line.n > 1000 for line in lines.values())
    assert set(THRESHOLDS) < set(KINDS)
    file = Path(__file__).parents[2] / f"bench/results/calibration-{net}.json"
    for kind, (slope, shift, n) in json.loads(file.read_text("utf-8"))["lines"].items():
        if line := MEASURED[net].get(kind):
            assert (line.slope, line.shift, line.n) == (float(f"{slope:.3g}"), float(f"{shift:.3g}"), n), kind


@pytest.mark.parametrize("model", HEARD)
def test_what_ships_for_recordings_is_what_was_measured(model: str) -> None:
    rows = json.loads((Path(__file__).parents[2] / "bench/results/sounds.json").read_text("utf-8"))["rows"]
    found = next(row for row in rows if row["what"] == f"lines, {model}")
    lines = lines_from(None, model, heard=True)
    for kind, line in HEARD[model].items():
        told = found[kind]
        assert lines[kind] == line == Line(*told["line"], told["pairs"]), kind
        assert threshold_of(kind, model, heard=True) == told["threshold"]
    assert lines_from(None, "tones_abc", heard=True) == lines_from(None, RUN_ON_SOUNDS, heard=True)
    assert threshold_of("example", "tones_abc", heard=True) == threshold_of("example", RUN_ON_SOUNDS, heard=True)


def test_the_thresholds_are_the_models() -> None:
    assert threshold_of("example", DEFAULT) != threshold_of("example", "another") == THRESHOLDS["example"]
    assert threshold_of("word", DEFAULT) == THRESHOLDS["word"]


@pytest.mark.parametrize("kind", ["example", "output"])
def test_the_thresholds_of_the_default_net_were_measured(kind: str) -> None:
    """At least nine of ten examples find something, and of those without an answer nine of ten nothing."""
    file = Path(__file__).parents[2] / f"bench/results/calibration-{DEFAULT}.json"
    rows = json.loads(file.read_text("utf-8"))["measured"][kind]["rows"]
    row = next(row for row in rows if row["threshold"] == threshold_of(kind, DEFAULT))
    assert row["find something"] >= 0.9 and row["nothing found where nothing is"] >= 0.9


def test_the_default_net_has_lines_of_its_own() -> None:
    assert DEFAULT in MEASURED and lines_from(None, DEFAULT) != lines_from(None, "another")


# ---- the classes of a run


def of_a_run(folder: Path, shown: Sequence[float], sure: list | None) -> Store:
    """A library whose net has two classes; `shown`: the probability of *dog* for each picture."""
    pictures = [Picture(f"{i:02}.jpg", {"dog": p, "bike": 1 - p}, i % 3) for i, p in enumerate(shown)]
    store = made(folder, pictures, ["dog", "bike"])
    # as an older neocog left it, and then as indexing it again leaves it
    card = {"concepts": ["dog", "bike"], "weights": "none", "sure": sure}
    store.add_model("toy", DIMENSION, card, classes=2)
    return store


STRANGERS = [*np.linspace(0.03, 0.97, 60)]
SURE = [(0.99, 0.5, 0.5), (0.99, 0.5, 0.5)]


def test_a_library_of_other_pictures_does_not_show_a_runs_classes(tmp_path: Path) -> None:
    store = of_a_run(tmp_path / "a", [*STRANGERS, *[0.995] * 3, *[0.985] * 3], SURE)
    assert {*names(search(store, "dog").hits)} == {f"{i}.jpg" for i in range(60, 66)}
    assert not search(store, "bike").hits
    assert search(store, "animal").found == 6  # a broader term
    assert describe(store, "65.jpg").concepts[0][0] == "dog" and not describe(store, "50.jpg").concepts
    # nothing is known of how sure the run is: its own probabilities count as they are, at even odds
    store = of_a_run(tmp_path / "b", STRANGERS, None)
    assert search(store, "dog").found == search(store, "bike").found == 30


def test_a_library_of_pictures_like_the_runs_shows_them_all(tmp_path: Path) -> None:
    shown = [0.999, 0.995, 0.98, 0.97, 0.9, 0.8]
    store = of_a_run(tmp_path, [*shown, *(1 - p for p in shown)], SURE)
    assert search(store, "dog").found >= 5 and search(store, "bike").found >= 5
    assert not {h.path for h in search(store, "dog").hits} & {h.path for h in search(store, "bike").hits}


def test_what_a_library_learned_itself_comes_before_counting(tmp_path: Path) -> None:
    store = of_a_run(tmp_path, STRANGERS, SURE)
    store.save("calibration", lines_to(None, "toy", {"word": Line(1.0, 2.0, 30)}))
    assert search(store, "dog").found > 30


def test_how_sure_a_run_is_of_pictures_that_it_was_not_trained_on() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.95, 0.05], [0.6, 0.4], [0.1, 0.9]])
    right = np.array([[1, 0]] * 5 + [[0, 1]], bool)
    (dog, bike) = surest(p, right) or []
    assert dog == pytest.approx((0.8, 0.6, 5 / 6), abs=1e-3)
    assert bike == pytest.approx((0.85, 0.5, 1 / 6), abs=1e-3)  # one picture is too few: the median of all six
    assert surest(p[:4], right[:4]) is None


def test_lines_of_imagenet_nets_are_not_those_of_runs() -> None:
    assert not counts({"concepts": "imagenet"}) and not counts({}) and counts({"concepts": ["dog", "bike"]})
    assert "word" not in lines_from(None, "run", counted=True) and "word" in lines_from(None, DEFAULT)
    assert threshold_of("word", "run", counted=True) == OWN_WORD != threshold_of("word", DEFAULT)
