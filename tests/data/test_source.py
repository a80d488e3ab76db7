import pickle

import numpy as np
import pytest

from neocog.data import Arrays, open_source
from neocog.data.columns import LabelColumn, Texts, split_code, split_code_in
from neocog.data.kinds import TextLists
from neocog.errors import DataError, UsageError


def _pictures(n=4, shape=(6, 5)):
    return np.arange(n * int(np.prod(shape)), dtype=np.uint8).reshape(n, *shape)


def test_arrays_with_names_integers_and_nothing():
    named = Arrays(_pictures(), ["dog", "cat", None, "dog"])
    assert named.classes == ("cat", "dog") and named.labels.tolist() == [1, 0, -1, 1]
    assert named.sample(0).label == "dog" and named.sample(0).labels == ("dog",) and named.sample(2).label is None
    numbered = Arrays(_pictures(), np.array([0, 3, -1, 1]))
    assert numbered.classes == ("0", "1", "2", "3") and numbered.labels.tolist() == [0, 3, -1, 1]
    given = Arrays(_pictures(), [1, 0, 1, 0], classes=["no", "yes"], splits=["train", "valid", "test", -1])
    assert given.sample(0).label == "yes" and given.sample(1).split == "val" and given.sample(3).split is None
    bare = Arrays(_pictures())
    assert bare.classes == () and bare.labels.tolist() == [-1] * 4 and bare.path(0) is None


def test_arrays_with_several_labels_each():
    source = Arrays(_pictures(), [["a", "b"], ["b"], [], ["c", "a"]])
    assert source.labels.tolist() == [-1, 1, -1, -1]
    assert source.sample(0).labels == ("a", "b") and source.sample(2).labels == ()
    assert [source.label_sets[i].tolist() for i in range(4)] == [[0, 1], [1], [], [2, 0]]
    view = source.select([3, 0])
    assert [view.label_sets[i].tolist() for i in range(2)] == [[2, 0], [0, 1]] and view.sample(0).labels == ("c", "a")


def test_arrays_read_and_reject():
    pictures = [np.zeros((3, 4, 3), np.uint8), np.ones((7, 2), np.uint8)]
    assert Arrays(pictures).read(1) is pictures[1]
    with pytest.raises(DataError, match=r"uint8.*got float32.*astype"):
        Arrays(np.zeros((2, 4, 4), np.float32))
    with pytest.raises(DataError, match=r"got uint8 \(3, 8, 8\)"):
        Arrays(np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(DataError, match="4 pictures but 2 labels"):
        Arrays(_pictures(), [0, 1])
    with pytest.raises(DataError, match="'bird' is not one of the 2 classes"):
        Arrays(_pictures(), ["cat", "bird", "cat", "dog"], classes=["cat", "dog"])
    with pytest.raises(DataError, match="splits must be"):
        Arrays(_pictures(), splits=[0, 1, 2, 3])


def test_select_is_a_view_with_masks_negatives_and_views_of_views():
    source = Arrays(_pictures(), ["a", "b", "a", "c"], splits=["train", "val", "test", "train"])
    view = source.select(np.array([3, 1]))
    assert [view.key(i) for i in range(2)] == ["arrays#3", "arrays#1"] and view.classes == source.classes
    assert view.labels.tolist() == [2, 1] and view.splits.tolist() == [0, 1]
    assert (view.read(1) == source.read(1)).all()
    again = view.select([-1])
    assert again.key(0) == "arrays#1" and again.base is source
    assert len(source.select(source.splits == 0)) == 2
    assert len(source.select([])) == 0
    with pytest.raises(IndexError, match="out of range"):
        source.select([4])
    with pytest.raises(IndexError, match="mask"):
        source.select(np.array([True]))


def test_fingerprint_is_the_same_for_the_same_data_and_differs_otherwise():
    base = Arrays(_pictures(), [0, 1, 0, 1], splits=[0, 0, 2, 2])
    assert base.fingerprint() == Arrays(_pictures().copy(), [0, 1, 0, 1], splits=[0, 0, 2, 2]).fingerprint()
    changed = _pictures().copy()
    changed[2, 0, 0] += 1
    others = [
        Arrays(changed, [0, 1, 0, 1], splits=[0, 0, 2, 2]),
        Arrays(_pictures(), [0, 1, 1, 1], splits=[0, 0, 2, 2]),
        Arrays(_pictures(), [0, 1, 0, 1], splits=[0, 0, 2, 1]),
        Arrays(_pictures(), [0, 1, 0, 1], classes=["x", "y"], splits=[0, 0, 2, 2]),
        base.select([1, 0, 2, 3]),
    ]
    assert len({base.fingerprint(), *(one.fingerprint() for one in others)}) == 6
    assert base.select(range(4)).fingerprint() == base.fingerprint()


def test_sources_can_be_sent_to_worker_processes():
    source = pickle.loads(pickle.dumps(Arrays(_pictures(), ["a", "b", "a", "c"]).select([2, 1])))
    assert source.key(0) == "arrays#2" and (source.read(0) == _pictures()[2]).all()


def test_open_source_takes_sources_and_tuples_and_explains_the_rest(tmp_path):
    source = Arrays(_pictures())
    assert open_source(source) is source
    assert open_source((_pictures(), ["a", "b", "a", "b"])).classes == ("a", "b")
    with pytest.raises(UsageError, match="got int"):
        open_source(3)
    with pytest.raises(DataError, match=r"did you mean 'cifar10'.*named sets are"):
        open_source("cifar1O")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match="not one that holds a set"):
        open_source(tmp_path / "notes.md")


def test_texts_keep_every_byte():
    rows = [b"plain", b"", "é\n".encode(), b"\xff\x00\xfe"]
    texts = Texts(rows)
    assert [texts.raw(i) for i in range(4)] == rows and texts[3] == "\udcff\x00\udcfe"
    with pytest.raises(IndexError):
        texts.raw(4)
    lists = TextLists([["a", "b"], [], ["c"]])
    assert [lists[i] for i in range(3)] == [("a", "b"), (), ("c",)]


def test_label_column_orders_numbers_by_value_and_text_by_alphabet():
    column = LabelColumn()
    for value in ["10", "9", "", "-1", "9"]:
        column.append(value)
    names, labels, several = column.finish()
    assert names == ("9", "10") and labels.tolist() == [1, 0, -1, -1, 0] and several is None
    column = LabelColumn()
    for value in [2, float("nan"), np.int64(0), 2.0]:
        column.append(value)
    names, labels, _ = column.finish(["zero", "one", "two"])
    assert names == ("zero", "one", "two") and labels.tolist() == [2, -1, 0, 2]


def test_split_words():
    assert [split_code(word) for word in ("TRAIN", "Validation", "dev", "Testing", "cats", "valid")] == [
        0, 1, 1, 2, -1, 1,
    ]  # fmt: skip
    assert split_code_in("train-00000-of-00002") == 0 and split_code_in("my_dev.set") == 1
    assert split_code_in("train_test_pairs") == -1 and split_code_in("attest") == -1


def test_decode_is_the_function_even_after_its_module_was_imported():
    import neocog.data.decode

    assert callable(neocog.data.decode) and neocog.data.decode.__name__ == "decode"
    assert set(neocog.data.__all__) <= set(dir(neocog.data))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = neocog.data.nothing
