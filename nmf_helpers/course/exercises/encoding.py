"""Exercises of notebook 1, encoding."""

import numpy as np
import pandas as pd

from nmf_helpers.course.exercises.judge import case
from nmf_helpers.data import encode_ratings

COLUMNS = ["userId", "movieId", "rating", "timestamp"]
ROWS = [(7, 318, 5.0, 30), (7, 260, 4.0, 10), (42, 318, 3.5, 20), (42, 111362, 4.0, 50)]
TABLE = pd.DataFrame([*ROWS, (600, 260, 2.0, 40)], columns=COLUMNS)
LATER = TABLE.iloc[[4, 1]].assign(userId=[7, 600])
rng = np.random.default_rng(1)
users, stars, times = rng.integers(0, 5, 40), rng.integers(1, 6, 40) / 1.0, rng.permutation(40)
SHUFFLED = pd.DataFrame(zip(users, range(40), stars, times, strict=True), columns=COLUMNS)


# 1. For the ratings of this notebook the answer is 0.0164. Divide two counts to get there.
# 2. How many cells are there? Count different users and different films: neither is the largest id.
# 3. A column's nunique() counts its different values. Each row of the table fills one cell.
@case("1.1", TABLE, want=5 / 9, why="five ratings, and three users × three films make nine cells")
def share_filled(ratings):
    n_cells = ratings["userId"].nunique() * ratings["movieId"].nunique()
    return len(ratings) / n_cells


# 1. Two columns, two roles: one decides which index an id gets, the other is translated.
# 2. Build a dictionary from id to index first, as in "By hand". It may look at `known` only.
# 3. A dictionary's get(key, default) returns the default for a key that it doesn't have.
@case("1.2", [9, 260, 8, 318], [318, 260, 318, 9], want=[2, 1, -1, 0], why="318 is first, then 260")
def encode(column, known):
    index = {}
    for value in known:
        index.setdefault(value, len(index))
    return [index.get(value, -1) for value in column]


# 1. The rows of a table need not be in the order of time. These aren't.
# 2. Rank each user's ratings by timestamp, latest first: one True or False per row, in their order.
# 3. Look up groupby(...)["timestamp"].rank, with ascending=False and method="first".
@case("1.3", TABLE, 1, want=np.array([1, 0, 0, 1, 1]) > 0, why="true for a user's latest row")
@case("1.3", SHUFFLED, 3)
def is_last(ratings, n):
    by_user = ratings.groupby("userId")["timestamp"]
    return by_user.rank(ascending=False, method="first") <= n


def items_left(encode_both, train, validation):
    """Return the film indices that are left in validation."""
    return encode_both(train, validation)[1]["movieId"]


# 1. Follow one film. Which index does it have in training, and which in validation?
# 2. A call that is not told about training counts indices of its own, from zero again.
# 3. encode_ratings takes a second argument.
@case(
    "1.bug1", TABLE[:4], LATER, look=items_left, want=[1],
    given="films 318, 260, 318, 111362 in training, and film 260 rated by one user that training "
    "knows and one that it doesn't",
    why="film 260 has the index 1, and the unknown user is dropped",
)  # fmt: skip
def encode_both(train, validation):
    return encode_ratings(train), encode_ratings(validation, train)
