"""Every exercise: solutions pass, stubs are blank, real mistakes fail, hints don't tell."""

import re
from pathlib import Path
from textwrap import indent

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from nmf_helpers import exercises
from nmf_helpers.data import encode_ratings
from nmf_helpers.models import MF, BiasedMF

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SECTION = re.compile(r"^# --- (\S+)\n(.*?)(?=^# --- |\Z)", re.M | re.S)
BLANK = re.compile(r"^( *)# <<<\n(.*?)^ *# >>>\n", re.M | re.S)
DEFINED = re.compile(r"^(?:def|class) (\w+)", re.M)

NAMES = exercises.names()
STUBBED = [name for name in NAMES if "bug" not in name]


def sections(name: str) -> tuple[str, str]:
    """Return what comes before the first solution of a notebook, and the solution of `name`."""
    text = (NOTEBOOKS / "solutions" / f"0{name[0]}.py").read_text("utf-8")
    return text[: SECTION.search(text).start()], dict(SECTION.findall(text))[name].strip() + "\n"


def solution(name: str) -> str:
    return sections(name)[1]


def stub(name: str) -> str:
    return BLANK.sub(r"\1...\n", solution(name))


def answer(name: str, code: str):
    """Run some code after the imports of its notebook's solutions, and return what it defines."""
    namespace = {"__name__": "answer"}
    exec(sections(name)[0] + code, namespace)
    return namespace[DEFINED.findall(code)[-1]]


def verdict(capsys, name: str, reply) -> str:
    capsys.readouterr()
    exercises.check(name, reply)
    out = capsys.readouterr().out
    assert out.endswith("\n") and out.count("\n") == 1, "a verdict is one line"
    assert out.startswith(f"{name}: ")
    return out.removeprefix(f"{name}: ").strip()


def notebook_code(name: str) -> list[str]:
    (path,) = NOTEBOOKS.glob(f"0{name[0]}-*.md")
    return re.findall(r"^```python[^\n]*\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)


# -- solutions and stubs --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes(name, capsys):
    assert verdict(capsys, name, answer(name, solution(name))) == "passed."


@pytest.mark.parametrize("name", STUBBED)
def test_the_stub_is_blank_and_not_attempted(name, capsys):
    assert len(BLANK.findall(solution(name))) == 1
    assert verdict(capsys, name, answer(name, stub(name))).startswith("not attempted yet")


@pytest.mark.parametrize("name", STUBBED)
def test_the_notebook_holds_the_stub_and_its_check(name):
    function = DEFINED.findall(stub(name))[-1]
    cell = f'{stub(name)}\n\ncheck("{name}", {function})\n'
    assert cell in notebook_code(name), f"the notebook should have this cell:\n{indent(cell, '  ')}"


@pytest.mark.parametrize("name", [name for name in NAMES if "bug" in name])
def test_the_notebook_shows_the_bug_and_checks_the_repair(name):
    function = DEFINED.findall(solution(name))[-1]
    code = "\n".join(notebook_code(name))
    assert f'check("{name}", {function})\n' in code
    assert re.search(rf"^(def|class) {function}\b", code, re.M), f"no {function} to repair"
    assert solution(name) not in code


def test_every_solution_has_a_check_and_every_check_a_solution():
    found = [
        name
        for path in sorted((NOTEBOOKS / "solutions").glob("*.py"))
        for name, _ in SECTION.findall(path.read_text("utf-8"))
    ]
    assert sorted(found) == sorted(NAMES)
    for notebook in exercises.NOTEBOOKS:
        assert {f"{notebook}.{n}" for n in (1, 2, 3)} <= set(NAMES)
    assert sum("bug" in name for name in NAMES) >= 8


# -- wrong answers: the mistakes that people make -------------------------------------------------


def cells_from_the_largest_ids(ratings):
    return len(ratings) / (ratings["userId"].max() * ratings["movieId"].max())


def users_times_rows(ratings):
    return len(ratings) / (ratings["userId"].nunique() * len(ratings))


def codes_of_its_own(column, known):
    return list(pd.factorize(pd.Series(column))[0])


def codes_in_sorted_order(column, known):
    index = {value: code for code, value in enumerate(sorted(set(known)))}
    return [index.get(value, -1) for value in column]


def last_rows_of_the_table(ratings, n):
    return ratings.index.isin(ratings.groupby("userId").tail(n).index)


def earliest(ratings, n):
    return ratings.groupby("userId")["timestamp"].rank(method="first") <= n


def encoded_on_its_own(train, valid):
    return encode_ratings(train), encode_ratings(valid)


def every_user_with_every_item(user_factors, item_factors, users, items):
    return user_factors[users] @ item_factors[items].T


def without_looking_up(user_factors, item_factors, users, items):
    return (user_factors[: len(users)] * item_factors[: len(users)]).sum(1)


def mean_squared_error(predictions, ratings):
    return ((predictions - ratings) ** 2).mean()


def broadcasting_rmse(predictions, ratings):
    return np.sqrt(((predictions - ratings) ** 2).mean())


def mean_over_factors(mean_rating, n_factors):
    return mean_rating / n_factors


class ColumnOfPredictions(MF):
    def forward(self, users, items):
        return super().forward(users, items).unsqueeze(1)


class SqueezedColumn(MF):
    def forward(self, users, items):
        return super().forward(users, items).unsqueeze(1).squeeze()


BATCH = (torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])), torch.tensor([5.0, 3.0, 1.0])


