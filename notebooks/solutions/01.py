"""Solutions of notebook 1. In the notebook, what stands between `# <<<` and `# >>>` is `...`."""

from nmf_helpers.data import encode_ratings


# --- 1.1
def share_filled(ratings):
    """Return the share of the cells of the users × films table that hold a rating."""
    # <<<
    n_cells = ratings["userId"].nunique() * ratings["movieId"].nunique()
    return len(ratings) / n_cells
    # >>>


# --- 1.2
def encode(column, known):
    """Return a list with the code of each id in `column`.

    Codes are given by order of first appearance in `known`; an id that isn't there gets -1.
    """
    # <<<
    index = {}
    for value in known:
        index.setdefault(value, len(index))
    return [index.get(value, -1) for value in column]
    # >>>


# --- 1.3
def is_last(ratings, n):
    """Return one True or False per row: is it among the n latest of its user?"""
    # <<<
    by_user = ratings.groupby("userId")["timestamp"]
    return by_user.rank(ascending=False, method="first") <= n
    # >>>


# --- 1.bug1
def encode_both(train, valid):
    return encode_ratings(train), encode_ratings(valid, train)
