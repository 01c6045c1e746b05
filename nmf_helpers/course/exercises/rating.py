"""Exercises of notebooks 2 to 5, which predict ratings."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from nmf_helpers.course.exercises.judge import case
from nmf_helpers.models import MF, BiasedMF
from nmf_helpers.training import mean_loss
from nmf_helpers.training import train as train_model

USERS, ITEMS = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])
train_batch = (USERS, ITEMS), torch.tensor([5.0, 3.0, 1.0])  # these stand in for the notebooks'
n_users, n_items, mean_rating = 3, 3, 3.0
P, Q = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 1.0]]), np.array([[2.0, 1.0], [1.0, 1.0]])
rng = np.random.default_rng(1)
more_p, more_q, guesses, stars = (rng.normal(size=size) for size in ((6, 4), (9, 4), 50, 50))


# 1. Three pairs in, three numbers out. Which two rows does the first number need?
# 2. An array indexed with row numbers gives those rows: here two arrays of shape (batch, factors).
# 3. Multiply them element by element and add up over the factors. No matrix product: it pairs all.
@case("2.1", P, Q, np.array([0, 2, 2]), np.array([0, 1, 0]), want=[4.0, 4, 7], why="1·2 + 2·1 is 4")
@case("2.1", more_p, more_q, np.arange(6), np.arange(6) + 3)
def predict(user_factors, item_factors, users, items):
    p = user_factors[users]  # (batch, factors)
    q = item_factors[items]  # (batch, factors)
    return (p * q).sum(axis=1)


# 1. Read the name backwards: error, squared, mean, root.
# 2. How far apart are the two? Square that before you average, so that +1 and -1 don't cancel.
# 3. Arrays of shapes (3, 1) and (3,) have nine differences: raise a ValueError if shapes differ.
@case("2.2", P[:, 0], P[:, 1], want=2.0**0.5, why="√((1² + 1² + 2²) / 3) stars")
@case("2.2", guesses, stars)
@case("2.2", guesses[:, None], stars, want=ValueError, why="50 × 50 differences are not the errors")
def rms_error(predictions, ratings):
    if predictions.shape != ratings.shape:
        raise ValueError(f"shapes {predictions.shape} and {ratings.shape} differ")
    return np.sqrt(((predictions - ratings) ** 2).mean())


# 1. For a mean of 3.5 and 100 factors the answer is 0.187.
# 2. When all entries of both are s, what is their dot product? It has one term per factor.
# 3. Each of n_factors terms is s·s, and together they should make the mean rating. Solve for s.
@case("2.3", 4.0, 1, want=2.0, why="2·2 = 4")
@case("2.3", 3.0, 12, want=0.5, why="twelve times 0.5·0.5 is 3")
def start_value(mean_rating, n_factors):
    return np.sqrt(mean_rating / n_factors)


# 1. With a single factor it is a mean with zeros added: Σ q·rating / (Σ q² + strength).
# 2. Set the derivative by p to zero: (QᵀQ + strength · I) p = Qᵀ ratings, Q the films' rows.
# 3. numpy's linalg.solve takes that matrix and that right-hand side; eye(k) is I.
@case("2.4", np.diag([1.0, 2.0]), np.array([3.0, 4.0]), 1, want=[1.5, 1.6], why="3 / 2 and 8 / 5")
@case("2.4", more_q, stars[:9], 0.5)
def user_vector(item_factors, ratings, strength):
    squares = item_factors.T @ item_factors  # (k, k)
    return np.linalg.solve(squares + strength * np.eye(len(squares)), item_factors.T @ ratings)


def for_batches(model_class):
    """Return the predictions for three pairs, and for a single one."""
    model = model_class(4, 5)
    return tuple(model(USERS[:n], ITEMS[:n]) for n in (3, 1))


# 1. Print the shape of what the model returns beside the shape of the ratings.
# 2. A column of 1,000 predictions against a row of 1,000 ratings: every one meets every other.
# 3. MF's forward already returns what the loss needs. What does her line add to it?
@case("2.bug1", given="4 users and 5 films", look=for_batches)
class Column(MF):
    def forward(self, users, items):
        return super().forward(users, items)


def reported_over_true(train_epochs):
    """Return the loss that is reported, divided by the loss of the model that is left."""
    model = MF(1000, 10_000, 10)  # rows enough for the notebook's data
    reported = train_epochs(model, 2, 0.1)
    return float(reported) / float(train_epochs(model, 1, 1e-9))  # a step too small to matter


# 1. Which model does the number belong to: the one before the last step, or the one after?
# 2. The loss was computed, and then the weights moved. Nothing computed it again.
# 3. After the loop, measure once more with the weights as they are now, and return that.
@case("2.bug2", given="2 epochs with lr = 0.1", look=reported_over_true, want=1.0)
def train_epochs(model, n_epochs, lr, weight_decay=0.0):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    (users, items), ratings = train_batch
    for _ in range(n_epochs):
        loss = F.mse_loss(model(users, items), ratings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mean_loss(model, [train_batch])


# 1. With strength 0 it is the plain mean. With strength ten, ten more ratings are imagined.
# 2. The imagined ratings lie exactly at the mean: they add nothing to the sum, but they count.
# 3. Divide the sum of the deviations by the ratings plus the strength. For none of both, say 0.
@case("3.1", np.array([1.0]), 4, want=0.2, why="one rating and four imagined zeros")
@case("3.1", np.array([1.0, 0.5, 1.5]), 0, want=1.0, why="the plain mean")
@case("3.1", np.ones(96), 4, want=0.96, why="many ratings resist the pull")
@case("3.1", np.array([]), 5, want=0.0, why="nothing is known")
def shrunk_bias(deviations, strength):
    n = len(deviations) + strength
    return deviations.sum() / n if n else 0.0


# 1. The error is the rating minus p · q. Both gradients use it, and both use the old vectors.
# 2. The derivative by p is -2·error·q + weight_decay·p, and so by q. A step goes against both.
# 3. Work out both new vectors before you replace either: the second must not see the first's.
@case("3.2", P[0], P[1], 6.0, 0.1, 0.5, want=([0.95, 2.7], [0.8, 2.55]), why="the error is 4")
@case("3.2", more_p[0], more_q[0], 3.5, 0.05, 0.0)
@case("3.2", more_p[1], more_q[1], 3.5, 0.05, 0.3)
def step(p, q, rating, lr, weight_decay):
    error = rating - p @ q
    new_p = p + lr * (2 * error * q - weight_decay * p)
    new_q = q + lr * (2 * error * p - weight_decay * q)
    return new_p, new_q


# 1. The two lists belong together: entry 0 of both was trained with seed 0. Subtract first.
# 2. The standard error of a mean is the numbers' standard deviation over the root of how many there
#    are. A mean has to exceed Student's t of them: 2.36 with eight seeds, 3.18 with four.
# 3. numpy's std divides by n. With few seeds the estimate needs n - 1: look up ddof.
@case("3.3", P[:, 1], P[:, 0], want=(0.0, 3**-0.5 * 3**0.5), why="the differences are 1, 1 and -2")
@case("3.3", guesses[:8], stars[:8])
def difference(scores_a, scores_b):
    gaps = scores_a - scores_b
    return gaps.mean(), gaps.std(ddof=1) / np.sqrt(len(gaps))


def repeats(experiment):
    """Return whether seed 2017 gives one result twice, and whether 2018 gives the same."""
    results = []
    for noise, seed in ((1, 2017), (2, 2017), (1, 2018)):
        torch.manual_seed(noise)  # what some earlier cell may have done
        results.append(experiment(seed))
    return results[0] == results[1], results[0] == results[2]


# 1. Which random numbers are drawn before the seed is set?
# 2. The vectors' first values are random numbers as well.
# 3. They are drawn when the model is built. Which line has to come first?
@case("3.bug1", given="seeds 2017, 2017 and 2018", look=repeats, want=(True, False))
def careful_experiment(seed):
    torch.manual_seed(seed)
    model = BiasedMF(n_users, n_items, n_factors=5, global_mean=mean_rating)
    *_, last = train_model(model, [train_batch], lr=0.05, n_epochs=5)
    return last["train_loss"]


# 1. Which axes have length one when a single request comes?
# 2. squeeze() removes every axis of length one, and a batch of one is such an axis.
# 3. squeeze takes the number of the axis that you mean; -1 is the last.
@case("3.bug2", given="4 users and 5 films", look=for_batches)
class Squeezed(BiasedMF):
    def forward(self, users, items):
        match = (self.user_factors(users) * self.item_factors(items)).sum(-1, keepdim=True)
        return (self.user_bias(users) + self.item_bias(items) + match).squeeze(-1)


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    LAYERS, VECTORS = (nn.Linear(4, 3), nn.Linear(3, 1)), torch.randn(2, 3, 2)


# 1. For 671 users, 8,442 films, 100 factors and 10 hidden units the answer is 913,321.
# 2. Two tables of vectors, two linear layers. The first takes a user's and a film's, end to end.
# 3. A linear layer from a to b numbers holds a·b weights and b biases. The last one ends in 1.
@case("4.1", 3, 4, 2, 5, want=45, why="14 in tables, 25 in the hidden layer, 6 in the output")
@case("4.1", 671, 8442, 100, 10, want=913_321)
def n_parameters(n_users, n_items, n_factors, n_hidden):
    tables = (n_users + n_items) * n_factors
    hidden = 2 * n_factors * n_hidden + n_hidden
    return tables + hidden + n_hidden + 1


# 1. Four things in a row: lay end to end, first layer, GELU, second layer.
# 2. torch.cat needs the axis: vectors get longer. F.gelu goes on the hidden layer's output only.
# 3. The second layer returns shape (batch, 1), and (batch,) is wanted: drop the last axis, by name.
@case("4.2", *VECTORS, *LAYERS, why="one number a pair, and negative entries of the vectors count")
@case("4.2", *VECTORS[:, :1], *LAYERS, why="one number, in an array: a batch of one is a batch")
def forward(p, q, hidden, output):
    x = torch.cat([p, q], dim=-1)
    x = F.gelu(hidden(x))
    return output(x).squeeze(-1)


def without_squares(product, a, b):
    """Return what twice the inputs give, less twice what they give, if every square is 0."""
    return product(2 * a, 2 * b, lambda x: 0 * x) - 2 * product(a, b, lambda x: 0 * x)


# 1. Write out the square of a + b. The product is in there, among things you don't want.
# 2. The square of a - b has the same things you don't want.
# 3. Subtract the two squares. What is left is a multiple of the product.
@case("4.3", 2.0, 3.0, np.square, want=6.0)
@case("4.3", -1.5, 4.0, np.square, want=-6.0)
@case("4.3", 2.0, 3.0, look=without_squares, want=0, why="inputs may not be multiplied")
def product(a, b, square):
    return (square(a + b) - square(a - b)) / 4


def without_gradient(model_class):
    """Return how many entries have a gradient of exactly 0, and can't learn."""
    model = model_class(4, 5, n_factors=3).eval()
    model(torch.arange(4), torch.arange(4)).sum().backward()
    grads = [model.user_factors.weight.grad, model.item_factors.weight.grad[:4]]  # (4, 3) each
    return sum(int((grad == 0).sum()) for grad in grads)


