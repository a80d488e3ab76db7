import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neocog.data import Arrays, complete_split, make_split
from neocog.data.columns import LabelSets
from neocog.errors import UsageError

FRACTIONS = st.sampled_from([(0.8, 0.1, 0.1), (0.9, 0.1, 0.0), (0.6, 0.2, 0.2), (0.8, 0.0, 0.2), (0.34, 0.33, 0.33)])
LABELS = st.lists(st.integers(-1, 6), min_size=1, max_size=200).map(np.array)


@settings(deadline=None)
@given(LABELS, FRACTIONS, st.integers(0, 5))
def test_each_class_is_divided_to_within_one_picture(labels, fractions, seed):
    codes = make_split(labels, fractions=fractions, seed=seed)
    assert codes.dtype == np.int8 and codes.shape == labels.shape
    for label in np.unique(labels):
        mine = codes[labels == label]
        assert (mine == 0).any()
        for split, share in enumerate(fractions):
            # "within one" where a class is large enough that neither training nor a loan to test comes first
            assert abs((mine == split).sum() - share * len(mine)) <= 1 + 1e-9


@settings(deadline=None)
@given(LABELS, st.data())
def test_groups_of_any_labels_stay_on_one_side_and_every_class_is_in_training(labels, data):
    groups = np.array(data.draw(st.lists(st.integers(-1, 30), min_size=len(labels), max_size=len(labels))))
    codes = make_split(labels, groups=groups, seed=data.draw(st.integers(0, 3)))
    for group in np.unique(groups[groups >= 0]):
        assert len(np.unique(codes[groups == group])) == 1
    for label in np.unique(labels):
        assert (codes[labels == label] == 0).any()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=80), FRACTIONS)
def test_groups_of_one_label_are_stratified_to_within_a_group(units, fractions):
    labels = np.concatenate([np.full(size, label) for label, size in units])
    groups = np.concatenate([np.full(size, i) for i, (_, size) in enumerate(units)])
    codes = make_split(labels, groups=groups, fractions=fractions)
    for label in np.unique(labels):
        mine = codes[labels == label]
        largest = max(size for one, size in units if one == label)
        for split, share in enumerate(fractions):
            assert abs((mine == split).sum() - share * len(mine)) <= largest + 1


def _sets(rows):
    return LabelSets(np.cumsum([0, *map(len, rows)]), np.array([k for row in rows for k in row], np.int32))


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(0, 5), max_size=4), min_size=1, max_size=120), st.integers(0, 5))
def test_every_label_of_several_is_in_training(rows, seed):
    codes = make_split(_sets(rows), seed=seed)
    assert codes.dtype == np.int8 and codes.shape == (len(rows),) and set(codes) <= {0, 1, 2}
    assert (codes == make_split(_sets(rows), seed=seed)).all()
    for label in range(6):
        mine = codes[[label in row for row in rows]]
        assert not len(mine) or (mine == 0).any()


def test_labels_that_come_together_are_divided_each_by_its_own_number():
    # 'a' is rare and always with 'b': by the rarest label alone, the 'b' without an 'a' would not make up for it
    rng = np.random.default_rng(0)
    rows = [[0, 1]] * 15 + [[1]] * 5 + [[2]] * 300 + [[]] * 80
    rows += [sorted(set(rng.choice([2, 3, 4], 2))) for _ in range(200)]
    codes = make_split(_sets(rows))
    for label in range(5):
        mine = codes[[label in row for row in rows]]
        for split, share in enumerate((0.8, 0.1, 0.1)):
            assert abs((mine == split).sum() - share * len(mine)) <= 1.5, label
    none = codes[[not row for row in rows]]
    assert np.bincount(none, minlength=3).tolist() == [64, 8, 8]


def test_copies_with_several_labels_stay_on_one_side():
    rows = [[i % 3, 3 + i % 2] for i in range(60)]
    groups = np.arange(60) // 2
    codes = make_split(_sets(rows), groups=groups, fractions=(0.8, 0.2, 0.0))
    assert all(len(set(codes[groups == g])) == 1 for g in range(30))
    assert (codes == 2).sum() == 0 and abs((codes == 1).sum() - 12) <= 2  # a copy is two pictures


@settings(deadline=None)
@given(LABELS, st.integers(0, 1000))
def test_same_seed_same_split(labels, seed):
    assert (make_split(labels, seed=seed) == make_split(labels.copy(), seed=seed)).all()


def test_another_seed_gives_another_split():
    labels = np.repeat(np.arange(4), 50)
    assert (make_split(labels, seed=0) != make_split(labels, seed=1)).any()


def test_shares_are_exact_for_a_large_balanced_set():
    codes = make_split(np.repeat(np.arange(10), 1000))
    assert np.bincount(codes).tolist() == [8000, 1000, 1000]


@pytest.mark.parametrize(
    ("n", "expected"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [2, 1, 0]), (4, [3, 1, 0]), (5, [3, 1, 1]), (10, [8, 1, 1])]
)
def test_a_small_class_gives_training_first_then_validation_then_test(n, expected):
    assert np.bincount(make_split(np.zeros(n, int)), minlength=3).tolist() == expected


def test_many_tiny_classes_still_leave_a_test_split():
    codes = make_split(np.repeat(np.arange(10), 3))
    assert np.bincount(codes, minlength=3).tolist() == [20, 5, 5]


def test_wrong_arguments_are_explained():
    with pytest.raises(UsageError, match=r"sum 1.*for example \(0.8"):
        make_split(np.zeros(3, int), fractions=(0.8, 0.1, 0.2))
    with pytest.raises(UsageError, match="3 labels but 2 group numbers"):
        make_split(np.zeros(3, int), groups=np.zeros(2, int))
    assert len(make_split(np.zeros(0, int))) == 0


def _source(splits, labels=None):
    n = len(splits)
    return Arrays(np.zeros((n, 4, 4), np.uint8), [i % 2 for i in range(n)] if labels is None else labels, splits=splits)


def test_nothing_declared_divides_everything():
    codes, notes = complete_split(_source([-1] * 100))
    assert np.bincount(codes).tolist() == [80, 10, 10]
    assert "no split is declared" in notes[0]


def test_only_training_declared_divides_it():
    codes, notes = complete_split(_source(["train"] * 100))
    assert np.bincount(codes).tolist() == [80, 10, 10]
    assert "only training" in notes[0]


def test_declared_test_is_kept_and_validation_is_cut_from_training_leak_free():
    source = _source(["train"] * 90 + ["test"] * 10)
    groups = np.arange(100) // 2
    codes, notes = complete_split(source, groups=groups)
    assert (codes[90:] == 2).all() and not (codes[:90] == 2).any()
    assert (codes == 1).sum() == pytest.approx(10, abs=2)
    for group in np.unique(groups):
        assert len(np.unique(codes[groups == group])) == 1
    assert any("became validation" in note for note in notes)


def test_declared_validation_without_test_is_kept_and_told():
    codes, notes = complete_split(_source(["train"] * 8 + ["val"] * 2))
    assert np.bincount(codes, minlength=3).tolist() == [8, 2, 0]
    assert any("no test split" in note for note in notes)


def test_only_test_declared_stays_test():
    codes, _ = complete_split(_source(["test"] * 6))
    assert (codes == 2).all()


def test_pictures_without_a_split_join_training_or_their_groups_side():
    source = _source(["train", "val", "test", -1, -1])
    codes, _ = complete_split(source, groups=np.array([-1, -1, 7, 7, 8]))
    assert codes.tolist() == [0, 1, 2, 2, 0]
    assert source.splits.tolist() == [0, 1, 2, -1, -1]
