"""The commands as a user types them: answers on stdout, the rest on stderr, exit status 0, 1 or 2."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer.core
from PIL import Image
from typer.testing import CliRunner

import neocog
from neocog.cli import answers, app, terminal, write
from neocog.errors import DataError, UsageError
from neocog.tasks import Label
from neocog.tasks.label import Prediction

COMMANDS = (
    "train",
    "resume",
    "evaluate",
    "predict",
    "match",
    "sample",
    "check",
    "tasks",
    "nets",
    "anatomy",
    "compare",
    "recipes",
    "transferability",
    "design",
    "baseline",
    "demo",
)


SHORT = ("--epochs", 4, "--set", "min_steps=20", "--set", "batch_size=16")


def call(*arguments, stdin=None):
    """Run a command in this process; the result has exit_code, stdout and stderr."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# -- the outside --


def test_version():
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"neocog {neocog.__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    assert command in call("--help").stdout
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"{command} [OPTIONS]" in result.stdout


def test_without_a_command_there_is_help():
    result = call()
    assert "Commands:" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "train"),
        (["train"], "DATA"),
        (["train", "digits", "--epochs", "many"], "--epochs"),
        (["train", "digits", "--epochs", "1", "--minutes", "1"], "exclude each other"),
        (["train", "digits", "--set", "lr"], "field=value"),
        (["train", "digits", "--set", "lr=1", "--set", "lr=2"], "given twice"),
        (["predict", "run"], "PICTURES"),
        (["predict", "run", "a.png", "--format", "xml"], "jsonl"),
        (["evaluate", "digits"], "DATA"),
    ],
)
def test_wrong_usage_is_told_and_gives_2(arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "near"), [(("--recipe", "fats"), "fast"), (("--set", "mixpu=1"), "mixup")], ids=("recipe", "field")
)
def test_a_wrong_recipe_or_field_names_the_near_one(photos, tmp_path, arguments, near):
    result = call("train", photos, *arguments, "--out", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"did you mean '{near}'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_error_is_one_message_without_traceback(python, tmp_path):
    result = python("-m", "neocog", "check", str(tmp_path / "nowhere"))
    assert result.returncode == 1
    assert "nowhere" in result.stderr and result.stderr.startswith("neocog: ")
    assert "Traceback" not in result.stderr and result.stdout == ""
    shown = python("-m", "neocog", "check", str(tmp_path / "nowhere"), NEOCOG_DEBUG="1")
    assert "Traceback" in shown.stderr


def test_an_empty_argument_is_not_this_folder():
    for command in ("check", "index", "predict"):
        result = call(command, "", "x")
        assert result.exit_code == 2 and "an argument is empty" in result.stderr


def test_a_run_that_is_none_is_told(tmp_path):
    for arguments in (["resume", tmp_path], ["predict", tmp_path, "-"], ["evaluate", tmp_path, "digits"]):
        result = call(*arguments, stdin="")
        assert result.exit_code == 1, arguments
        assert "run" in result.stderr and result.stdout == ""


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    """`neocog nets --json | head -1`, with an output that is larger than the pipe."""
    script = (
        "import typer\nfrom neocog import cli\nfrom neocog.cli import terminal\n"
        "@cli.app.command()\ndef much() -> None:\n    for i in range(200_000):\n        typer.echo(f'line {i}')\n"
        "terminal.prepare()\ncli.app(['much'])\n"
    )
    source = str(Path(neocog.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": source},
        text=True,
    )
    assert process.stdout and process.stderr
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), errors) == (0, "")


@pytest.mark.slow
def test_only_the_first_process_of_a_torchrun_speaks(python):
    first = python("-m", "neocog", "nets", RANK="0", WORLD_SIZE="2")
    second = python("-m", "neocog", "nets", RANK="1", WORLD_SIZE="2")
    assert "resnet18" in first.stdout
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    # a failure that only one process may know of is told with its number
    lost = python("-m", "neocog", "check", "./nowhere", RANK="1", WORLD_SIZE="2")
    assert lost.returncode == 1 and lost.stderr.startswith("neocog, process 1: ")