# 1. Change an entry of a user's vector from -1 to -2. Does any prediction change?
# 2. A ReLU turns every negative entry into 0, and its gradient there is 0 as well.
# 3. An embedding is a weight. Where does an activation belong: before the hidden layer, or after?
@case("4.bug1", given="24 entries of vectors", look=without_gradient, want=0)
class Published(nn.Module):
    def __init__(self, n_users, n_items, n_factors=50, n_hidden=10):
        super().__init__()
        self.user_factors = nn.Embedding(n_users, n_factors)
        self.item_factors = nn.Embedding(n_items, n_factors)
        self.hidden = nn.Linear(2 * n_factors, n_hidden)
        self.output = nn.Linear(n_hidden, 1)
        self.dropout = nn.Dropout(0.1)

    def units(self, users, items):
        x = torch.cat([self.user_factors(users), self.item_factors(items)], dim=1)
        return F.relu(self.hidden(self.dropout(x)))

    def forward(self, users, items):
        return self.output(self.units(users, items)).squeeze(-1)


DRAWS = np.array([[9.0, 9.0], [3.0, 6.0], [4.0, 3.0]])
VALIDATION = np.array([[0.90, 0.92, 0.95], [0.93, 0.90, 0.91]])
TEST = np.array([[0.93, 0.91, 0.97], [0.92, 0.94, 0.90]])


