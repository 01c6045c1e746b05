"""Exercises of notebooks 6 and 7, which rank."""

import math
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from torch.nn import functional as F

from nmf_helpers.course.exercises.judge import case, numbers
from nmf_helpers.data import interaction_matrix

zeros, ones, easy, hard = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [-2.0, 0.0]])
SCORES = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
TEST = np.array([[0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
TRAIN = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]])
rng = np.random.default_rng(7)
vectors, scores = rng.normal(size=(3, 5)), rng.normal(size=(20, 12))
kind = rng.integers(0, 4, (20, 12))
# A small one, of the kind that the notebooks have: items 2 and 4, and items 1 and 3.
RATED = pd.DataFrame({"userId": [0, 0, 1, 1], "movieId": [2, 4, 1, 3], "rating": 5.0})
MATRIX = interaction_matrix(RATED, threshold=4, shape=(2, 6))
RATED_BY = "one user with items 2 and 4, and one with 1 and 3"
BOTH = np.array([[0.1, -0.2, 0.9, -0.3, 0.8, -0.4], [-0.4, 0.9, -0.3, 0.8, 0.2, -0.1]])


# 1. Chain rule: the loss by the difference x, times x by p.
# 2. The derivative of -log σ(x) is σ(x) - 1, close to -1 when x is very negative: that teaches.
# 3. x = p · (positive - negative), so x by p is the difference of the two vectors.
@case("6.1", easy, ones, zeros, want=-0.119203 * ones, why="σ(2) - 1 of [1 1]")
@case("6.1", hard, ones, zeros, want=-0.880797 * ones, why="σ(-2) - 1 of [1 1]")
@case("6.1", *vectors)
def bpr_gradient(p, positive, negative):
    difference = p @ (positive - negative)
    sigmoid = 1 / (1 + np.exp(-difference))
    return (sigmoid - 1) * (positive - negative)


# 1. What a user liked in training can't be a hit. Take it out before you sort.
# 2. Minus infinity puts a film last. Then take the k best of each row, and see which are in test.
# 3. argsort of -scores gives columns, best first; np.take_along_axis looks up test at them. Users
#    without any test film are in no average.
@case("6.2", SCORES, TEST, TRAIN, 2, want=0.75, why="2 of 2, 1 of 2, and the third not asked")
@case("6.2", scores, 1 * (kind == 2), 1 * (kind == 1), 3)
def masked_precision(scores, test, train, k):
    masked = np.where(train > 0, -np.inf, scores)
    best = np.argsort(-masked, axis=1)[:, :k]
    hits = np.take_along_axis(test, best, axis=1).mean(axis=1)
    return hits[test.any(axis=1)].mean()


# 1. Of 1,682 films 100 score higher; 50 are drawn, and the first ten count: the answer is 0.9995.
# 2. Drawing without putting back, from films of two sorts: those that score higher and the others.
#    The film is among the first k if fewer than k of the higher sort are drawn.
# 3. That is hypergeometric: scipy.stats.hypergeom has a cdf. Fewer than k means at most k - 1.
@case("6.3", 10, 4, 3, 1, want=1 / 6, why="20 of the 120 ways to draw three leave out all four")
@case("6.3", 10, 4, 3, 2, want=2 / 3, why="20 of 120 ways leave out all four, 60 take one of them")
@case("6.3", 1682, 100, 50, 10, want=0.99951)
def chance(n_others, n_above, n_drawn, k):
    others = n_others - n_above
    ways = (math.comb(n_above, n) * math.comb(others, n_drawn - n) for n in range(k))
    return sum(ways) / math.comb(n_others, n_drawn)


def of_six_items(is_free):
    """Return which of the items 0 to 5 are free, for each of the two users."""
    return tuple([i for i in range(6) if is_free(user, i, MATRIX)] for user in range(2))


# 1. Take one user with the items 1 and 3, and ask about every item from 0 to 5.
# 2. A position found within a user's part of `indices` counts from the start of that part, not from
#    the start of the array. And what is stored there has to be compared with the item itself.
# 3. If the search ends behind the user's last item, the item is not among hers.
@case("6.bug1", given=RATED_BY, look=of_six_items, want=([0, 1, 3, 5], [0, 2, 4, 5]))
def published_is_free(user, item, matrix):
    start, end = matrix.indptr[user], matrix.indptr[user + 1]
    return item not in matrix.indices[start:end]


def slope_and_mean(loss):
    """Return the slope at -5 and the mean of the loss."""
    x = torch.tensor([-5.0, 0.0, 5.0], requires_grad=True)
    value = loss(x).mean()
    (by_x,) = torch.autograd.grad(value, x)  # (3,)
    return 3 * by_x[0], value


# 1. Draw the loss against the difference, from -5 to 5. How steep is it where the pair is worst?
# 2. A loss flat at -5 gives the worst pairs no gradient. BPR is minus the log of a probability.
# 3. The probability that the pair is the right way round is σ(difference).
@case("6.bug2", given="differences -5, 0 and 5", look=slope_and_mean, why="the worst teach most")
def pair_loss(difference):
    return -F.logsigmoid(difference).mean()


