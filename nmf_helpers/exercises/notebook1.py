"""Checks of notebook 1, encoding; each docstring is three hints, from a nudge to nearly all."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from nmf_helpers.exercises import Different, call, expect

TABLE = pd.DataFrame(
    {
        "userId": [7, 7, 42, 42, 600],
        "movieId": [318, 260, 318, 111362, 260],
        "rating": [5.0, 4.0, 3.5, 4.0, 2.0],
        "timestamp": [30, 10, 20, 50, 40],
    }
)
ROWS = list(zip(TABLE["userId"], TABLE["movieId"], TABLE["timestamp"], strict=True))


def check_1_1(share_filled: Callable) -> None:
    """For the ratings of this notebook the answer is 0.0164. Divide two counts to get there.

    How many cells does the table have? That takes the number of different users and of different
    films, and neither is the largest id.

    A column's nunique() counts its different values. Each row of the table fills one cell.
    """
    expect(
        share_filled,
        (TABLE,),
        5 / 9,
        "0.5556: five ratings, and three users × three films make nine cells",
        "the five rows from above",
    )


def check_1_2(encode: Callable) -> None:
    """Two columns, two roles: one decides which code an id gets, the other is translated.

    Build a dictionary from id to code first, as in "By hand". It may look at `known` only.

    A dictionary's get(key, default) returns the default for a key that it doesn't have.
    """
    known, column = [318, 260, 318, 111362], [260, 9999, 318]
    given = f"known = {known} and column = {column}"
    words = "the codes that `known` gives: 260 came second, 9999 never, 318 first"
    expect(lambda: encode(column, known), (), [1, -1, 0], words, given)
    rng = np.random.default_rng(1)
    known, column = rng.integers(0, 30, 20), rng.integers(0, 30, 40)
    codes = {value: code for code, value in enumerate(dict.fromkeys(known.tolist()))}
    want = [codes.get(value, -1) for value in column.tolist()]
    given = "two columns of random ids"
    expect(lambda: encode(column, known), (), want, "codes in order of first appearance", given)


def check_1_3(is_last: Callable) -> None:
    """The rows of a table need not be in the order of time. These aren't.

    Rank each user's ratings by timestamp, latest first, and keep the ranks in the order in which
    the rows lie: the answer has one True or False per row.

    Look up groupby(...)["timestamp"].rank, with ascending=False and method="first".
    """
    given = f"rows (user, film, timestamp) {ROWS} and n = 1"
    words = "True where a row is its user's latest: [True, False, False, True, True]"
    expect(is_last, (TABLE, 1), [True, False, False, True, True], words, given)
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"userId": rng.integers(0, 5, 40), "timestamp": rng.permutation(40)})
    got = np.asarray(call(is_last, (table, 3), "40 shuffled rows and n = 3"), dtype=bool)
    for user in range(5):
        mine = (table["userId"] == user).to_numpy()
        latest = np.sort(table["timestamp"][mine])[-3:]
        chosen = np.sort(table["timestamp"][mine & got])
        if not np.array_equal(chosen, latest):
            raise Different(
                f"Given 40 shuffled rows and n = 3, user {user}'s chosen timestamps are "
                f"{chosen.tolist()}. Expected the three latest, {latest.tolist()}."
            )


def check_1_bug1(encode_both: Callable) -> None:
    """Follow one film. Which code does it have in training, and which in validation?

    A call that is not told about training makes codes of its own, starting from zero again.

    encode_ratings takes a second argument.
    """
    train, valid = TABLE.iloc[:4], TABLE.iloc[[4, 1]].assign(userId=[7, 600])
    given = "two validation rows, of which one is about a user that training never saw"
    result = call(encode_both, (train, valid), given)
    encoded = result[1]
    if len(encoded) != 1:
        raise Different(f"Given {given}, {len(encoded)} came back. Expected the known one alone.")
    if list(encoded["movieId"]) != [1]:
        raise Different(
            f"Film 260 has code 1 in training, and code {encoded['movieId'].iloc[0]} in "
            "validation. Expected one film, one code."
        )