# -- lists --


def test_nets_lists_the_zoo():
    table, document = call("nets"), call("nets", "--json")
    assert table.exit_code == document.exit_code == 0
    rows = json.loads(document.stdout)
    assert {row["name"] for row in rows} == set(neocog.nets.names())
    assert all(row["paper"] for row in rows)
    assert [row["name"] for row in rows if not row["params"]] == ["neocognitron"]  # it learns without gradients
    for row in rows:
        assert row["name"] in table.stdout
    family = rows[0]["family"]
    some = json.loads(call("nets", "--family", family, "--json").stdout)
    assert {row["name"] for row in some} == set(neocog.nets.names(family))
    unknown = call("nets", "--family", "nosuchfamily")
    assert unknown.exit_code == 1 and "nosuchfamily" in unknown.stderr and unknown.stdout == ""


def test_recipes_lists_every_field():
    from neocog.fit.recipes import RECIPES

    rows = json.loads(call("recipes", "--json").stdout)
    assert {row["name"]: row for row in rows} == {name: r.as_dict() for name, r in RECIPES.items()}
    table = call("recipes").stdout
    assert all(name in table for name in RECIPES)


# -- answers --


def test_plain_makes_strict_json_of_anything_a_result_holds():
    @dataclass(frozen=True)
    class Inner:
        path: Path
        values: np.ndarray

    thing = {
        "a": Inner(Path("x/y"), np.array([1.5, float("nan")])),
        3: (np.float32(0.5), np.int64(7), {"b", "a"}, True),
    }
    text = json.dumps(write.plain(thing), allow_nan=False)
    assert json.loads(text) == {"a": {"path": "x/y", "values": [1.5, None]}, "3": [0.5, 7, ["a", "b"], True]}


def test_a_table_in_a_pipe_is_never_cut(capsys):
    long = "x" * 500
    write.show_table([{"name": "[bold]a[/bold]", "n": 12345}, {"name": long, "n": 1}])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("[bold]a[/bold] ") and lines[1].endswith("12,345")
    assert lines[2].startswith(long)


CLASSES = ("bee", "ant, red", "wasp")
TOPS = (
    (("ant, red", 0.75), ("bee", 0.2), ("wasp", 0.05)),
    (("bee", 0.5), ("wasp", 0.3), ("ant, red", 0.2)),
)
GUESSES = [
    Prediction("broken.jpg", problem="file ends early"),
    Prediction("a.jpg", "ant, red", 0.75, TOPS[0], False, 1.25),
    Prediction('odd "name", 1.png', "bee", 0.5, TOPS[1], True, 9.0),
]


