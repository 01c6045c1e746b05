"""The models against hand-computed cases, loops over pairs, and one contract for all."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from planted import TRAIN

from nmf_helpers.models import MF, BiasedMF, CollabFNet, svd_init

N_USERS, N_ITEMS = 5, 7
SIZES = {"n_users": N_USERS, "n_items": N_ITEMS, "n_factors": 3}
MODELS = {
    "MF": partial(MF, **SIZES),
    "BiasedMF": partial(BiasedMF, **SIZES, global_mean=3.5, dropout=0.5),
    "CollabFNet": partial(CollabFNet, **SIZES, n_hidden=4, dropout=0.5),
    "CollabFNet with biases": partial(
        CollabFNet, **SIZES, n_hidden=4, biases=True, global_mean=3.5, hidden_dropout=0.5
    ),
}


@pytest.fixture(params=MODELS)
def build(request):
    return MODELS[request.param]


@pytest.fixture
def model(build):
    """One of the models, with no weight at zero, in eval mode."""
    model = build().eval()
    torch.manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    return model


def one_by_one(model, users, items):
    pairs = zip(users, items, strict=True)
    return [model(torch.tensor([u]), torch.tensor([i])).item() for u, i in pairs]


def test_a_batch_of_one_is_still_a_batch(model):
    assert model(torch.tensor([3]), torch.tensor([3])).shape == (1,)
    nobody = torch.tensor([], dtype=torch.long)
    assert model(nobody, nobody).shape == (0,)


def test_users_and_items_broadcast(model):
    users, items = torch.tensor([0, 4]), torch.tensor([[6, 0], [1, 1]])
    scores = model(users, items)  # two items for each user, as a pairwise loss asks
    assert scores.shape == (2, 2) and scores.dtype == torch.float32
    expected = one_by_one(model, [0, 4, 0, 4], [6, 0, 1, 1])
    np.testing.assert_allclose(scores.flatten().tolist(), expected, rtol=1e-5)
    torch.testing.assert_close(model(users, items[0]), scores[0])


def test_forward_hooks_fire(model):
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    model(torch.tensor([1, 2]), torch.tensor([1, 2]))
    assert seen == [(2,)]


def test_every_parameter_learns(model):
    users, items = torch.arange(N_USERS).repeat(N_ITEMS), torch.arange(N_ITEMS).repeat(N_USERS)
    model(users, items).square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad.abs().sum() > 0, name


def test_a_model_is_asked_as_all_scorers_are_and_that_leaves_its_mode_alone(model):
    users, items = np.indices((N_USERS, N_ITEMS)).reshape(2, -1)
    expected = np.reshape(one_by_one(model, users, items), (N_USERS, N_ITEMS))
    model.train()  # dropout included
    for users in (range(N_USERS), [4, 0, 4], []):
        scores = model.score_matrix(users)
        assert scores.shape == (len(users), N_ITEMS) and scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected[np.array(users, int)], rtol=1e-4)
    np.testing.assert_allclose(model.predict([4, 0], [1, 6]), expected[[4, 0], [1, 6]], rtol=1e-4)
    assert model.training and all(module.training for module in model.modules())
    with pytest.raises(IndexError, match="users must"):
        model.score_matrix([5])


def test_an_impossible_size_is_refused_by_name(build):
    for name, size in (("n_users", 0), ("n_items", 2.5), ("n_factors", "3"), ("n_users", None)):
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            build(**{name: size})
    with pytest.raises(ValueError, match="use a smaller n_factors"):
        build(n_factors=10**18)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (MF(2, 2, 2), [[-1.5, 7.0], [1.0, -2.0]]),
        # 3 + .5 - .25 + (.5 - 2) = 1.75, and so on
        (BiasedMF(2, 2, 2, global_mean=3.0), [[1.75, 11.5], [3.25, 1.5]]),
    ],
)
def test_a_score_is_mean_and_biases_and_a_dot_product(model, expected):
    for name, values in {
        "user_factors": [[1.0, 2.0], [0.0, -1.0]], "item_factors": [[0.5, -1.0], [3.0, 2.0]],
        "user_bias": [[0.5], [-0.5]], "item_bias": [[-0.25], [1.0]],
    }.items():  # fmt: skip
        if hasattr(model, name):
            getattr(model, name).weight.data = torch.tensor(values)
    np.testing.assert_allclose(model.score_matrix(), expected)


def test_collabfnet_by_hand():
    model = MODELS["CollabFNet"]().eval()
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    x = np.concatenate([weights["user_factors.weight"][4], weights["item_factors.weight"][6]])
    hidden = weights["hidden.weight"] @ x + weights["hidden.bias"]
    gelu = [h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden]
    expected = weights["output.weight"] @ gelu + weights["output.bias"]
    np.testing.assert_allclose(model.score_matrix()[4, 6], expected[0], rtol=1e-5)


def test_collabfnet_tells_the_negative_half_of_an_embedding():
    model = MODELS["CollabFNet"]().eval()
    model.user_factors.weight.data[:2] = -torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    first, second = model.score_matrix([0, 1])
    assert not np.allclose(first, second)  # a ReLU on the embedding would make both zero


def test_with_biases_the_network_starts_at_the_global_mean():
    np.testing.assert_allclose(MODELS["CollabFNet with biases"]().score_matrix(), 3.5)


def test_dropout_zeroes_factors_in_training_only():
    model = BiasedMF(1, 1, 1000, dropout=0.5, init_mean=1.0, init_std=0.0)
    pair = torch.tensor([0]), torch.tensor([0])
    assert model.eval()(*pair).item() == 1000
    # Each of user's and item's factors is kept with chance 1/2 and doubled: 4 at one in 4 places.
    torch.manual_seed(0)
    score = model.train()(*pair).item()
    assert score % 4 == 0 and 800 < score < 1200


def test_factors_start_where_init_std_says():
    factors = BiasedMF(200, 300, 50, init_std=0.3).user_factors.weight
    assert abs(factors.mean()) < 0.02
    assert abs(factors.std() - 0.3) < 0.02
    with pytest.raises(ValueError, match="init_std must be a number"):
        MF(2, 2, 2, init_std=-1)


def test_the_svd_init_is_numpys_svd_of_who_rated_what():
    model = BiasedMF(*TRAIN.shape, 4)
    svd_init(model, TRAIN, scale=0.5)
    filled = (TRAIN.toarray() != 0) * 1.0
    scaled = filled / np.sqrt(filled.sum(1, keepdims=True)) / np.sqrt(filled.sum(0))
    u, s, v = np.linalg.svd(scaled)
    size = 0.5**2 * math.sqrt(filled.size)
    p, q = model.user_factors.weight.detach(), model.item_factors.weight.detach()
    np.testing.assert_allclose(p @ q.T, size * (u[:, :4] * s[:4] ** 2) @ v[:4], atol=1e-4)
    assert (p.max(0).values > -p.min(0).values).all()  # one sign, whoever solves it


def test_the_svd_init_leaves_the_factors_that_a_small_matrix_cannot_fill():
    train = sp.csr_matrix(np.eye(3, dtype=np.float32) + 1)
    model = BiasedMF(3, 3, 5)
    before = model.user_factors.weight.detach().clone()
    svd_init(model, train)
    changed = (model.user_factors.weight != before).any(0)
    assert changed.tolist() == [True, True, False, False, False]
    svd_init(BiasedMF(1, 3, 5), train[:1])  # a single user: nothing to do, no error
