"""Names of files and classes that are not UTF-8, everywhere that they are written or shown."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from neocog import cli, names, page
from neocog.data import open_source
from neocog.data.check import check
from neocog.data.check_page import check_page
from neocog.fit import Run
from neocog.fit.run import Log, read_json, read_tensors, records, write_json, write_tensors

CAFE, BAD = "caf\udce9", "bad\udce9.png"

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names on this system are Unicode")


class Done(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: bytes


def neocog(*arguments: object, encoding: str = "utf-8", stdin: bytes = b"") -> Done:
    """Run a command as if the terminal had this encoding."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for name in ("stdout", "stderr")}
    streams["stdin"] = io.TextIOWrapper(io.BytesIO(stdin), encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["neocog", *map(str, arguments)])
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as end:
            cli.main()
    return Done(int(end.value.code or 0), *(streams[name].buffer.getvalue() for name in ("stdout", "stderr")))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("names") / "fr\udcea"
    pixels = np.random.default_rng(0).integers(0, 60, (2, 12, 24, 24, 3))
    for k, name in enumerate((CAFE, "thé 茶")):
        (root / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray((pixels[k, i] + 120 * k).astype("uint8")).save(root / name / f"{i}\udce9.png")
    (root / CAFE / BAD).write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def run(pictures) -> Path:
    """A whole training through the command line, into a folder whose name is not UTF-8 either."""
    folder = pictures.parent / "run\udce9"
    options = ("--epochs", 1, "--size", 32, "--device", "cpu", "--precision", "float32")
    done = neocog("train", pictures, "--out", folder, *options, encoding="ascii")
    assert done.returncode == 0, done.stderr.decode()
    return folder


def test_a_byte_is_shown_as_an_escape_and_valid_text_as_it_is():
    assert names.shown("thé 茶.png") == "thé 茶.png"
    assert names.shown(f"{CAFE}/1.png") == r"caf\xe9/1.png"
    assert names.shown("th\udcc3\udca9") == "thé"  # a UTF-8 name under an ASCII locale
    assert names.shown("half \ud83d") == r"half \ud83d"  # from JSON


def test_json_leads_back_to_the_file():
    value = {CAFE: ["thé", "\ud83d", r"\udce9"]}
    text = names.json_text(value)
    assert json.loads(text.encode()) == value and "thé" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_a_stream_of_any_encoding_takes_any_text(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding, names.STREAM_ERRORS)
    value = ["thé 茶 😀", CAFE, "back\\slash"]
    stream.write(names.json_text(value) + "\n" + CAFE)
    stream.flush()
    document, shown = stream.buffer.getvalue().decode(encoding).splitlines()
    assert json.loads(document) == value and shown == r"caf\xe9"


def test_pages_and_run_files_take_any_name(tmp_path):
    html = page.page(CAFE, [(CAFE, page.table([{CAFE: BAD}]))], subtitle=BAD)
    assert html.encode().count(rb"caf\xe9") >= 4
    write_json(tmp_path / "x.json", {"name": CAFE})
    assert read_json(tmp_path / "x.json") == {"name": CAFE}
    log = Log(tmp_path)
    log.write("epoch", step=1, picture=BAD)
    log.close()
    assert records(tmp_path)[0]["picture"] == BAD
    write_tensors(tmp_path / "t\udce9", {}, {"a": "b"})
    assert read_tensors(tmp_path / "t\udce9") == ({}, {"a": "b"})


def test_a_training_ends_with_everything_written(run, pictures):
    trained = Run(run)
    assert trained.classes == (r"caf\xe9", "thé 茶")
    assert json.loads((run / "run.json").read_text("utf-8"))["settings"]["data"] == str(pictures)
    assert json.loads((run / "problems.json").read_text("utf-8"))[0]["key"] == f"{CAFE}/{BAD}"
    report = (run / "report.html").read_text("utf-8")
    assert r"caf\xe9" in report and r"bad\xe9.png" in report
    done = neocog("resume", run, "--epochs", 2)
    assert done.returncode == 0, done.stderr.decode()
    done = neocog("evaluate", run, pictures, "--split", "train", encoding="ascii")
    assert done.returncode in (0, 1) and b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_predictions_name_the_pictures(run, pictures, encoding):
    done = neocog("predict", run, pictures / CAFE, "--format", "csv", encoding=encoding)
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode(encoding))))
    assert done.returncode == 1 and len(rows) == 13 and rows[-1]["picture"].endswith(r"caf\xe9/bad\xe9.png")
    done = neocog("predict", run, pictures / CAFE, "--format", "jsonl", encoding=encoding)
    found = [json.loads(line) for line in done.stdout.decode(encoding).splitlines()]
    assert {one["picture"] for one in found} == {str(one) for one in (pictures / CAFE).iterdir()}
    done = neocog("predict", run, pictures / CAFE, encoding=encoding)
    assert rb"0\xe9.png" in done.stdout and rb"bad\xe9.png" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_come_in_on_stdin_as_they_are_on_disk(run, pictures, encoding):
    paths = b"\n".join(os.fsencode(one) for folder in pictures.iterdir() for one in folder.glob("[0-9]*"))
    done = neocog("predict", run, "-", "--format", "jsonl", encoding=encoding, stdin=paths)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 24, done.stderr.decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_check_prints_and_writes_them(pictures, encoding, tmp_path):
    done = neocog(
        "check", pictures, "--json", "--html", tmp_path / "x.html", "--out", tmp_path / "x.json", encoding=encoding
    )
    document = json.loads(done.stdout.decode(encoding))
    assert document["unreadable"][0]["key"] == f"{CAFE}/{BAD}" and document["source"] == "fr\udcea"
    assert [one["name"] for one in document["classes"]] == [r"caf\xe9", "thé 茶"]
    assert json.loads((tmp_path / "x.json").read_text("utf-8"))["unreadable"] == document["unreadable"]
    assert r"caf\xe9/bad\xe9.png" in (tmp_path / "x.html").read_text("utf-8")
    done = neocog("check", pictures, encoding=encoding)
    assert rb"caf\xe9/bad\xe9.png" in done.stdout
    assert (b"th\\u00e9" if encoding == "ascii" else "thé".encode(encoding)) in done.stdout
    done = neocog("check", pictures / "nothing", encoding=encoding)
    assert done.returncode == 1 and rb"/nothing" in done.stderr and b"Traceback" not in done.stderr


