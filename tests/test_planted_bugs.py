"""The defects of the tutorial that this course grew from, put back one at a time.

Each is a few lines that behave as the tutorial's did, and names tests of this folder, which must
fail with it: a check that cannot fail proves nothing.
"""

import sys
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from torch import nn

from nmf_helpers import hogwild, interactions, losses, metrics, models, training

settings.register_profile("planted", deadline=None, phases=[Phase.explicit, Phase.generate])
METHODS = torch.multiprocessing.get_all_start_methods()


class Judge:
    """Collects what each test ended with: None, or what it raised."""

    def __init__(self):
        self.ended = {}

    def pytest_runtest_makereport(self, item, call):
        if call.when == "call":
            self.ended[item.name] = call.excinfo and call.excinfo.value


def run(file, names, monkeypatch):
    """What tests of a file raise, by name, when it is imported anew so that it meets the bug."""
    judge, module = Judge(), file.removesuffix(".py")
    monkeypatch.delitem(sys.modules, module, raising=False)
    options = ["-q", "-oaddopts=", "-pno:nbval", "-pno:xdist", "-pno:unraisableexception"]
    tests = [f"{Path(__file__).with_name(file)}::{name}" for name in names]
    settings.load_profile("planted")
    pytest.main([*tests, *options], plugins=[judge])
    settings.load_profile("any machine")
    monkeypatch.delitem(sys.modules, module, raising=False)
    return judge.ended


# -- the bugs -------------------------------------------------------------------------------------


def old_sampler(self, users):
    """Draw until an item is thought to be free. What is thought was wrong in three ways."""
    rng = np.random.default_rng(0)
    items = self.items.numpy()

    def thought_free(user, item):
        begin, end = self._row_start[user : user + 2].tolist()
        place = np.searchsorted(items[begin:end], item, side="right")
        if place == end - begin:
            return False  # all items after the user's last one are refused
        # A place in the user's row, looked up in the row of user 0; and the *next* entry of it.
        return item != items[place]

    def draw(user):
        for _ in range(10_000):
            if thought_free(user, item := int(rng.integers(self.n_items))):
                return item
        raise AssertionError(f"no negative found for user {user}: this would go on for ever")

    return torch.tensor([draw(user) for user in users.tolist()])


def before(method, first):
    """The method, with something done to its arguments first."""

    @wraps(method)  # whoever asks for its arguments is told those
    def patched(self, *args, **named):
        return method(self, *first(self, args, named), **named)

    return patched


def without_exclude(self, args, named):
    named.pop("exclude", None)
    return args


def unseeded(self, args, named):
    torch.seed()
    return args


class Cut(nn.Dropout):
    def forward(self, x):
        return super().forward(x.relu())


def cut_embeddings(self, *sizes, _init=models.CollabFNet.__init__, **options):
    _init(self, *sizes, **options)
    self.dropout = Cut(0.5)


def divided_twice(model, batch, loss, _batch_loss=training.batch_loss):
    is_sum = getattr(loss, "reduction", "mean") == "sum"
    return _batch_loss(model, batch, loss) / (len(batch[1]) if is_sum else 1)


def squeezed(self, users, items, _forward=models.BiasedMF.forward):
    return _forward(self, users, items)[..., None].squeeze()


def one_state(rank, pipes, seed, *job, _work=hogwild._work):
    _work(rank, pipes, 2017 - rank, *job)


def all_the_data(rank, pipes, seed, model, dataset, step, order, _work=hogwild._work):
    _work(rank, pipes, seed, model, dataset, step, order.repeat(len(pipes)))


PAIRS, MF = interactions.PairwiseInteractions, models.BiasedMF
NEVER_A_POSITIVE = "test_the_sampler_draws_every_free_item_and_never_a_positive"
BUGS = {  # name: (what is replaced, the file of the tests that must fail, their names)
    "the old sampler": (
        [(PAIRS, "sample_negatives", old_sampler)], "test_interactions.py", NEVER_A_POSITIVE,
    ),
    "any item is free": (
        [(PAIRS, "sample_negatives", lambda self, u: torch.randint(self.n_items, u.shape))],
        "test_interactions.py", NEVER_A_POSITIVE,
    ),
    "negatives checked against the test part alone": (
        [(PAIRS, "__init__", before(PAIRS.__init__, without_exclude))],
        "test_interactions.py",
        "test_a_stored_zero_is_a_rating_and_excludes_but_is_no_positive",
    ),
    "one minus sigma, squared, for BPR": (
        [(losses, "bpr_loss", losses.squared_sigmoid_loss)],
        "test_losses.py",
        "test_the_gradient_of_bpr_is_minus_sigma_of_minus_x",
        "test_bpr_is_minus_log_sigma",
    ),
    "metrics that rank training items": (
        [(metrics, "_Ranks", lambda s, t, e, ranks=metrics._Ranks: ranks(s, t, None))],
        "test_metrics.py", "test_training_items_are_not_ranked",
    ),
    "a mean taken for a sum": (
        [(training, "batch_loss", divided_twice)],
        "test_training.py", "test_losses_are_means_whatever_the_reduction",
    ),
    "a bare squeeze": (
        [(MF, "forward", squeezed)], "test_models.py", "test_a_batch_of_one_is_still_a_batch",
    ),
    "an overridden call": (
        [(MF, "__call__", MF.forward)], "test_models.py", "test_forward_hooks_fire",
    ),
    "torch's own wide start": (
        [(models, "_normal", lambda n, k, mean, std, sparse=False: nn.Embedding(n, k))],
        "test_models.py", "test_factors_start_where_init_std_says",
    ),
    "a ReLU on the embeddings": (
        [(models.CollabFNet, "__init__", cut_embeddings)],
        "test_models.py", "test_collabfnet_tells_the_negative_half_of_an_embedding",
    ),
    "weights built before the seed is set": (
        [(MF, "__init__", before(MF.__init__, unseeded))],
        "test_pipeline.py", "test_the_seed_decides_the_weights_before_training_too",
    ),
}  # fmt: skip
FORK = (hogwild, "METHOD", "fork")
if "fork" in METHODS:  # only a forked worker meets a bug that its parent has
    BUGS |= {
        "hogwild workers with one random state": (
            [FORK, (hogwild, "_work", one_state)],
            "test_hogwild.py", "test_each_worker_has_a_random_state_of_its_own",
        ),
        "hogwild workers that each walk all the data": (
            [FORK, (hogwild, "_work", all_the_data)],
            "test_hogwild.py", "test_an_epoch_is_one_pass_whatever_the_number_of_workers",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug, monkeypatch):
    planted, file, *names = BUGS[bug]
    for target, name, replacement in planted:
        monkeypatch.setattr(target, name, replacement)
    ended = run(file, names, monkeypatch)
    assert {name.partition("[")[0] for name in ended} == {*names}
    for name in names:
        raised = [end for test, end in ended.items() if test.startswith(name)]
        caught = [end for end in raised if isinstance(end, AssertionError | pytest.fail.Exception)]
        assert caught and caught == [end for end in raised if end], f"{name}: {raised}"


def test_without_a_bug_nothing_is_raised(monkeypatch):
    ended = run("test_interactions.py", [NEVER_A_POSITIVE], monkeypatch)
    assert ended == {NEVER_A_POSITIVE: None}