def loss_before_the_step(model, n_epochs, lr):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    (users, items), ratings = BATCH
    for _ in range(n_epochs):
        loss = F.mse_loss(model(users, items), ratings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def mean_minus_strength(deviations, strength):
    return deviations.mean() - strength


def mean_with_strength_below(deviations, strength):
    return deviations.sum() / (len(deviations) * (1 + strength))


def second_sees_the_first(p, q, rating, lr, weight_decay):
    error = rating - p @ q
    p = p + lr * (error * q - weight_decay * p)
    q = q + lr * (error * p - weight_decay * q)
    return p, q


def decay_the_wrong_way(p, q, rating, lr, weight_decay):
    error = rating - p @ q
    return p + lr * (error * q + weight_decay * p), q + lr * (error * p + weight_decay * q)


def step_in_place(p, q, rating, lr, weight_decay):
    error = rating - p @ q
    p += lr * (error * q - weight_decay * p)
    q += lr * (error * p - weight_decay * q)
    return p, q


def spread_instead_of_error(a, b):
    return (a - b).mean(), (a - b).std(ddof=1)


def unpaired(a, b):
    return a.mean() - b.mean(), np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))


def seed_after_the_model(seed):
    model = BiasedMF(3, 2, 5)
    torch.manual_seed(seed)
    return model.user_factors.weight.sum().item()


def seed_ignored(seed):
    torch.manual_seed(0)
    return BiasedMF(3, 2, 5).user_factors.weight.sum().item()


class SqueezesTheBatch(BiasedMF):
    def forward(self, users, items):
        match = (self.user_factors(users) * self.item_factors(items)).sum(-1, keepdim=True)
        return (self.user_bias(users) + self.item_bias(items) + match).squeeze()


class KeepsTheColumn(BiasedMF):
    def forward(self, users, items):
        return super().forward(users, items)[:, None]


def without_constants(n_users, n_items, n_factors, n_hidden):
    return (n_users + n_items) * n_factors + 2 * n_factors * n_hidden + n_hidden


def relu_on_embeddings(p, q, hidden, output):
    return output(F.gelu(hidden(F.relu(torch.cat([p, q], -1))))).squeeze(-1)


def column_of_predictions(p, q, hidden, output):
    return output(F.gelu(hidden(torch.cat([p, q], -1))))


def squeezed_batch(p, q, hidden, output):
    return output(F.gelu(hidden(torch.cat([p, q], -1)))).squeeze()


def multiplied(a, b, square):
    return a * b


def square_of_the_sum(a, b, square):
    return square(a + b) / 2


class ReluOnEmbeddings(torch.nn.Module):
    def __init__(self, n_users, n_items, n_factors=100, n_hidden=10):
        super().__init__()
        self.user_factors = torch.nn.Embedding(n_users, n_factors)
        self.item_factors = torch.nn.Embedding(n_items, n_factors)
        self.hidden = torch.nn.Linear(2 * n_factors, n_hidden)
        self.output = torch.nn.Linear(n_hidden, 1)

    def forward(self, users, items):
        x = F.relu(torch.cat([self.user_factors(users), self.item_factors(items)], 1))
        return self.output(F.relu(self.hidden(x))).squeeze(-1)


def without_burn_in(draws, n_burn_in):
    return draws.mean(0).clip(1, 5)


def clipped_too_early(draws, n_burn_in):
    return draws[n_burn_in:].clip(1, 5).mean(0)


def best_of_all_epochs(valid_scores, patience):
    return int(np.argmin(valid_scores)) + 1