def lists(top_k, scores):
    """Return the items that are listed."""
    return top_k(scores, MATRIX, 2)


def unchanged(top_k, scores):
    """Return whether the scores are left as they were."""
    before = scores.copy()
    top_k(scores, MATRIX, 2)
    return np.array_equal(scores, before)


# 1. Compare the list with what the user has rated already.
# 2. She has rated that film. What score does it need, so that it never gets into the list?
# 3. Minus infinity. Work on a copy, as the scores are somebody else's.
@case("6.bug3", BOTH, given=f"k = 2 and {RATED_BY}", look=lists, why="training's are left out")
@case("6.bug3", BOTH, given="an array of scores", look=unchanged, want=True)
def top_k(scores, train, k):
    candidates = np.where(train.toarray() > 0, -np.inf, scores)
    return np.argsort(-candidates, axis=1)[:, :k]


train = csr_array(np.ones((6, 7)))  # stands in for the notebook's
FAR_AND_NEAR = [*product((0, 1, 2, 3, 9, 10, 11, 99, 100, 101, 999), repeat=3)]


def together(shards, n_samples, n_workers, seed):
    """Return how many parts hold something, and all that they hold, sorted."""
    parts = [numbers(part) for part in shards(n_samples, n_workers, seed)]
    return sum(len(part) > 0 for part in parts), np.sort(np.concatenate(parts))


def drawn(shards):
    """Return whether a seed repeats itself, another one differs, and samples are shuffled."""
    first, again, other = (set(numbers(shards(100, 2, seed)[0]).tolist()) for seed in (0, 0, 1))
    return first == again, first != other, first != set(range(50))


# 1. Every sample goes to one worker, and to one only.
# 2. Shuffle the numbers 0 to n_samples - 1 first, with a generator made from the seed, then cut.
# 3. numpy's array_split cuts into parts whose sizes differ by one at most.
@case("7.1", 10, 3, 0, look=together, want=(3, range(10)), why="each sample has one worker")
@case("7.1", 5, 1, 0, look=together, want=(1, range(5)), why="each sample has one worker")
@case("7.1", given="100 samples and 2 workers", look=drawn, want=(True, True, True))
def shards(n_samples, n_workers, seed):
    order = np.random.default_rng(seed).permutation(n_samples)
    return np.array_split(order, n_workers)


def n_different(worker_seed):
    """Return how many different results there are."""
    return len({int(worker_seed(*one)) for one in 2 * FAR_AND_NEAR})


# 1. Adding the three numbers is not enough: seed 1, epoch 2 and seed 2, epoch 1 would collide.
# 2. Think of digits: the year, month and day in 20261124 can't collide either.
# 3. Give each of the three room of its own, 1,000 wide, by multiplying before adding.
@case("7.2", given="1,331 triples below 1,000, each of them twice", look=n_different, want=1331)
def worker_seed(seed, epoch, rank):
    return (seed * 1000 + epoch) * 1000 + rank


# 1. With start-up 10, 3 seconds an epoch alone and 1 together, the answer is 6.
# 2. Each epoch saves alone - together seconds, and those savings have to pay for the start-up.
# 3. If nothing is saved it never pays: math.inf. Otherwise divide, and take the next whole number
#    above, also when the division comes out even.
@case("7.3", 10.0, 3.0, 1.0, want=6, why="after 6 epochs 16 seconds against 18, after 5 both 15")
@case("7.3", 7.0, 2.5, 1.0, want=5, why="after 5 epochs 12 seconds against 12.5")
@case("7.3", 2.0, 0.5, 0.6, want=math.inf, why="it is slower in every epoch")
@case("7.3", 2.0, 0.5, 0.5, want=math.inf, why="nothing is saved")
def break_even(start_up, alone, together):
    saved = alone - together
    return math.floor(start_up / saved) + 1 if saved > 0 else math.inf


def walked(worker):
    """Return how many entries are walked again, how many never, if rank 0 repeats its shuffle."""
    orders = [numbers(worker(rank)) for rank in (0, 1, 2, 3, 0)]
    found = np.concatenate(orders[:4])
    different, shuffled = len(np.unique(found)), bool((np.diff(orders[0]) < 0).any())
    steady = shuffled and np.array_equal(orders[0], orders[4])
    return len(found) - different, int(found.max()) + 1 - different, steady


# 1. Put the first entries of the four workers side by side. And how many entries has each?
# 2. The same seed gives the same order to all. Together they should walk the data once, not each.
# 3. Let the one order be common to all, and let each worker take its own fourth of it, by rank.
@case("7.bug1", given="ranks 0 to 3", look=walked, want=(0, 0, True))
def worker(rank, seed=2017):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(train.nnz, generator=generator)
    return order.chunk(4)[rank]