# 1. Three decisions: which rows count, along which axis to average, when to clip.
# 2. Rows are sweeps, columns are ratings. The first n_burn_in rows don't count.
# 3. Average first and clip the average. Clipping each draw would pull the average inwards.
@case("5.1", DRAWS, 1, want=[3.5, 4.5], why="the mean of two rows, which needs no clipping")
@case("5.1", DRAWS[:2], 0, want=[5.0, 5.0], why="means of 6 and 7.5 lie off the scale of 1 to 5")
@case("5.1", rng.normal(3, 2, size=(30, 4)), 10)
def average(draws, n_burn_in):
    return draws[n_burn_in:].mean(axis=0).clip(1, 5)


# 1. Go through the scores as they come in, as if the later ones did not exist yet.
# 2. Remember the best epoch so far. Stop once `patience` epochs in a row have not beaten it.
# 3. The answer is the epoch remembered when you stopped, from 1, not the one you stopped in.
@case("5.2", [0.9, 0.8, 0.85, 0.84, 0.1], 2, want=2, why="when it stopped, nobody had seen the 0.1")
@case("5.2", [0.9, 0.8, 0.85, 0.7], 2, want=4, why="it came in time")
@case("5.2", [0.9, 0.9, 0.9, 0.5], 2, want=1, why="an equal score is no improvement")
@case("5.2", [3.0, 2.0, 1.0], 5, want=3, why="it never stopped improving")
def best_epoch(validation_scores, patience):
    best = 1
    for epoch, score in enumerate(validation_scores, start=1):
        if score < validation_scores[best - 1]:
            best = epoch
        if epoch - best == patience:
            break
    return best


# 1. Per experiment there are two ways to pick a column, and each ends in one test score.
# 2. The honest way picks the lowest validation score and reports that column's test score, the
#    other the lowest test score. Subtract it from the honest one.
# 3. argmin(axis=1) gives one column per row. Index with row numbers and those columns together.
@case("5.3", VALIDATION, TEST, want=0.03, why="validation picks .93 and .94, peeking .91 and .90")
@case("5.3", *rng.normal(size=(2, 50, 6)))
def optimism(validation, test):
    picked = validation.argmin(axis=1)
    honest = test[np.arange(len(test)), picked]
    return (honest - test.min(axis=1)).mean()


# 1. Which of the two curves decided when to stop?
# 2. Stopping is a choice, and a choice made on test data makes the test score too good.
# 3. Let the validation curve say which epoch, and read the test curve at that epoch only.
@case("5.bug1", [1.0, 0.9, 0.8, 0.85], [1.1, 0.7, 0.9, 0.6], want=0.9, why="the third is best")
def reported(validation_curve, test_curve):
    return test_curve[np.argmin(validation_curve)]