def epoch_of_stopping(valid_scores, patience):
    best = 0
    for epoch, score in enumerate(valid_scores):
        if score < valid_scores[best]:
            best = epoch
        if epoch - best == patience:
            return epoch + 1
    return len(valid_scores)


def valid_against_test(valid, test):
    return (valid.min(1) - test.min(1)).mean()


def epoch_picked_on_test(valid_curve, test_curve):
    return min(test_curve)


def gradient_of_the_published_loss(p, positive, negative):
    sigmoid = 1 / (1 + np.exp(-(p @ (positive - negative))))
    return -2 * sigmoid * (1 - sigmoid) ** 2 * (positive - negative)


def uphill(p, positive, negative):
    sigmoid = 1 / (1 + np.exp(-(p @ (positive - negative))))
    return (1 - sigmoid) * (positive - negative)


def without_taking_out_train(scores, test, train, k):
    best = np.argsort(-scores, axis=1)[:, :k]
    return np.take_along_axis(test, best, 1).mean(1)[test.any(1)].mean()


def users_without_test_count_zero(scores, test, train, k):
    best = np.argsort(-np.where(train, -np.inf, scores), axis=1)[:, :k]
    return np.take_along_axis(test, best, 1).mean()


def worst_first(scores, test, train, k):
    best = np.argsort(np.where(train, np.inf, scores), axis=1)[:, :k]
    return np.take_along_axis(test, best, 1).mean(1)[test.any(1)].mean()


def one_too_many(n_others, n_above, n_drawn, k):
    return stats.hypergeom.cdf(k, n_others, n_above, n_drawn)


def drawn_with_putting_back(n_others, n_above, n_drawn, k):
    return stats.binom.cdf(k - 1, n_drawn, n_above / n_others)


def published_sampler(user, item, matrix):
    start, end = matrix.indptr[user], matrix.indptr[user + 1]
    place = np.searchsorted(matrix.indices[start:end], item, side="right")
    return place < end - start and matrix.indices[place] != item


def squared_sigmoid(difference):
    return (1 - torch.sigmoid(difference)).square().mean()


def without_mask(scores, train, k):
    return np.argsort(-scores, axis=1)[:, :k]


def masks_the_scores_it_was_given(scores, train, k):
    scores[train.nonzero()] = -np.inf
    return np.argsort(-scores, axis=1)[:, :k]


def everything_for_everybody(n_samples, n_workers, seed):
    return [np.random.default_rng(seed).permutation(n_samples) for _ in range(n_workers)]


def rest_left_out(n_samples, n_workers, seed):
    order = np.random.default_rng(seed).permutation(n_samples)
    size = n_samples // n_workers
    return [order[size * rank : size * (rank + 1)] for rank in range(n_workers)]


def not_shuffled(n_samples, n_workers, seed):
    return np.array_split(np.arange(n_samples), n_workers)


def same_seed(seed, epoch, rank):
    return seed


def added_up(seed, epoch, rank):
    return seed + epoch + rank


def rounded_up(start_up, alone, together):
    return int(np.ceil(start_up / (alone - together))) if alone > together else np.inf


def never_infinite(start_up, alone, together):
    return int(start_up / (alone - together)) + 1


def shared_random_state(rank, seed=2017):
    return torch.randperm(42, generator=torch.Generator().manual_seed(seed))


def all_the_data_each(rank, seed=2017):
    return shared_random_state(rank, seed + rank)


WRONG = {
    "1.1": [cells_from_the_largest_ids, users_times_rows],
    "1.2": [codes_of_its_own, codes_in_sorted_order],
    "1.3": [last_rows_of_the_table, earliest],
    "1.bug1": [encoded_on_its_own],
    "2.1": [every_user_with_every_item, without_looking_up],
    "2.2": [mean_squared_error, broadcasting_rmse],
    "2.3": [mean_over_factors],
    "2.bug1": [ColumnOfPredictions, SqueezedColumn],
    "2.bug2": [loss_before_the_step],
    "3.1": [mean_minus_strength, mean_with_strength_below],
    "3.2": [second_sees_the_first, decay_the_wrong_way, step_in_place],
    "3.3": [spread_instead_of_error, unpaired],
    "3.bug1": [seed_after_the_model, seed_ignored],
    "3.bug2": [SqueezesTheBatch, KeepsTheColumn],
    "4.1": [without_constants],
    "4.2": [relu_on_embeddings, column_of_predictions, squeezed_batch],
    "4.3": [multiplied, square_of_the_sum],
    "4.bug1": [ReluOnEmbeddings],
    "5.1": [without_burn_in, clipped_too_early],
    "5.2": [best_of_all_epochs, epoch_of_stopping],
    "5.3": [valid_against_test],
    "5.bug1": [epoch_picked_on_test],
    "6.1": [gradient_of_the_published_loss, uphill],
    "6.2": [without_taking_out_train, users_without_test_count_zero, worst_first],
    "6.3": [one_too_many, drawn_with_putting_back],
    "6.bug1": [published_sampler],
    "6.bug2": [squared_sigmoid],
    "6.bug3": [without_mask, masks_the_scores_it_was_given],
    "7.1": [everything_for_everybody, rest_left_out, not_shuffled],
    "7.2": [same_seed, added_up],
    "7.3": [rounded_up, never_infinite],
    "7.bug1": [shared_random_state, all_the_data_each],
}


