"""What cannot be is refused by name, with the way out; what can be passes unchanged."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from nmf_helpers.checks import check_ids, check_matrix, check_number, nearest


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", None, 1j, [1], 3.5, True])
def test_a_number_out_of_range_is_refused_by_name(value):
    for good in (1, 2.5, np.float32(0.1), np.int64(3)):
        check_number("lr", good, above=0, at_most=3)
    with pytest.raises(ValueError, match=r"lr must be a number, above 0 and at most 3, not"):
        check_number("lr", value, above=0, at_most=3)


def test_a_number_without_limits_and_one_below_a_limit():
    check_number("threshold", -3)
    with pytest.raises(ValueError, match=r"^threshold must be a number, not nan$"):
        check_number("threshold", math.nan)
    with pytest.raises(ValueError, match=r"^share must be a number, below 1, not 1$"):
        check_number("share", 1, below=1)


@pytest.mark.parametrize("value", [2.0, 0, "2", True])
def test_a_whole_number_is_an_integer(value):
    check_number("k", np.int32(1), at_least=1, whole=True)
    with pytest.raises(ValueError, match="k must be a whole number, at least 1"):
        check_number("k", value, at_least=1, whole=True)


def test_ids_come_back_as_int64():
    for ids in ([0, 4], np.array([0, 4], dtype=np.uint8), range(0, 5, 4), pd.Series([0, 4])):
        checked = check_ids("users", ids, 5)
        assert checked.dtype == np.int64 and checked.tolist() == [0, 4]
    assert check_ids("users", [], 5).shape == (0,)


@pytest.mark.parametrize(
    ("ids", "error", "says"),
    [
        ([5], IndexError, "between 0 and 4: 5 does not"),
        ([2, -1], IndexError, "-1 does not"),
        ([2**63], IndexError, f"{2**63} does not"),
        ([1.0], TypeError, "whole numbers, not float64"),
        (["a"], TypeError, "whole numbers"),
        ([True], TypeError, "whole numbers, not bool"),
        (3, ValueError, "one-dimensional"),
        ([[1, 2]], ValueError, r"one-dimensional, not of shape \(1, 2\)"),
    ],
)
def test_ids_that_cannot_be_are_refused(ids, error, says):
    with pytest.raises(error, match=f"users must .*{says}"):
        check_ids("users", ids, 5)


def test_a_matrix_comes_back_as_csr_with_sorted_rows_and_the_callers_stays_as_it_was():
    unsorted = sparse.csr_array((np.array([1.0, 2.0]), np.array([2, 0]), np.array([0, 2])))
    checked = check_matrix("train", unsorted)
    assert checked.indices.tolist() == [0, 2] and checked.data.tolist() == [2, 1]
    assert unsorted.indices.tolist() == [2, 0] and unsorted.data.tolist() == [1, 2]
    for convert in (np.asarray, np.ndarray.tolist, sparse.coo_matrix, sparse.csc_array):
        checked = check_matrix("train", convert(np.array([[0, 3], [4, 0]])))
        assert type(checked) is sparse.csr_array and checked.nnz == 2


def test_a_stored_zero_is_a_rating_but_no_interaction():
    stored = sparse.csr_array(([0.0, 5.0], ([0, 1], [1, 0])), shape=(2, 2))
    assert check_matrix("train", stored).nnz == 2
    assert check_matrix("train", stored, kind="interactions").nnz == 1
    assert stored.nnz == 2
    assert check_matrix("train", stored.toarray()).nnz == 1  # in an array 0 is nothing


@pytest.mark.parametrize(
    ("matrix", "error", "says"),
    [
        (pd.DataFrame({"userId": [1]}), TypeError, r"a table \(DataFrame\).*interaction_matrix"),
        (sparse.coo_array([1.0]), TypeError, r"is float64 of shape \(1,\), not a users x items"),
        (None, TypeError, "is object of shape .*, not a users x items matrix of numbers"),
        ([[1.0, math.nan]], ValueError, r"nan at user 0, item 1 \(1 such entries\): remove"),
        ([[math.inf, -math.inf]], ValueError, r"inf at user 0, item 0 \(2 such entries\)"),
        (sparse.csr_matrix((3, 0)), ValueError, "is empty"),
    ],
)
@pytest.mark.parametrize("kind", ["ratings", "interactions"])
def test_what_is_no_matrix_of_ratings_is_refused_by_name(matrix, error, says, kind):
    with pytest.raises(error, match=f"^train .*{says}"):
        check_matrix("train", matrix, kind=kind)


def test_a_dislike_is_no_interaction():
    opinions = np.array([[1, 0, -1], [0, -1, 1]], dtype=np.int8)
    assert check_matrix("train", opinions).nnz == 4
    with pytest.raises(ValueError, match=r"-1 at user 0, item 2 \(2 such.*multiply\(matrix > 0\)"):
        check_matrix("train", opinions, kind="interactions")


def test_two_numberings_never_meet():
    for like in (np.zeros((2, 3)), sparse.csr_array((2, 3)), (2, 3)):
        assert check_matrix("test", [[1, 0, 1], [0, 1, 0]], like).shape == (2, 3)
        for other in ([[1, 0, 1]], [[1, 0], [0, 1]]):
            with pytest.raises(ValueError, match=r"test has shape .*, the scorer \(2, 3\)"):
                check_matrix("test", other, like, like_name="the scorer")
    assert check_matrix("exclude", np.zeros((2, 3)), may_be_empty=True).nnz == 0


def test_an_unknown_name_suggests_the_nearest():
    assert nearest("loss", "mse", {"mse": 1, "bpr": 2}) == "mse"
    for name, meant in (("mes", "mse"), ("BPR", "bpr")):
        with pytest.raises(ValueError, match=f"unknown loss '{name}': did you mean '{meant}'"):
            nearest("loss", name, {"mse": 1, "bpr": 2})
    with pytest.raises(ValueError, match="unknown loss None"):
        nearest("loss", None, {"mse": 1, "bpr": 2})