def written(form, top=2):
    """What `neocog predict` prints for these answers."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        guesses = [dataclasses.replace(one, top=one.top[:top]) for one in GUESSES]
        assert answers.write_answers(guesses, Label(CLASSES), form) == 1
    return stream.getvalue()


def test_predictions_as_csv():
    rows = list(csv.DictReader(io.StringIO(written("csv"))))
    assert [row["picture"] for row in rows] == [g.key for g in GUESSES]
    assert rows[0]["problem"] == "file ends early" and rows[0]["label"] == "" and rows[0]["label_2"] == ""
    assert (rows[1]["label"], float(rows[1]["probability"]), rows[1]["label_2"]) == ("ant, red", 0.75, "bee")
    # what is unknown has no label, so that whoever reads only that column takes no guess for an answer
    assert (rows[2]["label"], rows[2]["probability"], rows[2]["unknown"]) == ("", "", "1")
    assert (rows[2]["label_1"], rows[2]["label_2"]) == ("bee", "wasp") and "label_3" not in rows[2]
    assert rows[1]["label_1"] == "ant, red"


def test_predictions_as_jsonl():
    records = [json.loads(line) for line in written("jsonl", top=3).splitlines()]
    assert records[0] == {"picture": "broken.jpg", "problem": "file ends early"}
    assert records[1]["top"][1] == {"label": "bee", "probability": 0.2}
    assert [r.get("unknown") for r in records] == [None, False, True]
    assert (records[1]["label"], records[1]["probability"]) == ("ant, red", 0.75)
    assert records[2]["label"] is None and records[2]["probability"] is None
    assert records[2]["top"][0] == {"label": "bee", "probability": 0.5}


def test_predictions_as_table():
    lines = written("table").splitlines()
    assert lines[0].startswith("unreadable") and "file ends early" in lines[0]
    assert lines[1].startswith("ant, red") and "75.0%" in lines[1] and "bee 20.0%" in lines[1]
    assert lines[2].startswith("unknown") and "bee 50.0%" in lines[2]
    assert len({line.index(g.key) for line, g in zip(lines, GUESSES, strict=True)}) == 1, "the columns line up"


def test_an_output_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "out.csv"
    with pytest.raises(DataError), terminal.output(path) as stream:
        stream.write("half")
        raise DataError("stopped")
    assert list(path.parent.iterdir()) == []
    with terminal.output(path) as stream:
        stream.write("whole")
    assert path.read_text() == "whole" and len(list(path.parent.iterdir())) == 1


# -- which pictures --


def test_picture_paths(tmp_path, monkeypatch):
    for name in ("b/2.PNG", "b/1.jpg", "a.webp", "note.txt", ".hidden/x.png", "b/.x.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = [p.relative_to(tmp_path).as_posix() for p in terminal.picture_paths([str(tmp_path)])]
    assert found == ["a.webp", "b/1.jpg", "b/2.PNG"]
    assert list(terminal.picture_paths([str(tmp_path / "note.txt")])) == [tmp_path / "note.txt"]
    monkeypatch.setattr("sys.stdin", io.StringIO("x y.png\n\nz.png\r\n"))
    assert list(terminal.picture_paths(["-"])) == [Path("x y.png"), Path("z.png")]
    with pytest.raises(UsageError, match=r"nothere\.png does not exist"):
        list(terminal.picture_paths(["nothere.png"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="found none"):
        list(terminal.picture_paths([str(tmp_path / "empty")]))


# -- the main job, for real --


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with a folder for each of three classes: the digits 0, 1 and 7, 30 of each."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    for name in (0, 1, 7):
        (folder / str(name)).mkdir()
        for i in np.flatnonzero(digits.target == name)[:30]:
            picture = (digits.images[i] * 15.9).astype(np.uint8)
            Image.fromarray(picture).resize((32, 32)).save(folder / str(name) / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A run folder, made by `neocog train` on those pictures."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    result = call("train", photos, "--net", "lenet5", *SHORT, "--out", folder, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert Path(document["run"]) == folder
    assert Path(document["report"]).is_file()
    assert (document["task"], document["classes"]) == ("label", ["0", "1", "7"])
    assert 0 <= document["metrics"]["test_accuracy"] <= 1
    return folder


def test_resume_for_more_epochs(photos, run, tmp_path):
    import shutil

    folder = tmp_path / "more"
    shutil.copytree(run, folder)
    result = call("resume", folder, "--epochs", 5)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"run: {folder}\n") and "accuracy" in result.stdout
    assert "device" in result.stderr


def test_evaluate_one_and_several(photos, run):
    result = call("evaluate", run, photos, "--json")
    assert result.exit_code == 0, result.stderr
    alone = json.loads(result.stdout)
    assert [one["run"] for one in alone["runs"]] == [str(run)] and alone["ensemble"] is None
    table = call("evaluate", run, run, photos)
    assert table.exit_code == 0, table.stderr
    head, names, first, second, together, *added = table.stdout.splitlines()
    assert "90 pictures" in head and "accuracy" in names and table.stderr.count("was trained on") == 1
    assert first.split() == second.split() and first.startswith(str(run))
    assert together.startswith("all together")
    assert added[0] == "in the order of each run's own validation accuracy:" and "+0.00 ± 0.00 points" in added[-1]
    refused = call("evaluate", run, photos, "--html", "x.html")
    assert refused.exit_code == 2 and "give several runs" in refused.stderr


def test_predict_files_folders_and_stdin(photos, run, tmp_path):
    picture = sorted((photos / "1").iterdir())[0]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"this is text")
    result = call("predict", run, picture, photos / "7", "--format", "jsonl", "--top", 2)
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(r["picture"]).name for r in records] == [
        picture.name,
        *sorted(p.name for p in (photos / "7").iterdir()),
    ]
    assert all(len(r["top"]) == 2 and r["top"][0]["probability"] >= r["top"][1]["probability"] for r in records)

    out = tmp_path / "out.csv"
    result = call("predict", run, "-", "--format", "csv", "--out", out, stdin=f"{bad}\n{picture}\n")
    assert result.exit_code == 1 and result.stdout == "" and "1 picture could not be read" in result.stderr
    first, second = csv.DictReader(io.StringIO(out.read_text()))
    assert first["problem"] and second["label_1"] in {"0", "1", "7"}


def test_check_prints_a_table_a_document_and_a_page(photos, tmp_path):
    import shutil

    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "0" / "broken.png").write_bytes(b"\x89PNG\r\n")
    page = tmp_path / "check.html"
    result = call("check", folder, "--json", "--html", page)
    assert result.exit_code == 0, "a file that cannot be read is a warning"
    document = json.loads(result.stdout)
    assert [one["key"] for one in document["unreadable"]] == ["0/broken.png"] and document["ok"]
    assert "broken.png" in page.read_text()

    shutil.copy(next((folder / "1").iterdir()), folder / "7" / "copy.png")
    saved = tmp_path / "check.json"
    table = call("check", folder, "--out", saved)
    assert table.exit_code == 1, "equal files with different labels are an error"
    assert "broken.png" in table.stdout and "copy.png" in table.stdout and "error: " in table.stdout
    assert json.loads(saved.read_text())["ok"] is False


def test_check_with_a_run(photos, run):
    result = call("check", photos, "--labels", run, "--json")
    assert result.exit_code in (0, 1), result.stderr
    noise = json.loads(result.stdout)["noise"]
    assert noise and all(abs(sum(row.values()) - 1) < 1e-3 for row in noise.values())


def test_check_prints_how_pictures_are_labelled(photos, monkeypatch):
    noise = {"deer": {"horse": 0.2, "deer": 0.75, "cat": 0.05}, "cat": {"cat": 1.0}}
    said = SimpleNamespace(suspicions=[], noise=noise)
    monkeypatch.setattr("neocog.fit.suspects.judged", lambda judge, source: said)
    lines = [line.split() for line in call("check", photos, "--labels", "auto").stdout.splitlines()]
    assert ["deer", "75%", "horse", "20%,", "cat", "5%"] in lines and ["cat", "100%"] in lines


def test_find_lr(photos):
    result = call("train", photos, "--net", "lenet5", "--find-lr", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_says_how_to_go_on(photos, tmp_path, ready):
    folder, command = tmp_path / "run", tmp_path / "command.py"
    command.write_text("from neocog.cli import main\nmain()")
    child = ready.start(command, tmp_path, "train", photos, "--net", "lenet5", "--epochs", 100_000, "--out", folder)
    try:
        while not (folder / "checkpoint.safetensors").exists() and child.poll() is None:
            time.sleep(0.1)
        os.kill(child.pid, signal.SIGINT)
        assert child.wait() == 130, child.stderr
    finally:
        if child.poll() is None:
            child.kill()
    assert f"neocog resume {folder}" in child.stderr and "Traceback" not in child.stderr and child.stdout == ""


@pytest.mark.slow  # half a minute; .ci/run takes this way too
def test_demo_shows_the_whole_way(photos, tmp_path):
    result = call("demo", photos, "--minutes", 0.02, "--out", tmp_path, "--quiet")
    assert result.exit_code == 0, result.stderr
    (folder,) = tmp_path.iterdir()
    assert (folder / "report.html").is_file() and str(folder) in result.stdout


# -- networks --

OWN = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.picture = nn.Conv2d(3, width, 3)
        self.words = nn.EmbeddingBag(10, width)

    def forward(self, image, words):
        return self.picture(image).mean((2, 3)) + self.words(words)

def example_input():
    return {"image": torch.zeros(1, 3, 8, 8), "words": torch.zeros(1, 5, dtype=torch.long)}

number = 3
"""