def test_the_page_of_a_check_of_any_names(pictures):
    source = open_source(pictures)
    assert rb"bad\xe9.png" in check_page(check(source), source).encode()


def test_packed_data_in_folders_of_any_name(pictures, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "s\udce9"
    folder.mkdir()
    data = next((pictures / CAFE).glob("0*")).read_bytes()
    with open(folder / "train.parquet", "wb") as file:
        pq.write_table(pa.table({"image": [data] * 2, "label": [b"caf\xe9", b"th"]}), file)
    source = open_source(folder)
    assert source.classes == (r"caf\xe9", "th") and source.read(0) == data
    with open(folder / "train.parquet", "wb") as file:
        pq.write_table(pa.table({"path": ["1.png"], "label": ["a"]}), file)
    shutil.copy(next((pictures / CAFE).glob("0*")), folder / "1.png")
    assert open_source(folder / "train.parquet").read(0) == data


def test_numbers_that_are_printed_have_the_digits_that_say_something() -> None:
    given = [0.1 + 0.2, 0.3 - 0.1, np.float32(0.7), 48.858370123456, 1e-9 / 3, 10**18, float("nan"), 1234567.1234567]
    assert names.plain(given) == [0.3, 0.2, 0.7, 48.85837, 3.333333e-10, 10**18, None, 1234567.123457]
