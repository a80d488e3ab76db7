"""The store: rows, vectors, locks, versions; what is not loaded; what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neocog.errors import LibraryError, UsageError
from neocog.library import mirror, vectors
from neocog.library.lock import STALE, LibraryBusy, Lock
from neocog.library.mirror import mapped_vectors
from neocog.library.rows import content_hash, decode_path, encode_path, vector_column
from neocog.library.store import Store
from neocog.library.upkeep import verify


def names(count: int, start: int = 0) -> list[str]:
    """Hashes in order, which is the order of rows."""
    return [f"{i:08x}{content_hash(str(i).encode())[8:]}" for i in range(start, start + count)]


def rows(hashes: list[str], dimension: int = 8, seed: int = 0, model: str = "m", **columns: object) -> pa.Table:
    values = np.random.default_rng(seed).normal(size=(len(hashes), dimension))
    given = {"paths": [[f"{h}.jpg"] for h in hashes], "models": [[model]] * len(hashes), **columns}
    given |= {"mtimes": [[1]] * len(hashes), "inodes": [[0]] * len(hashes)}
    return pa.table({"hash": hashes, **given, f"v_{model}": vector_column(values)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "lib")
    made.add_model("m", 8, {"weights": "w"})
    return made


def damage(store: Store) -> list[str]:
    """What `verify` finds but files that are not there: these tests make up their paths."""
    return [finding.text for finding in verify(store) if finding.damage]


def slow_nearest(vectors: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    cosines = [float(v @ query / np.linalg.norm(v) / np.linalg.norm(query)) for v in vectors.astype(np.float64)]
    return sorted(range(len(vectors)), key=lambda i: -cosines[i])[:k]


def test_what_is_added_is_there_once(store):
    hashes = names(20)
    assert store.add(rows(hashes)) == 20
    assert store.add(rows(hashes[10:] + names(5, 20) + names(5, 20))) == 5
    assert len(store) == 25
    assert store.rows(["hash"]).column("hash").to_pylist() == hashes + names(5, 20)
    assert store.vectors("m")[0].tolist() == hashes + names(5, 20)
    assert damage(store) == []


def test_rows_are_in_order_of_hash_whatever_came_first(store):
    hashes = names(30)
    for part in (hashes[20:], hashes[:10], hashes[10:20]):
        store.add(rows(part, seed=int(part[0][:8], 16)))
    store.merge(pa.table({"hash": hashes[3:4], "tags": [["x"]]}))
    assert store.rows(["hash"]).column("hash").to_pylist() == hashes == store.vectors("m")[0].tolist()
    np.testing.assert_allclose(store.norms("m"), np.linalg.norm(np.concatenate(
        [np.random.default_rng(s).normal(size=(10, 8)) for s in (0, 10, 20)]), axis=1), rtol=2e-3)  # fmt: skip


def test_a_merge_changes_the_given_columns_only(store):
    hashes = names(10)
    store.add(rows(hashes, captions=[[f"picture {i}"] for i in range(10)]))
    before = store.vectors("m")[1].copy()
    unknown = names(1, 99)
    changed = pa.table({"hash": [*hashes[:3], *unknown], "tags": [["cat"]] * 4})
    assert store.merge(changed) == 3
    found = store.rows(["hash", "tags", "captions"])
    assert [bool(tags) for tags in found.column("tags").to_pylist()].count(True) == 3
    assert found.column("captions").to_pylist() == [[f"picture {i}"] for i in range(10)]
    np.testing.assert_array_equal(store.vectors("m")[1], before)
    assert store.rows(["tags"]).column("tags").to_pylist()[:4] == [["cat"]] * 3 + [[]]


def test_gone_pictures_are_kept_and_not_found(store):
    hashes = names(6)
    store.add(rows(hashes))
    query = store.vectors("m")[1][2].astype(np.float32)
    store.merge(pa.table({"hash": hashes[2:3], "state": ["gone"]}))
    assert len(store) == 5 and len(store.vectors("m")[0]) == 5 and len(store.norms("m")) == 5
    assert hashes[2] not in store.nearest("m", query, 6)[0]
    assert len(store.rows(["hash"], gone=True)) == 6
    store.merge(pa.table({"hash": hashes[2:3], "state": ["ok"]}))
    assert store.nearest("m", query, 1)[0][0, 0] == hashes[2]


def test_deleted_rows_leave_nothing(store):
    hashes = names(5)
    store.add(rows(hashes))
    store.vectors("m")
    store.delete(hashes[:2])
    assert store.vectors("m")[0].tolist() == hashes[2:]
    with pytest.raises(UsageError, match="32 hexadecimal digits"):
        store.delete(["x' OR '1'='1"])
    assert len(store) == 3


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_is_what_a_slow_loop_finds(store, metric):
    hashes = names(200)
    rng = np.random.default_rng(3)
    values = rng.normal(size=(200, 8)) * rng.uniform(0.5, 20, (200, 1))
    store.add(rows(hashes).set_column(5, "v_m", vector_column(values)))
    values = values.astype(np.float16).astype(np.float64)
    queries = rng.normal(size=(4, 8)) * 5
    found, score = store.nearest("m", queries, 10, metric)
    assert found.shape == score.shape == (4, 10)
    for row, query in enumerate(queries):
        if metric == "cosine":
            true = values @ query / np.linalg.norm(values, axis=1) / np.linalg.norm(query)
        else:
            true = -np.linalg.norm(values - query, axis=1)
        best = np.sort(true)[::-1][:10]
        np.testing.assert_allclose(score[row], best, atol=2e-3 * max(1, abs(best).max()))
        assert (np.diff(score[row]) <= 0).all()
    assert slow_nearest(values, queries[0], 1) == [hashes.index(store.nearest("m", queries[0], 1)[0][0, 0])]


def test_many_queries_are_answered_in_parts(store, monkeypatch):
    store.add(rows(names(50)))
    queries = np.random.default_rng(0).normal(size=(9, 8))
    whole = store.nearest("m", queries, 4)
    monkeypatch.setattr(vectors, "_MOST_SCORES", 60)
    parts = store.nearest("m", queries, 4)
    assert (parts[0] == whole[0]).all()
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-5)


def test_nearest_gives_what_there_is(store):
    empty = store.nearest("m", np.ones(8), 3)
    assert empty[0].shape == (1, 0)
    store.add(rows(names(2)))
    assert store.nearest("m", np.ones((3, 8)), 5)[0].shape == (3, 2)


def test_an_index_finds_the_same_and_misses_no_new_row(store):
    store.add(rows(names(3000), seed=1))
    store.tidy(index_from=1000)
    state = store.index_state("m")
    assert state["indexed"] == 3000 and state["exact"] == 0
    late = names(50, 5000)
    store.add(rows(late, seed=2))
    assert store.index_state("m")["exact"] == 50
    hashes, vectors = store.vectors("m")
    queries = vectors[::61].astype(np.float32)
    exact = {h: slow_nearest(vectors, q, 10) for h, q in zip(hashes[::61], queries, strict=True)}
    found, score = store.nearest("m", queries, 10)
    hit = sum(
        len({hashes[i] for i in exact[h]} & set(row)) for h, row in zip(hashes[::61], found.tolist(), strict=True)
    )
    assert hit / found.size >= 0.95
    assert (score[:, 0] > 0.99).all()
    for h, v in zip(late, vectors[-50:].astype(np.float32), strict=True):
        assert store.nearest("m", v, 1)[0][0, 0] == h
    assert (store.nearest("m", queries, 5, "euclidean")[1] <= 0).all()


def test_vectors_of_another_dimension_are_refused(store):
    with pytest.raises(LibraryError, match=r"'m' has 8 numbers a picture .* use the net"):
        store.add(rows(names(2), dimension=4))
    store.add(rows(names(2)))
    with pytest.raises(LibraryError, match=r"expected vectors of 8 numbers, as 'm' makes them, got 3"):
        store.nearest("m", np.ones(3), 1)
    with pytest.raises(LibraryError, match="another model 'm'"):
        store.add_model("m", 16, {"weights": "w"})
    with pytest.raises(LibraryError, match="no vectors of 'n'"):
        store.vectors("n")
    with pytest.raises(LibraryError, match="zero or not finite"):
        store.add(rows(names(1, 7)).set_column(5, "v_m", vector_column(np.full((1, 8), np.nan))))
    assert len(store) == 2


def test_an_old_model_stays_while_a_new_one_comes(store):
    hashes = names(10)
    store.add(rows(hashes))
    store.add_model("n", 4, {"weights": "w2"}, classes=2)
    assert store.model == "m" and len(store.vectors("n")[0]) == 0
    table = pa.table(
        {
            "hash": hashes[:6],
            "models": [["m", "n"]] * 6,
            "v_n": vector_column(np.random.default_rng(0).normal(size=(6, 4))),
            "p_n": vector_column(np.full((6, 2), 0.5)),
        }
    )
    store.merge(table)
    assert store.vectors("n")[0].tolist() == hashes[:6] == store.probabilities("n")[0].tolist()
    assert len(store.vectors("m")[0]) == 10
    store.use_model("n")
    assert Store.open(store.folder).model == "n"
    assert any(one.name.startswith("v_m_") for one in (store.folder / "cache").iterdir())
    store.remove_model("m")
    assert not any(one.name.startswith(("v_m_", "n_m_")) for one in (store.folder / "cache").iterdir())
    assert list(store.models()) == ["n"] and "v_m" not in store.columns and damage(store) == []


def test_reading_imports_neither_lancedb_nor_torch(store):
    store.add(rows(names(30)))
    store.refresh()
    code = (
        "import sys; from neocog.library.store import Store\n"
        f"s = Store.open({str(store.folder)!r})\n"
        "v = s.vectors('m')[1]; s.nearest('m', v[:2], 3); s.rows(['paths'])\n"
        "print(len(s), [m for m in ('torch', 'lancedb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["30", "[]"]


def test_copies_are_only_copies(store):
    store.add(rows(names(30)))
    before = store.vectors("m")[1].copy()
    for path in (store.folder / "cache").iterdir():
        path.write_bytes(b"damaged")
    again = Store.open(store.folder)
    np.testing.assert_array_equal(again.vectors("m")[1], before)
    assert len(again) == 30


def test_a_growing_copy_takes_over_what_it_has(tmp_path):
    rng = np.random.default_rng(0)
    hashes = np.array(names(50), "S32")
    values = rng.normal(size=(50, 4)).astype(np.float16)
    asked: list[int] = []

    def fetch(wanted):
        asked.append(len(wanted))
        at = [hashes.tolist().index(w.encode()) for w in wanted]
        yield hashes[at], values[at]

    first = mirror.mapped_vectors(tmp_path, "v", hashes[:20], 4, fetch)
    order = rng.permutation(50)
    second = mirror.mapped_vectors(tmp_path, "v", hashes[order], 4, fetch)
    np.testing.assert_array_equal(first, values[:20])
    np.testing.assert_array_equal(second, values[order])
    np.testing.assert_array_equal(mirror.mapped_vectors(tmp_path, "v", hashes[order[:7]], 4, fetch), values[order[:7]])
    assert asked == [20, 30]
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_another_process_sees_changes_at_once(store):
    other = Store.open(store.folder)
    assert len(other) == 0
    before = other.version()
    store.add(rows(names(4)))
    assert len(other) == 4 and other.version() > before and len(other.vectors("m")[0]) == 4
    store.add_model("n", 4, {})
    assert "n" in other.models()


def test_reading_needs_none_of_lances_files(store):
    store.add(rows(names(4)))
    store.refresh()
    for table in list(store.folder.glob("*.lance")):
        table.rename(store.folder / f"{table.name}.away")
    other = Store.open(store.folder)
    assert len(other) == 4 and len(other.problems()) == 0 and other.index_state("m") == {"indexed": 0, "exact": 4}
    assert other.nearest("m", store.vectors("m")[1][2].astype(np.float32), 1)[0][0, 0] == store.vectors("m")[0][2]


def test_what_a_killed_process_changed_counts_from_the_next_indexing_on(store, python):
    store.add(rows(names(4)))
    code = (
        "import os, sys\nimport pyarrow as pa\nfrom neocog.library.store import Store\n"
        "Store._point = lambda self, **options: os._exit(9)\n"
        "Store.open(sys.argv[1]).add(pa.table({'hash': ['0' * 32]}))"
    )
    assert python("-c", code, str(store.folder)).returncode == 9
    assert len(Store.open(store.folder)) == 4  # whole, as it was
    with Store.open(store.folder).indexing():
        assert len(Store.open(store.folder)) == 5


def test_a_library_of_an_older_neocog_has_no_versions_yet(store):
    store.add(rows(names(4)))
    (store.folder / "versions.json").unlink()
    assert len(Store.open(store.folder)) == 4
    store.add(rows(names(2, 10)))
    assert len(Store.open(store.folder)) == 6 and (store.folder / "versions.json").exists()
    (store.folder / "versions.json").write_text('{"pictures": 3}')
    assert len(Store.open(store.folder)) == 6


@given(st.binary(max_size=40).filter(lambda b: b"\0" not in b))
def test_any_name_can_be_stored(name):
    path = os.fsdecode(name)
    text = encode_path(path)
    text.encode("utf-8")
    assert decode_path(text) == path


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=20))
def test_ordinary_names_stay_readable(name):
    assert decode_path(encode_path(name)) == name
    assert "\x10" in name or encode_path(name) == name


def test_paths_are_relative_where_the_library_lies_inside(tmp_path):
    inside, outside = Store.create(tmp_path / "pics" / ".neocog"), Store.create(tmp_path / "lib")
    path = tmp_path / "pics" / "a" / "1.jpg"
    assert inside.text_of(path) == "a/1.jpg" and inside.path_of("a/1.jpg") == path
    assert inside.text_of(tmp_path / "pics") == "."
    assert inside.text_of(tmp_path / "picsmore.jpg") == str(tmp_path / "picsmore.jpg")
    assert outside.text_of(path) == str(path) and outside.path_of(str(path)) == path


def test_opening_says_what_is_wrong(tmp_path, store):
    with pytest.raises(LibraryError, match=r"no library in .*neocog index"):
        Store.open(tmp_path / "none")
    with pytest.raises(LibraryError, match="is a library already"):
        Store.create(store.folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    with pytest.raises(LibraryError, match="holds other files"):
        Store.create(tmp_path / "full")
    card = json.loads((store.folder / "library.json").read_text())
    (store.folder / "library.json").write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(LibraryError, match=r"newer version of neocog \(format 99; .* update neocog"):
        Store.open(store.folder)
    for wrong, said in (
        ({"models": {"toy": {}}}, "models.toy has no key 'dimension'"), ({"folders": [1]}, r"folders\[0\] is 1"),
        ({"models": []}, "models is a list instead of an object"), ({"format": "x"}, "is damaged"),
    ):  # fmt: skip
        (store.folder / "library.json").write_text(json.dumps({**card, **wrong}))
        with pytest.raises(LibraryError, match=f"library.json is damaged: .*{said}|{said}: .*"):
            Store.open(store.folder)
    (store.folder / "library.json").write_text("{")
    with pytest.raises(LibraryError, match="damaged"):
        Store.open(store.folder)


def test_a_half_made_library_is_completed(store):
    store.add(rows(names(3)))
    (store.folder / "library.json").unlink()  # as a kill during create leaves it, or somebody who tidies up
    again = Store.create(store.folder)
    assert len(again) == 3
    again.add_model("m", 4, {})
    assert len(again.vectors("m")[0]) == 0 and damage(again) == []


def test_damaged_tables_are_reported(store):
    store.add(rows(names(10)))
    for data in (store.folder / "vectors_m.lance" / "data").iterdir():
        data.write_bytes(b"x")
    assert any("cannot be read" in one for one in damage(Store.open(store.folder)))
    for manifest in (store.folder / "pictures.lance" / "_versions").iterdir():
        manifest.unlink()
    shutil.rmtree(store.folder / "cache")
    with pytest.raises(LibraryError, match=r"cannot be opened .* index again"):
        len(Store.open(store.folder))


@pytest.mark.slow
def test_old_versions_and_leftovers_are_cleaned(store, monkeypatch):
    from datetime import timedelta

    for start in range(0, 200, 4):
        store.add(rows(names(4, start)))
    assert store.cluttered
    stray = store.folder / "pictures.lance" / "data" / "0123456789abcdef0123456789abcdef.lance"
    stray.write_bytes(b"half written by a killed process")
    monkeypatch.setattr("neocog.library.vectors._KEEP_VERSIONS", timedelta(milliseconds=1))
    assert store.tidy()
    assert not store.cluttered and len(store) == 200 and not stray.exists()
    assert len(list((store.folder / "pictures.lance" / "data").iterdir())) <= 2
    assert damage(store) == []


def test_values_are_kept_under_names(store):
    assert store.load("taught", []) == []
    store.save("notes", {"cat": [1, 2]})
    assert Store.open(store.folder).load("notes") == {"cat": [1, 2]}
    with pytest.raises(UsageError, match="a-z"):
        store.save("../x", 1)
    for text in ("[]", "3", "{", "[" * 100_000):
        (store.folder / "taught.json").write_text(text)
        with pytest.raises(LibraryError, match=r"taught.json cannot be read .*; delete it to start again"):
            store.load("taught", {})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("boxes", {"ab": [{"text": "cat"}]}, r"ab\[0\] has no key 'box'"),
        ("boxes", {"ab": [{"text": "cat", "box": [0, 0, 1]}]}, r"ab\[0\].box has 3 values instead of 4"),
        ("calibration", {"net": {"word": {"slope": "1", "shift": 0}}}, 'net.word.slope is "1" instead of a number'),
        ("corrections", [{"hash": "ab", "name": "cat"}], r"the file\[0\] has no key 'right'"),
        ("edits", [{"hash": "ab", "before": []}], r"the file\[0\].before is a list instead of an object"),
        ("map", {"model": "net"}, "the file has no key 'ids'"),
        ("taught", {"cat": {"model": "net", "yes": {}, "no": {}}}, "cat has no key 'head'"),
    ],
)
def test_a_kept_value_of_another_form_is_said_to_be_damaged(store, name, value, said):
    (store.folder / f"{name}.json").write_text(json.dumps(value))
    with pytest.raises(LibraryError, match=rf"{name}.json cannot be read \({said}\); delete it to start again"):
        store.load(name)


def test_a_lock_is_exclusive_and_says_who_has_it(tmp_path):
    path = tmp_path / "x.lock"
    busy = pytest.raises(LibraryBusy, match=f"process {os.getpid()} on .* is indexing it")
    with Lock(path, "indexing it"), busy, Lock(path, "indexing it"):
        pass
    said: list[str] = []
    held = Lock(path, "indexing it")
    held.__enter__()
    threading.Timer(0.3, lambda: held.__exit__(None, None, None)).start()
    with Lock(path, "indexing it", wait=30, waiting=said.append):
        pass
    assert said and "waiting for process" in said[0]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "x.lock"
    code = (
        "import os, signal; from pathlib import Path; from neocog.library.lock import Lock\n"
        f"with Lock(Path({str(path)!r}), 'indexing it'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert b"pid" in path.read_bytes()
    with Lock(path, "indexing it"):
        pass


def test_the_lock_of_another_host_counts_while_it_is_renewed(tmp_path):
    path = tmp_path / "x.lock"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(LibraryBusy, match="process 1 on elsewhere"), Lock(path, "indexing it"):
        pass
    os.utime(path, (time.time() - STALE - 1,) * 2)
    with Lock(path, "indexing it"):
        pass


def test_two_may_make_a_library_at_once(tmp_path):
    made: list[Store] = []
    threads = [threading.Thread(target=lambda: made.append(Store.ensure(tmp_path / "lib"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 and all(len(one) == 0 for one in made)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    with pytest.raises(LibraryError, match="holds other files"):
        Store.ensure(tmp_path / "full")


def test_reading_goes_on_while_another_thread_waits_to_write(store):
    store.add(rows(names(20)))
    held = Lock(store.folder / "write.lock", "writing to it")
    held.__enter__()
    writer = threading.Thread(target=lambda: store.merge(pa.table({"hash": names(1), "tags": [["x"]]})))
    writer.start()
    time.sleep(0.1)
    begin = time.monotonic()
    assert len(Store.open(store.folder)) == 20 and len(store.vectors("m")[0]) == 20
    assert time.monotonic() - begin < 5 and writer.is_alive()
    held.__exit__(None, None, None)
    writer.join(30)
    assert store.rows(["tags"]).column("tags")[0].as_py() == ["x"]


def test_several_threads_write_and_read(store):
    def work(part: int) -> None:
        store.add(rows(names(5, part * 5), seed=part))
        store.nearest("m", np.ones(8), 3)
        store.merge(pa.table({"hash": names(5, part * 5), "tags": [[str(part)]] * 5}))

    failed: list[BaseException] = []

    def guarded(part: int) -> None:
        try:
            work(part)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(part,)) for part in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and len(store) == 30
    assert store.rows(["tags"]).column("tags").to_pylist() == [[str(i // 5)] for i in range(30)]


def test_an_index_passes_over_pictures_that_are_gone(store):
    hashes = names(1500)
    store.add(rows(hashes, seed=1))
    store.tidy(index_from=1000)
    assert store.index_state("m")["indexed"] == 1500
    query = store.vectors("m")[1][700].astype(np.float32)
    best = store.nearest("m", query, 40)[0][0].tolist()
    assert best[0] == hashes[700]
    store.merge(pa.table({"hash": best[:39], "state": ["gone"] * 39}))
    left = store.nearest("m", query, 10)[0][0].tolist()
    assert left[0] == best[39] and not set(left) & set(best[:39])
    everything = store.nearest("m", query, 5000)[0][0].tolist()
    assert len(set(everything)) == 1461 and "" not in everything
    assert len(set(store.nearest("m", query, 900)[0][0].tolist())) == 900
    assert not store.tidy(index_from=10**6) or store.index_state("m")["indexed"] == 1500


def test_a_growing_table_renews_its_index(store):
    store.add(rows(names(400), seed=1))
    store.tidy(index_from=300)
    said: list[str] = []
    store.add(rows(names(300, 1000), seed=2))
    store.tidy(said.append, index_from=300)
    assert said == [] and store.index_state("m") == {"indexed": 700, "exact": 0}  # new rows are added to the index
    store.add(rows(names(1000, 2000), seed=3))
    store.tidy(said.append, index_from=300)
    assert said == ["making an index (IVF_HNSW_SQ) of 1,700 vectors of m, so that searching stays fast"]


@pytest.mark.slow
def test_a_very_large_library_has_a_smaller_index(tmp_path, monkeypatch):
    monkeypatch.setattr("neocog.library.vectors.QUANTISED_FROM", 1200)
    store, said = Store.create(tmp_path / "lib"), []
    store.add_model("m", 64, {})
    store.add(rows(names(800), 64, seed=1))
    store.tidy(said.append, index_from=500)
    store.add(rows(names(800, 1000), 64, seed=2))
    store.tidy(said.append, index_from=500)
    assert ["IVF_HNSW_SQ" in said[0], "IVF_PQ" in said[1]] == [True, True] and len(said) == 2
    store.add(rows(names(20, 5000), 64, seed=3))
    hashes, vectors = store.vectors("m")
    found, score = store.nearest("m", vectors[::27].astype(np.float32), 10)
    assert (found[:, 0] == hashes[::27]).all() and (score[:, 0] > 0.99).all()
    right = [set(hashes[slow_nearest(vectors, v, 10)]) & set(row) for v, row in zip(vectors[::27], found, strict=True)]
    assert sum(map(len, right)) / found.size >= 0.99  # candidates are compared exactly
    assert (np.diff(score, axis=1) <= 0).all()
    store.tidy(said.append, index_from=500)
    assert len(said) == 2 and store.index_state("m") == {"indexed": 1620, "exact": 0}


def test_a_damaged_copy_is_passed_over(tmp_path):
    hashes = np.array(names(5), "S32")
    asked: list[list[str] | None] = []

    def fetch(wanted):
        asked.append(wanted)
        chosen = hashes if wanted is None else np.array(wanted, "S32")
        yield chosen, np.stack([np.full(3, hashes.tolist().index(one), np.float16) for one in chosen])

    mapped_vectors(tmp_path, "v", hashes[:4], 3, fetch)
    (tmp_path / "v-newer.hashes").write_bytes(hashes.tobytes())
    (tmp_path / "v-newer.npy").write_bytes(b"half of a copy")
    os.utime(tmp_path / "v-newer.hashes", (2**32, 2**32))
    found = mapped_vectors(tmp_path, "v", hashes, 3, fetch)
    assert asked[1:] == [[hashes[4].decode()]]  # the others come from the older copy
    np.testing.assert_array_equal(found[:, 0], range(5))


def test_copies_are_kept_in_memory_where_the_disk_is_full(store, monkeypatch):
    store.add(rows(names(30)))

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(pa, "OSFile", full)
    again = Store.open(store.folder)
    assert len(again) == 30 and again.vectors("m")[1].shape == (30, 8)
    assert not list((store.folder / "cache").glob("*.npy")) and not list((store.folder / "cache").glob(".*.part"))


def test_half_written_copies_are_removed_when_they_are_old(store):
    store.add(rows(names(3)))
    len(store)
    old, young = (store.folder / "cache" / f".v_m-{name}.part" for name in ("old", "young"))
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    store.tidy()
    assert young.exists() and not old.exists()