def test_nets_are_filtered_and_sorted():
    small = json.loads(call("nets", "--max-macs", "60M", "--task", "label", "--sort", "macs", "--json").stdout)
    costs = [net["macs"] for net in small]
    assert costs == sorted(costs)
    assert costs[-1] <= 60_000_000
    assert {net["task"] for net in small} == {"label"}
    recent = json.loads(call("nets", "--since", "2018", "--max-params", "3M", "--json").stdout)
    assert recent and all(net["year"] >= 2018 and net["params"] <= 3e6 for net in recent)
    nothing = call("nets", "--task", "segment", "--max-macs", "1k")
    assert "needs least" in nothing.stderr
    assert call("nets", "--max-macs", "many").exit_code == 2
    assert call("nets", "--sort", "beauty").exit_code == 2


def test_anatomy_of_a_net_of_the_zoo(tmp_path):
    shown = call("anatomy", "lenet5")
    assert "61,706" in shown.stdout and "416,520" in shown.stdout
    found = json.loads(call("anatomy", "resnet18", "--input", "64", "--set", "classes=7", "--advice", "--json").stdout)
    assert found["outputs"] == [[1, 7]]
    assert found["advice"]
    assert {item["kind"] for item in found["misfits"]} == {"beyond"}
    files = {name: tmp_path / f"net.{name}" for name in ("svg", "html", "csv")}
    call("anatomy", "lenet5", *(word for name, path in files.items() for word in (f"--{name}", path)))
    assert files["svg"].read_text().startswith("<svg")
    assert "<svg" in files["html"].read_text()
    assert len(files["csv"].read_text().splitlines()) > 10


