"""Settings that cannot be are refused by name."""

import math

import numpy as np
import pytest

from nmf_helpers.checks import check_ids, check_number, nearest


@pytest.mark.parametrize("value", [1, 2.5, np.float32(0.1), np.int64(3)])
def test_a_number_in_range_passes(value):
    check_number("lr", value, above=0, at_most=3)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", None, 1j, [1], 3.5])
def test_a_number_out_of_range_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"lr must be a number, above 0 and at most 3, not"):
        check_number("lr", value, above=0, at_most=3)


def test_a_number_without_limits_and_one_below_a_limit():
    check_number("threshold", -3)
    with pytest.raises(ValueError, match=r"^threshold must be a number, not nan$"):
        check_number("threshold", math.nan)
    with pytest.raises(ValueError, match=r"^share must be a number, below 1, not 1$"):
        check_number("share", 1, below=1)


@pytest.mark.parametrize("value", [2.0, 2.5, "2", math.nan])
def test_a_whole_number_is_an_integer(value):
    check_number("k", np.int32(2), at_least=2, whole=True)
    with pytest.raises(ValueError, match="k must be a whole number, at least 1"):
        check_number("k", value, at_least=1, whole=True)


def test_ids_come_back_as_int64():
    for ids in ([0, 4], np.array([0, 4], dtype=np.uint8), range(0, 5, 4)):
        checked = check_ids("users", ids, 5)
        assert checked.dtype == np.int64 and checked.tolist() == [0, 4]
    assert check_ids("users", [], 5).shape == (0,)


@pytest.mark.parametrize(
    ("ids", "error", "says"),
    [
        ([5], IndexError, "between 0 and 4: 5 does not"),
        ([2, -1], IndexError, "-1 does not"),
        ([1.0], ValueError, "whole numbers, not float64"),
        (["a"], ValueError, "whole numbers"),
        ([True], ValueError, "whole numbers, not bool"),
        (3, ValueError, "one-dimensional"),
        ([[1, 2]], ValueError, r"one-dimensional, not of shape \(1, 2\)"),
    ],
)
def test_ids_that_cannot_be_are_refused(ids, error, says):
    with pytest.raises(error, match=f"users must .*{says}"):
        check_ids("users", ids, 5)


def test_an_unknown_name_suggests_the_nearest():
    assert nearest("loss", "mse", {"mse": 1, "bpr": 2}) == "mse"
    with pytest.raises(ValueError, match="unknown loss 'brp': did you mean 'bpr'"):
        nearest("loss", "brp", {"mse": 1, "bpr": 2})
    with pytest.raises(ValueError, match="unknown loss None"):
        nearest("loss", None, {"mse": 1, "bpr": 2})
