"""What decided: the words of a net of windows and maxima add up to its score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from neocog import fit, nets
from neocog.cli import app
from neocog.data import open_source
from neocog.data.read_text import TextReader
from neocog.errors import UsageError
from neocog.fit.words import decided
from neocog.tasks import Label


@pytest.fixture
def reader() -> TextReader:
    return TextReader.plan(open_source("drawn:n=20,kind=text"), np.arange(20), TextReader.options)


def test_words_and_windows_add_up_to_the_score(reader: TextReader) -> None:
    torch.manual_seed(0)
    net = nets.build("sentence_cnn", classes=2, vocabulary=reader.tokenizer.size - 1, dimensions=8)
    for conv in net.convs:
        torch.nn.init.normal_(conv.weight)
    text, task = "A red circle lies left of a blue square.", Label(["a", "b"])
    found = decided(task, net, reader, text, "b")
    ids = reader.collate([reader.encode(text)])
    with torch.no_grad():
        score = float(net.eval()(ids)[0, 1] - net.fc.bias[1])
    assert found.name == "b"
    assert [word for word, _ in found.words] == "a red circle [lies] left of a blue square .".split()
    assert sum(part for _, part in found.words) == pytest.approx(score, rel=1e-4)  # the convolutions' biases are 0
    assert sum(part for _, part in found.windows) == pytest.approx(score, rel=1e-4)
    assert abs(found.windows[0][1]) >= abs(found.windows[1][1]) and "b: " in found.text() and "<span" in found.html()
    assert found.to_json()["of"] == "b"


def test_nets_without_word_vectors_are_refused(reader: TextReader) -> None:
    with pytest.raises(UsageError, match="nets with word vectors"):
        decided(Label(["a", "b"]), torch.nn.Linear(2, 2), reader, "a text")


def test_other_nets_say_it_of_words(reader: TextReader, tmp_path: Path) -> None:
    for name in ("sentence_collobert", "sentence_dcnn"):
        net = nets.build(name, classes=2, vocabulary=reader.tokenizer.size - 1)
        found = decided(Label(["a", "b"]), net, reader, "a red circle")
        assert len(found.words) == 3 and not found.windows and np.isfinite([part for _, part in found.words]).all()


def test_the_command_says_which_words_decided(tmp_path: Path) -> None:
    run = fit.train("drawn:n=24,kind=text", task="label", epochs=1, out=tmp_path / "r", progress=False, diagnosis=False,
                    device="cpu", set={"min_steps": 1, "batch_size": 8})  # fmt: skip
    done = CliRunner().invoke(app, ["predict", str(run.folder), "a red circle", "--why"])
    first, second = done.stdout.splitlines()
    assert done.exit_code == 0 and first.startswith("a red circle  ") and "'" in second
