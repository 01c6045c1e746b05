"""The whole way from a raw table to metrics, over odd shapes, against plain loops over raw ids.

Each step has property tests of its own beside its other tests; here they have to fit together.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import matrices, tables

from nmf_helpers.data import encode_ratings, interaction_matrix, leave_n_out
from nmf_helpers.metrics import evaluate
from nmf_helpers.pipeline import Pipeline


def likes(df, threshold):
    """The raw (user, movie) pairs that count as positives."""
    rows = df.itertuples(index=False, name=None)
    return {(user, movie) for user, movie, rating in rows if rating >= threshold}


def by_loops(score, test, train, movies):
    """Mean precision at 1 and AUC over users, from pairs of raw ids; None where there is none."""
    precisions, aucs = [], []
    for user in {user for user, _ in test}:
        candidates = [movie for movie in movies if (user, movie) not in train]
        best = max(candidates, key=lambda movie: score[user, movie])
        precisions.append((user, best) in test)
        good = [score[user, movie] for movie in candidates if (user, movie) in test]
        bad = [score[user, movie] for movie in candidates if (user, movie) not in test]
        if bad:
            aucs.append(np.mean([g > b for g in good for b in bad]))
    return {"precision@1": np.mean(precisions), "auc": np.mean(aucs) if aucs else None}


@given(tables(min_size=4), st.sampled_from([0.0, 1.0, 3.5]), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=100)
def test_the_way_from_a_table_to_metrics_is_that_of_plain_loops(df, threshold, n, seed):
    users, movies = list(dict.fromkeys(df["userId"])), list(dict.fromkeys(df["movieId"]))
    positives = likes(df, threshold)
    if not positives:
        with pytest.raises(ValueError, match="no rating reaches threshold"):
            interaction_matrix(encode_ratings(df), threshold)
        return
    matrix = interaction_matrix(encode_ratings(df), threshold)
    raw = {(users[u], movies[i]) for u, i in zip(*matrix.nonzero(), strict=True)}
    assert raw == positives
    if max(sum(user == u for u, _ in positives) for user in users) <= n:
        with pytest.raises(ValueError, match="use a smaller n"):
            leave_n_out(matrix, n, seed)
        return
    train, test = leave_n_out(matrix, n, seed)
    scores = np.random.default_rng(seed).permutation(matrix.shape[0] * matrix.shape[1])
    scores = scores.reshape(matrix.shape).astype(float)  # no ties
    score = {(u, m): scores[i, j] for i, u in enumerate(users) for j, m in enumerate(movies)}
    known, held_out = (
        {(users[u], movies[i]) for u, i in zip(*part.nonzero(), strict=True)}
        for part in (train, test)
    )
    expected = by_loops(score, held_out, known, movies)
    names = [name for name in expected if expected[name] is not None]
    found = evaluate(scores, test, train, metrics=names)
    assert {name: found[name] for name in names} == pytest.approx({n: expected[n] for n in names})


LOSSES, BATCH_SIZES = st.sampled_from(["mse", "bpr"]), st.sampled_from([1, 2, 10**9])


@given(matrices().filter(lambda m: m.nnz), st.integers(1, 4), BATCH_SIZES, LOSSES)
@settings(max_examples=25)
def test_any_matrix_trains_or_is_refused_with_a_sentence(matrix, n_factors, batch_size, loss):
    sizes = {"n_factors": n_factors, "batch_size": batch_size, "n_epochs": 2}
    pipeline = Pipeline(matrix, loss=loss, lr=0.001, **sizes)
    full = (matrix.getnnz(axis=1) == matrix.shape[1]).any()
    if loss == "bpr" and full:
        with pytest.raises(ValueError, match="remove those rows"):
            pipeline.fit()
        return
    scores = pipeline.fit().score_matrix()
    assert scores.shape == matrix.shape and np.isfinite(scores).all()
    users, items = np.indices(matrix.shape).reshape(2, -1)
    np.testing.assert_allclose(pipeline.predict(users, items), scores.ravel(), rtol=1e-5, atol=1e-5)