def test_every_exercise_knows_a_wrong_answer():
    assert list(WRONG) == NAMES


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(name, wrong) for name, answers in WRONG.items() for wrong in answers],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_mistake_is_told_apart_from_the_solution(name, wrong, capsys):
    said = verdict(capsys, name, wrong)
    assert said.startswith("not yet. ")
    assert len(said) > 50, "says what differs"
    for line in secret_lines(name):
        assert line not in said


# -- hints ----------------------------------------------------------------------------------------


def secret_lines(name: str) -> list[str]:
    """Return the lines of a solution that a hint or a verdict must not give away."""
    blanks = BLANK.findall(solution(name))
    lines = blanks[0][1].splitlines() if blanks else solution(name).splitlines()
    return [line.strip() for line in lines if len(line.strip()) > 12]


@pytest.mark.parametrize("name", NAMES)
def test_hints_come_in_three_tiers_and_do_not_tell_the_solution(name, capsys):
    tiers = []
    for tier in (1, 2, 3):
        exercises.hint(name, tier)
        tiers.append(capsys.readouterr().out)
    assert len(set(tiers)) == 3
    for text in tiers:
        assert 20 < len(text) < 420 and text.count("\n") == 1
        assert not any(line in text for line in secret_lines(name))
    exercises.hint(name)
    assert capsys.readouterr().out == tiers[0]


def test_there_is_no_fourth_hint():
    with pytest.raises(ValueError, match="tier must be 1, 2 or 3, not 4"):
        exercises.hint("2.1", 4)


# -- replies that are no answers ------------------------------------------------------------------


@pytest.mark.parametrize("call", [lambda n: exercises.check(n, None), exercises.hint])
@pytest.mark.parametrize(("wrong", "near"), [("2.11", "2.1"), ("2.bug", "2.bug"), (2.1, "2.1")])
def test_an_unknown_exercise_suggests_the_nearest(call, wrong, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}"):
        call(wrong)


@pytest.mark.parametrize("blank", [None, ..., NotImplemented])
def test_a_blank_is_not_attempted(blank, capsys):
    assert verdict(capsys, "2.2", blank).startswith("not attempted")
    assert verdict(capsys, "2.2", lambda predictions, ratings: blank).startswith("not attempted")


def not_written_yet(predictions, ratings):
    raise NotImplementedError


def test_raising_not_implemented_is_not_attempted(capsys):
    assert verdict(capsys, "2.2", not_written_yet).startswith("not attempted")


def test_a_result_in_place_of_the_function_is_explained(capsys):
    assert "Give the function itself" in verdict(capsys, "1.1", 0.0164)


@pytest.mark.parametrize("name", NAMES)
def test_code_that_stops_ends_no_notebook(name, capsys):
    said = verdict(capsys, name, lambda *args, **kwargs: 1 / 0)
    assert said.startswith("not yet.") and "ZeroDivisionError: division by zero" in said


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nonsense", ["four", object(), [[1], [2, 3]], {}])
def test_nonsense_is_wrong_and_shown_without_an_address(name, nonsense, capsys):
    said = verdict(capsys, name, lambda *args, **kwargs: nonsense)
    assert said.startswith("not yet.") and "0x" not in said


def test_a_check_says_the_same_each_time_and_leaves_random_states_alone(capsys):
    state, numbers = torch.get_rng_state(), np.random.get_state()[1]
    for name, answers in WRONG.items():
        if name != "3.bug1":  # its answer sets the seed, that is the point
            assert verdict(capsys, name, answers[0]) == verdict(capsys, name, answers[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numbers).all()