def test_anatomy_of_a_run_and_of_an_own_module(tmp_path, run):
    assert json.loads(call("anatomy", run, "--json").stdout)["params"] > 0
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    found = json.loads(call("anatomy", f"{file}:Pair", "--set", "width=6", "--json").stdout)
    assert found["params"] == 6 * 3 * 9 + 6 + 10 * 6
    assert found["inputs"] == [[1, 3, 8, 8], [1, 5]]
    for wrong, told in (
        (f"{file}:Pear", "Pair"),
        (f"{file}:number", "could not be built"),
        ("no.such:Net", "imported"),
    ):
        result = call("anatomy", wrong)
        assert result.exit_code == 2
        assert told in result.stderr
    assert "--input" in call("anatomy", "torch.nn:ReLU").stderr
    assert call("anatomy", "torch.nn:ReLU", "--input", "3x4x4").exit_code == 0


ONE_SIZE = """
import torch
from torch import nn

Colour = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
Grey = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3))
Sound = nn.Conv1d(2, 4, 3)
Flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 5))
Digits = nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 5))
Vector = nn.Sequential(nn.Linear(24, 5))
Example = nn.Conv2d(2, 4, 3)
Example.example_input = lambda: torch.zeros(1, 2, 8, 8)
"""


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Colour", [3, 24, 24]),
        ("Grey", [1, 24, 24]),
        ("Sound", [2, 24]),
        ("Flat", [3, 24, 24]),
        ("Digits", [1, 24, 24]),
        ("Vector", [24]),
        ("Example", [2, 24, 24]),
    ],
)
def test_one_number_is_the_size_of_a_picture(tmp_path, name, shape):
    file = tmp_path / "one_size.py"
    file.write_text(ONE_SIZE)
    found = json.loads(call("anatomy", f"{file}:{name}", "--input", "24", "--json").stdout)
    assert found["inputs"] == [[1, *shape]]
    assert json.loads(call("anatomy", "torch.nn:ReLU", "--input", "24", "--json").stdout)["inputs"] == [[1, 3, 24, 24]]


