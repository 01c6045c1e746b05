"""What every scorer promises: a test class inherits `ScorerContract` and says how one is made."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse


def random_ratings(n_users=12, n_items=9, density=0.4, seed=0):
    """Whole stars from 1 to 5, at least one; as float32 CSR."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 6, size=(n_users, n_items)) * (rng.random((n_users, n_items)) < density)
    dense[rng.integers(n_users), rng.integers(n_items)] = 3
    return sparse.csr_matrix(dense.astype(np.float32))


class ScorerContract:
    """Subclass as ``class TestMine(ScorerContract)`` and write `make`.

    For a scorer that isn't made unfitted, write `fit` instead, and switch off what needs `make`:
    ``test_scoring_before_fitting_is_refused = test_fitting_again_starts_anew = None``.
    """

    kind = "ratings"  # or "interactions"
    atol = 1e-5  # between predict and score_matrix

    def make(self):
        """Return a scorer that isn't fitted, with every seed fixed."""
        raise NotImplementedError

    def fit(self, matrix):
        """Return a scorer fitted to the matrix; override for one with another way of fitting."""
        return self.make().fit(matrix)

    def matrix(self, **shape):
        """Return a small matrix of this kind, in which user 5 and item 4 have nothing."""
        dense = random_ratings(**shape).toarray()
        dense[5:6], dense[:, 4:5] = 0, 0
        return sparse.csr_matrix(dense > 0 if self.kind == "interactions" else dense, dtype="f4")

    def test_scores_are_float32_and_finite_and_the_same_of_all_of_some_and_of_pairs(self):
        scorer = self.fit(self.matrix())
        scores = scorer.score_matrix()
        assert tuple(scorer.shape_) == scores.shape == (12, 9) and scores.dtype == np.float32
        assert np.isfinite(scores).all()  # user 5 and item 4 included
        users, items = np.divmod(np.random.default_rng(0).permutation(12 * 9), 9)
        predicted = scorer.predict(users, items)
        assert predicted.shape == (108,) and predicted.dtype == np.float32
        np.testing.assert_allclose(predicted, scores[users, items], atol=self.atol)
        for some in ([7, 2, 7], np.array([11], dtype=np.uint8), pd.Series([0, 5]), range(12), []):
            expected = scores[np.asarray(some, dtype=int)]
            np.testing.assert_allclose(scorer.score_matrix(some), expected, atol=self.atol)
        assert scorer.predict([], []).shape == (0,)

    @pytest.mark.parametrize("convert", [np.asarray, sparse.coo_matrix, sparse.csc_array])
    def test_an_array_and_every_sparse_format_will_do(self, convert):
        matrix = self.matrix()
        expected = self.fit(matrix).score_matrix()
        found = self.fit(convert(matrix.toarray())).score_matrix()
        np.testing.assert_allclose(found, expected, atol=self.atol)

    @pytest.mark.parametrize("dtype", ["f4", "f8", "i8"])
    def test_nothing_given_is_written_to_or_kept_and_what_is_handed_out_is_the_callers(self, dtype):
        matrix = sparse.csr_array(self.matrix().astype(dtype))
        before = matrix.copy()
        scorer = self.fit(matrix)
        scores = scorer.score_matrix()
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(matrix, part), getattr(before, part))
        matrix.data[:] = 4
        handed_out = scorer.score_matrix()
        np.testing.assert_array_equal(handed_out, scores)
        handed_out[:] = 99
        np.testing.assert_array_equal(scorer.score_matrix(), scores)

    def test_fitting_again_starts_anew(self):
        scorer = self.make().fit(self.matrix(n_users=7, n_items=6, seed=1))
        assert scorer.fit(self.matrix()) is scorer
        expected = self.fit(self.matrix()).score_matrix()
        np.testing.assert_array_equal(scorer.score_matrix(), expected)
        with pytest.raises(ValueError, match="nan"):
            scorer.fit(np.array([[1.0, np.nan]]))
        np.testing.assert_array_equal(scorer.score_matrix(), expected)

    def test_ids_that_cannot_be_are_refused_by_name(self):
        scorer = self.fit(self.matrix())
        for ids, error in (([99], IndexError), ([-1], IndexError), ([1.0], TypeError)):
            with pytest.raises(error, match="users must"):
                scorer.predict(ids, [0])
            with pytest.raises(error, match="items must"):
                scorer.predict([0], ids)
            with pytest.raises(error, match="users must"):
                scorer.score_matrix(ids)
        with pytest.raises(ValueError, match="2 users but 1 items"):
            scorer.predict([0, 1], [0])

    def test_a_matrix_that_cannot_be_is_refused(self):
        for matrix, error, says in (
            (pd.DataFrame({"userId": [1], "rating": [4.0]}), TypeError, "interaction_matrix"),
            (np.array([[1.0, np.nan]]), ValueError, "nan at user 0, item 1"),
            (np.zeros((3, 4)), ValueError, "empty"),
        ):
            with pytest.raises(error, match=says):
                self.fit(matrix)

    def test_a_number_below_zero_is_a_rating_but_no_interaction(self):
        matrix = self.matrix()
        matrix.data[3] = -1
        if self.kind == "interactions":
            with pytest.raises(ValueError, match=r"-1 at user .*a dislike is no interaction"):
                self.fit(matrix)
        else:
            assert np.isfinite(self.fit(matrix).score_matrix()).all()

    def test_scoring_before_fitting_is_refused(self):
        scorer = self.make()
        for score in (lambda: scorer.predict([0], [0]), scorer.score_matrix):
            with pytest.raises(RuntimeError, match=f"{type(scorer).__name__} .*call fit"):
                score()
