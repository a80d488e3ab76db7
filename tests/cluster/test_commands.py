"""`--on` as a user types it, with the work done in this process instead of a cluster's."""

from __future__ import annotations

import json
import sys

import pytest
from cli.test_commands import call
from cluster.test_listing import Here, encoded, shard, table

import neocog
import neocog.cluster
from neocog.cluster import worker


class Stand(Here):
    """`Here`, made as `Cluster` is."""

    def __init__(self, on, say):
        super().__init__()
        self.on = on

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def photos(self, items, card):
        self.see = worker.seeing(lambda folder: worker.embedder(card, len(items), folder), None, 1)
        return super().photos(items, card)


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.setattr(neocog.cluster, "Cluster", Stand)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_index_of_a_shard_with_a_run(here):
    fields = {"min_steps": 4, "batch_size": 16}
    neocog.train("drawn:n=60,size=32", net="lenet5", epochs=1, out="run", diagnosis=False, progress=False, set=fields)
    shard(here / "s.tar", range(5))
    result = call("index", "s.tar", "--net", "run", "--library", "lib", "--on", "local", "--json", "--quiet")
    assert result.exit_code == 0 and json.loads(result.stdout)["new"] == 5
    assert "1.png" in call("search", "folder:s.tar", "--library", "lib", "--all").stdout
    assert "s.tar" in call("library", "folders", "lib").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("index", "s3://b/k"), "neocog index s3://b/k --on local"),
        (("index", "s3://b/k", "--on", "local"), "say in which folder the library of s3://b/k is to be: --library LIB"),
        (("index", "x.tar", "--library", "lib", "--on", "local"), "x.tar does not exist"),
        (("index", ".", "--watch", "--on", "local"), "leave one of the two out"),
        (("predict", "run", ".", "--on", "local", "--masks", "m"), "leave out --on"),
    ],
)
def test_what_does_not_go_together_is_told(here, arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())


def test_without_ray_no_library_is_left(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "photos").mkdir()
    result = call("index", str(tmp_path / "photos"), "--library", str(tmp_path / "lib"), "--on", "local")
    assert result.exit_code == 1 and "pip install 'neocog[cluster]'" in result.stderr
    assert not (tmp_path / "lib").exists()


def test_workers_predict_as_one_process_does(tmp_path):
    """The work of `Cluster.predict`, on files, rows and what cannot be read."""
    from neocog.data.places import members
    from neocog.data.stores import Item
    from neocog.library.scan import Found

    fields = {"min_steps": 4, "batch_size": 16}
    run = neocog.train(
        "drawn:n=60,size=32", net="lenet5", epochs=1, out=tmp_path / "run", diagnosis=False, progress=False, set=fields
    )
    rows, _ = members(Item(str(table(tmp_path / "t.parquet", range(4))), 0, 1))
    given = [(place, Found(item.full, item.size, item.mtime_ns, 0, 0, item.part), None) for place, item in rows]
    given.insert(2, ("sent", Found("nowhere", 0, 0, 0, 0), encoded(7)))
    given.insert(1, ("gone", Found(str(tmp_path / "gone.png"), 0, 0, 0, 0), None))
    packed = tmp_path / "packed"
    packed.mkdir()
    for name, data in worker.packed_run(run.folder).items():
        (packed / name).write_bytes(data)
    answers = worker.telling(tmp_path / "elsewhere", 5, None, packed, 1)(given)
    assert [one.key for one in answers] == [place for place, *_ in given]
    expected = run.predict([encoded(0), encoded(1), encoded(7), encoded(2), encoded(3)])
    assert [one.label for one in answers if not one.problem] == [one.label for one in expected]
    assert "No such file" in answers[1].problem


def test_weights_travel(tmp_path):
    """What a library's model needs on a machine that has neither its run nor its weights."""
    fields = {"min_steps": 4, "batch_size": 16}
    run = neocog.train(
        "drawn:n=60,size=32", net="lenet5", epochs=1, out=tmp_path / "run", diagnosis=False, progress=False, set=fields
    )
    from neocog.library.embed import Embedder

    here = Embedder(run.folder)
    files = worker.packed(here.card())
    run.folder.rename(tmp_path / "away")
    there = tmp_path / "there"
    there.mkdir()
    for name, data in files.items():
        (there / name).write_bytes(data)
    made = worker.embedder(here.card(), 1, there)
    assert made.name == here.name
    for one, other in zip(made.embed([encoded(1)]), here.embed([encoded(1)]), strict=True):
        assert (one == other).all()