def test_anatomy_measures(tmp_path):
    found = json.loads(call("anatomy", "lenet5", "--time", "--effective", "--json").stdout)
    assert 0 < found["effective"]["share"] <= 1
    assert {t["name"] for t in found["times"]} >= {"conv1", "conv2"}
    assert "effective receptive field" in call("anatomy", "lenet5", "--effective").stdout


def test_compare_nets(tmp_path):
    shown = call("compare", "alexnet", "resnet18", "lenet5", "--svg", tmp_path / "plot.svg")
    assert "11,689,512" in shown.stdout
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    rows = json.loads(call("compare", "alexnet", "resnet18", "--json").stdout)["entries"]
    assert [row["macs"] for row in rows] == [714_188_480, 1_814_073_344]


def test_a_full_disk_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, ctx: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/checkpoint")

    monkeypatch.setattr("typer.core.TyperGroup.invoke", full)
    found = CliRunner().invoke(app, ["tasks"])
    assert found.exit_code == 1
    assert "No space left on device: runs/a/checkpoint. Free some" in found.output and "resume RUN" in found.output


def test_design_reads_a_budget_and_says_how_to_go_on(monkeypatch):
    asked = {}
    row = {"candidate": 3, "steps": 90, "value": 0.5, "macs": 19, "params": 7, "net": "stem 8 3x3"}

    def design(data, **how):
        asked.update(how)
        return {"goal": "val_accuracy", "candidates": [row], "page": "p.html", "net": "best.json"}

    monkeypatch.setattr("neocog.fit.design.design", design)
    result = call("design", "photos", "--max-macs", "20M", "--minutes", 2, "--set", "epochs=3")
    assert (asked["max_macs"], asked["max_params"], asked["minutes"], asked["set"]) == (20e6, None, 2, {"epochs": "3"})
    assert "val accuracy" in result.stdout and "neocog train photos --net best.json" in result.stdout
    assert json.loads(call("design", "photos", "--max-params", "1M", "--json").stdout)["net"] == "best.json"


def test_baseline_prints_what_each_kind_says(tmp_path):
    result = call("baseline", "drawn:n=40,size=32", "--kinds", "colour,lbp", "--out", tmp_path / "run", "-q")
    table = result.stdout
    assert all(word in table for word in ("colour", "lbp", "joined", "fused", "test accuracy", "run:"))
    compared = json.loads(call("compare", tmp_path / "run", "lenet5", "--json").stdout)
    assert compared["entries"][0]["accuracy"].startswith("drawn test accuracy ")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--noisy", "here"), ["--noisy=early", "here"]),
        (("here", "--noisy"), ["here", "--noisy=early"]),
        (("--noisy", "coteach", "here"), ["--noisy", "coteach", "here"]),
        (("--noisy", "coteech", "here"), ["--noisy", "coteech", "here"]),  # a slip, which is told
        (("--noisy=correct", "here"), ["--noisy=correct", "here"]),
        ((), []),
    ],
)
def test_noisy_may_stand_alone(args: tuple[str, ...], expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(typer.core.TyperCommand, "parse_args", lambda self, ctx, args: seen.append(args) or [])
    terminal.Learning("train").parse_args(None, list(args))
    assert seen == [expected]
