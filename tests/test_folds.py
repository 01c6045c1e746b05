"""The public folds are GroupLens's, and what is measured on them is kept as it comes."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks is no part of the package

folds = pytest.importorskip("benchmarks.folds")


def keys(part):
    return set(zip(part.users.tolist(), part.items.tolist(), strict=True))


def test_five_folds_hold_out_every_rating_once():
    tests = []
    for name in ("u1", "u2", "u3", "u4", "u5"):
        train, test = folds.split(name)  # which compares it with GroupLens's file
        assert len(keys(train) | keys(test)) == 100_000
        tests.append(keys(test))
    assert [len(test) for test in tests] == [20_000] * 5
    assert len(set().union(*tests)) == 100_000


def test_two_folds_hold_out_ten_ratings_of_each_user():
    (_, first), (_, second) = folds.split("ua"), folds.split("ub")
    for test in (first, second):
        assert (np.bincount(test.users) == 10).all()
    assert not keys(first) & keys(second)


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
    ratings = folds.split("u1")[1].ratings
    wanted = [np.sqrt(np.mean((3.5 + k - ratings) ** 2)) for k in (0, 1)]  # 5.5 is clipped to 5
    wanted.append(np.sqrt(np.mean((5 - ratings) ** 2)))
    np.testing.assert_allclose(claim["each"], wanted, atol=1e-5)
    assert claim["value"] == pytest.approx(np.mean(wanted), abs=1e-4)
    assert f"{claim['value']:.4f}" in capsys.readouterr().out


def test_the_kept_claims_are_the_means_of_their_seeds():
    for claim in folds.load():
        assert claim["model"] in folds.MODELS and len(claim["seeds"]) == len(claim["each"])
        assert claim["value"] == pytest.approx(np.mean(claim["each"]), abs=6e-5)
