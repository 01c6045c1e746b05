"""The public folds are GroupLens's, and what is measured on them is kept as it comes."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks is no part of the package

folds = pytest.importorskip("benchmarks.folds")


@pytest.mark.parametrize(
    ("names", "each", "all_"), [("u1 u2 u3 u4 u5", 20_000, 100_000), ("ua ub", 9_430, 18_860)]
)
def test_no_rating_is_held_out_twice(names, each, all_):
    tests = [folds.split(name)[1] for name in names.split()]  # compared with GroupLens's files
    pairs = [set(zip(test.users.tolist(), test.items.tolist(), strict=True)) for test in tests]
    assert {len(part) for part in pairs} == {each} and len(set().union(*pairs)) == all_


def test_ratings_in_another_order_are_refused(monkeypatch):
    table = folds.ratings()[::-1].reset_index(drop=True)
    monkeypatch.setattr(folds, "ratings", lambda: table)
    with pytest.raises(ValueError, match=r"u1.test is not GroupLens's"):
        folds.split("u1")


def test_a_run_goes_on_where_it_was_cut(monkeypatch, tmp_path, capsys):
    calls = []

    def fit(train, test, seed):
        calls.append(seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return np.full(len(test.users), 3.5 + seed)

    monkeypatch.setattr(folds, "FILE", tmp_path / "folds.json")
    monkeypatch.setattr(folds, "MODELS", {"mine": ("course", "nothing", fit)})
    monkeypatch.setattr(sys, "argv", ["folds", "u1"])
    with pytest.raises(KeyboardInterrupt):
        folds.main()
    folds.main()
    assert calls == [0, 1, 1, 2]
    (claim,) = folds.load()
    misses = np.array([3.5, 4.5, 5])[:, None] - folds.split("u1")[1].ratings  # 5.5 is clipped to 5
    np.testing.assert_allclose(claim["each"], np.sqrt((misses**2).mean(axis=1)), atol=1e-5)
    assert f"{claim['value']:.4f}" in capsys.readouterr().out


def test_the_kept_claims_are_the_means_of_their_seeds():
    for claim in folds.load():
        assert claim["model"] in folds.MODELS and len(claim["seeds"]) == len(claim["each"])
        assert claim["value"] == pytest.approx(np.mean(claim["each"]), abs=6e-5)
