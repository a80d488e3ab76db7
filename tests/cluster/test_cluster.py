"""A real cluster of several processes on this machine: killed workers, a killed driver, and what the user is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.nets import deadly, none, tiny
from library.tiny import Tiny, fill, paths_of
from PIL import Image

from neocog.cluster import Cluster, session
from neocog.errors import ClusterError, MissingExtra
from neocog.library.indexing import index
from neocog.library.store import Store

ray = pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
psutil = pytest.importorskip("psutil")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster_here():
    """Three processes, which all tests of this file share."""
    with Cluster("local", workers=3, make=tiny) as cluster:
        yield cluster


def processes() -> list[int]:
    """The workers that hold a net, by their process numbers."""
    found = psutil.Process().children(recursive=True)
    return [one.pid for one in found if one.is_running() and "ray::Worker" in " ".join(_command(one))]


def _command(process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_killed_driver_and_killed_workers_lose_nothing_and_do_nothing_twice(tmp_path, cluster_here, capfd):
    fill(tmp_path / "p", 400)
    (tmp_path / "p" / "bad.jpg").write_text("no picture")
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, str(script), str(tmp_path / "lib"), str(tmp_path / "p")]
    paths = os.pathsep.join(str(Path(__file__).parents[i] / name) for i, name in ((2, "src"), (1, "")))
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, "")
    store = Store.open(tmp_path / "lib")
    before = len(store)
    assert 64 <= before < 400 and store.unfinished

    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        for pid in processes()[: 2 - len(killed)]:  # two of three, one after the other
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    report = index(store, [tmp_path / "p"], Tiny(), elsewhere=cluster_here, progress=progress)
    assert len(killed) == 2
    assert (len(store), report.computed, report.unreadable) == (400, 400 - before, 1)
    assert len(paths_of(store)) == len(set(paths_of(store))) == 400
    assert sum(len(batch) for batch in store.stored("vectors_tiny", ["hash"])) == 400
    told = capfd.readouterr()
    assert told.out == "" and "ray" not in told.err.lower()  # not a word of Ray's


def test_a_picture_that_kills_its_process_is_listed_and_tried_again(tmp_path, cluster_here, monkeypatch):
    fill(tmp_path / "p", 20)
    Image.new("RGB", (16, 16), "white").save(tmp_path / "p" / "white.png")
    monkeypatch.setattr(session, "_DEATHS", 1)
    monkeypatch.setattr(cluster_here, "make", deadly)
    store = Store.ensure(tmp_path / "lib")
    report = index(store, [tmp_path / "p"], Tiny(), elsewhere=cluster_here)
    assert (report.new, report.unreadable) == (20, 1)
    (row,) = store.problems().to_pylist()
    assert row["path"].endswith("white.png") and "died of it" in row["reason"]
    monkeypatch.setattr(cluster_here, "make", tiny)
    assert index(store, [tmp_path / "p"], Tiny(), elsewhere=cluster_here).new == 1 and not len(store.problems())


def test_a_net_that_cannot_be_made_is_one_sentence(tmp_path, cluster_here, monkeypatch):
    fill(tmp_path / "p", 4)
    monkeypatch.setattr(cluster_here, "make", none)
    with pytest.raises(ClusterError, match=r"the cluster local failed \(no net here\); type the same command again"):
        index(Store.ensure(tmp_path / "lib"), [tmp_path / "p"], Tiny(), elsewhere=cluster_here)


def test_predictions_are_those_of_one_process(tmp_path, cluster_here):
    import neocog
    from neocog.fit import predict

    fields = {"min_steps": 4, "batch_size": 16}
    run = neocog.train(
        "drawn:n=40,size=32", net="lenet5", epochs=1, out=tmp_path / "run", diagnosis=False, progress=False, set=fields
    )
    files = sorted(fill(tmp_path / "p", 70, side=32))
    (tmp_path / "p" / "z.jpg").write_text("no picture")
    here = list(predict(run, [*files, tmp_path / "p" / "z.jpg"]))
    (tmp_path / "s.tar").write_bytes(b"no shard" * 100)
    *there, shard = cluster_here.predict(run.folder, [str(tmp_path / "p"), str(tmp_path / "s.tar")])
    assert shard.key.endswith("s.tar") and "not a tar file" in shard.problem
    assert [one.key for one in there] == [one.key for one in here]
    assert [one.label for one in there] == [one.label for one in here]
    assert there[-1].problem


def test_ray_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'neocog\[cluster\]'"), Cluster():
        pass


def test_a_cluster_that_is_not_there_is_one_sentence(python):
    code = (
        "from neocog.cluster import Cluster\nfrom neocog.errors import ClusterError\n"
        "try:\n    Cluster('127.0.0.1:1').__enter__()\nexcept ClusterError as error:\n    print(error)"
    )
    answer = python("-W", "ignore", "-c", code)
    assert answer.stdout.startswith("the cluster 127.0.0.1:1 failed (") and "ray start --head" in answer.stdout
    assert answer.stdout.count("\n") == 1 and answer.stderr == ""


def test_a_cluster_elsewhere_gets_bytes_and_weights(tmp_path, python):
    """Over a connection ``ray://``, as from another machine: files of this one travel, and so does the net."""
    pytest.importorskip("grpc", reason="ray[client] is not installed")
    port = "21537"
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    options = ["--head", "--block", "--port=0", f"--ray-client-server-port={port}", "--num-cpus=2"]
    options += ["--include-dashboard=false"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options]
    head = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True)
    try:
        assert any("Ray runtime started" in line for line in head.stdout or ())  # until it is there, or has ended
        fill(tmp_path / "p", 70)
        code = (
            "import sys\nfrom pathlib import Path\nimport neocog\nfrom neocog import Library\n"
            "from neocog.cluster import Cluster\n"
            "fields = {'min_steps': 4, 'batch_size': 16}\n"
            "run = neocog.train('drawn:n=40,size=32', net='lenet5', epochs=1, out='run', diagnosis=False,"
            " progress=False, set=fields)\n"
            "import time\nfor attempt in range(100):\n    try:\n"
            f"        cluster = Cluster('ray://127.0.0.1:{port}').__enter__()\n        break\n"
            "    except neocog.errors.ClusterError:\n        time.sleep(1)\n"
            "report = Library.at('lib').index('p', net='run', elsewhere=cluster)\n"
            "print(report.new, report.computed, len(list(cluster.predict('run', ['p']))))\n"
        )
        answer = python("-W", "ignore", "-c", code, timeout=600, RAY_AUTH_MODE="disabled")
        assert answer.stdout.splitlines()[-1:] == ["70 70 70"], answer.stderr[-2000:]
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait()


def test_a_cluster_whose_machine_dies_is_one_sentence(tmp_path, cluster_here, monkeypatch):
    """Last in this file: nothing is left of the cluster."""
    fill(tmp_path / "p", 200)
    store = Store.ensure(tmp_path / "lib")
    monkeypatch.setattr(session, "_DEATHS", 1)

    def progress(done: int, total: int) -> None:
        for one in psutil.Process().children(recursive=True):
            if one.name() == "raylet":
                one.kill()

    with pytest.raises(ClusterError, match=r"the cluster local failed \(no machine of it is left\); type the same"):
        index(store, [tmp_path / "p"], Tiny(), elsewhere=cluster_here, progress=progress)
    assert not len(store.problems())
