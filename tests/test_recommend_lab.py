"""The labs of own recommendations and of the factor map, without a browser."""

import re
from itertools import chain, combinations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from nmf_helpers.als import ImplicitALS
from nmf_helpers.lab import FactorLab, FoldInWeights, RecommendLab, factor_lab
from nmf_helpers.lab.recommend_lab import N_ROWS, Items

MOVIES = pd.DataFrame(
    {
        "title": ["Matrix, The", "Alien", "Aliens", "Amélie", "Toy Story", "Shrek", ""],
        "year": pd.array([1999, 1979, 1986, 2001, 1995, 2001, None], dtype="Int64"),
        "genres": ["Action|Sci-Fi", "Horror", "Horror", "Romance", "Children", "Children", ""],
    }
)
POPULARITY = np.array([50, 30, 40, 10, 60, 20, 5])
N = len(MOVIES)


class Model:
    """Space films speak for one another, and so do cartoons; it notes what it is told is liked."""

    weights = np.zeros((N, N))
    weights[np.ix_([0, 1, 2], [0, 1, 2])] = weights[np.ix_([4, 5], [4, 5])] = 1
    np.fill_diagonal(weights, 0)
    weights[1, 2] = 3

    def fold_in(self, items):
        self.folded = items.tolist()
        return self.weights[items].sum(axis=0)

    def explain(self, item, items):
        self.explained = items.tolist()
        return self.weights[items, item]


@pytest.fixture
def lab():
    return RecommendLab(Model(), MOVIES, POPULARITY, k=4)


# -- your own recommendations ---------------------------------------------------------------------


def test_a_model_is_told_only_what_is_liked_and_the_strongest_of_it_is_the_reason(lab):
    assert list(lab.recommendations()["title"]) == ["Toy Story", "The Matrix", "Aliens", "Alien"]
    assert "Rate a film" in lab.status.value  # before, everybody gets the most rated
    lab.rate("The Matrix", 5).rate("Alien", 4).rate("Shrek", 1).rate("Amélie", 3)
    table = lab.recommendations().set_index("title")
    assert lab._recommend.folded == lab._recommend.explained == [0, 1]
    assert dict(table["because"]) == {"Aliens": "Alien", "Toy Story": "", "": ""}
    assert lab.lists.value.count("<li>") == 6  # shorter than k rather than with what was rated


def test_implicit_als_and_a_function_of_stars_serve_as_they_are():
    likes = sp.csr_array((np.random.default_rng(0).random((30, N)) < 0.5).astype(np.float32))
    for model in (ImplicitALS(n_factors=3).fit(likes), FoldInWeights(Model.weights)):
        lab = RecommendLab(model, MOVIES, POPULARITY)
        popular = [i for i in lab.recommendations()["title"] if i != "Alien"]
        listed = lab.rate("Alien", 2).recommendations()["title"].tolist()
        assert len(listed) == N - 1 and "After" in lab.status.value
        if isinstance(model, ImplicitALS):  # which hears of likes only, and here of none
            assert listed[: len(popular)] == popular
        listed = lab.rate("Shrek", 5).recommendations()
        assert len(listed) == N - 2 and "After" in lab.status.value
    assert listed["title"].tolist()[:: N - 3] == ["Toy Story", "Aliens"]


def test_a_press_changes_the_list_at_once_and_can_be_changed_and_taken_back(lab):
    lab.query.value = "alien"
    names = [lab.items.names[row.item] for row in lab.found if row.item is not None]
    assert names == ["Aliens (1986)", "Alien (1979)"]
    before = lab.lists.value
    lab.found[1].buttons.value = 5.0
    assert lab.ratings == {1: 5.0} and lab.lists.value != before
    assert list(lab.recommendations()["title"])[:2] == ["Aliens", "The Matrix"]
    assert "because you liked <bdi" in lab.lists.value and ">Alien<" in lab.lists.value
    lab.rate("Toy Story", 4)
    assert [row.item for row in lab.mine[:3]] == [4, 1, None]
    lab.mine[1].buttons.value = 2.0
    assert lab.ratings == {1: 2.0, 4: 4.0}
    assert [row.buttons.value for row in lab.found[:2]] == [0.0, 2.0]
    lab.mine[0].buttons.value = 0.0
    assert lab.ratings == {1: 2.0} and [row.item for row in lab.mine[:2]] == [1, None]


def enter(lab):
    lab.query._handle_custom_msg({"event": "submit"}, [])


def deliveries(typed):
    """All that a kernel may see of texts typed one after another, the last behind Enter."""
    # A text is sent when the one before has been answered, then the latest; Enter at once.
    *before, entered, rated = typed
    for seen in chain.from_iterable(combinations(before, n) for n in range(len(before) + 1)):
        yield [*seen, entered, "Enter", rated]
        yield [*seen, "Enter", entered, rated]
        yield [*seen, "Enter", rated]


@pytest.mark.parametrize(
    ("typed", "item"),
    [
        (["al", "ali", "alien", "alien4"], 2),
        (["s", "shrk", "shr", "shrek", "shrek4"], 5),  # corrected on the way
        (["shrek", "amelie", "amelie4"], 3),
        (["shrekk", "shrekk4"], 5),
        (["199", "1999", "19994"], 0),
        (["alien 19", "alien 1986", "alien 19864"], 2),
    ],
)
def test_a_title_enter_and_a_digit_rate_however_the_messages_overtake(lab, typed, item):
    for messages in deliveries(typed):
        lab.clear()
        for message in messages:
            if message == "Enter":
                enter(lab)
            else:
                lab.query.value = message
        assert lab.ratings == {item: 4.0}, messages
        assert lab.query.value == "" and "press" not in lab.hint.value


def test_digits_are_searched_for_until_enter_is_pressed_and_after_the_box_was_emptied(lab):
    for text in ("1", "shrek", "shrek5"):
        lab.query.value = text
    enter(lab)
    for text in ("", "shrek", "shrek5"):
        lab.query.value = text
    assert lab.ratings == {} and "press" not in lab.hint.value


def test_a_digit_that_leads_to_films_is_searched_for_and_the_next_one_rates(lab):
    lab.query.value = "alien"
    enter(lab)
    assert "Aliens (1986): press 1 to 5" in lab.hint.value
    for text in ("2", "20", "200", "2001"):
        lab.query.value = text
        assert lab.ratings == {}
    assert "Shrek (2001): press 1 to 5" in lab.hint.value
    lab.query.value = "20013"
    assert lab.ratings == {5: 3.0}


def test_a_misspelled_film_keeps_the_list_and_is_guessed(lab):
    lab.query.value = "alien"
    lab.query.value = "alienz"
    assert "did you mean Alien (1979)?" in lab.hint.value
    assert [row.item for row in lab.found[:3]] == [1, 2, None]


@pytest.mark.parametrize(
    ("item", "stars"),
    [
        (318, 5), (-1, 5), (1.5, 5), ("???", 5), ("", 5), (" ", 5), ("Shreck", 5),
        ("Alien", 6), ("Alien", -1), ("Alien", float("nan")), ("Alien", "5"),
    ],
)  # fmt: skip
def test_a_rating_that_fails_changes_nothing(lab, item, stars):
    shown = lab.rate("Shrek", 3).lists.value
    with pytest.raises((ValueError, IndexError, TypeError)):
        lab.rate(item, stars)
    assert lab.ratings == {5: 3.0} and lab.lists.value == shown
    assert lab.rate("Alien", 5).ratings == {5: 3.0, 1: 5.0}


def test_more_ratings_than_rows_still_count_until_all_are_forgotten():
    n, seen = N_ROWS + 3, []
    movies = pd.DataFrame({"title": map(str, range(n + 2)), "year": 2000, "genres": "x"})
    lab = RecommendLab(lambda *rated: seen.append(rated) or np.zeros(n + 2), movies, np.ones(n + 2))
    for i in range(n):
        lab.rate(i, 4)
    assert seen[-1][0].tolist() == [*range(n)] and set(seen[-1][1]) == {4.0}
    assert [row.item for row in lab.mine] == [*range(n - 1, n - 1 - N_ROWS, -1)]
    lab.forget.click()
    assert lab.ratings == {} and {row.item for row in lab.mine} == {None}


def test_scores_that_are_none_are_refused_on_screen(lab):
    for scores in (np.full(N, np.nan), np.zeros(3), np.r_[np.zeros(N - 1), np.nan]):
        lab._recommend = lambda items, stars, scores=scores: scores
        lab.rate("Alien", 5)
        assert 'role="alert"' in lab.status.value and f"each of {N} films" in lab.status.value
        assert lab.lists.value == ""
        with pytest.raises(ValueError, match="NaN in scores of shape"):
            lab.recommendations()


def test_titles_are_text_whatever_is_in_them():
    odd = ["$5 & <b>$10</b>", "line\nbreak", "شباب", "long " * 60, 1917, None, "x" * 200]
    films = MOVIES.assign(title=odd, year=["1999?", 2001, 2001.0, None, "", 1917, 2000])
    lab = RecommendLab(FoldInWeights(np.ones((N, N))), films.sort_values("genres"), POPULARITY)
    for text in (lab.lists.value, *(row.children[1].value for row in lab.found)):
        assert "<b>$" not in text and "\n" not in text
    assert "$5 &amp; &lt;b&gt;$10&lt;/b&gt;" in lab.lists.value and "1917" in lab.lists.value
    films = films.sort_values("genres").reset_index()  # by their place, not by the table's labels
    assert lab.items.names == Items(films, POPULARITY).names
    chart = FactorLab(films, POPULARITY, np.random.default_rng(0).normal(size=(N, 2)))
    assert bytes(chart.picture.value).startswith(b"\x89PNG") and "alert" not in chart.ends.value


# -- finding films --------------------------------------------------------------------------------


def test_a_search_is_easy_on_spelling():
    items = Items(MOVIES, POPULARITY)
    for text, titles in {
        "matrix": ["The Matrix"],
        "AMELIE": ["Amélie"],
        "story toy": ["Toy Story"],
        "2001": ["Shrek", "Amélie"],
        "": ["Toy Story", "The Matrix", "Aliens", "Alien", "Shrek", "Amélie", ""],
        "???": [],
        "no such film": [],
    }.items():
        assert [items.titles[i] for i in items.search(text, 9)] == titles, text


def test_articles_go_to_the_front():
    for stored, shown in {
        "Godfather: Part II, The": "The Godfather: Part II",
        "Bug's Life, A": "A Bug's Life",
        "Good, the Bad and the Ugly, The": "The Good, the Bad and the Ugly",
        "Lock, Stock & Two Smoking Barrels": "Lock, Stock & Two Smoking Barrels",
        "City of Lost Children, The (Cité, La)": "The City of Lost Children (Cité, La)",
    }.items():
        assert Items(MOVIES.assign(title=stored), POPULARITY).titles[0] == shown


def test_movies_and_vectors_in_another_shape_are_refused():
    with pytest.raises(ValueError, match="genres"):
        Items(MOVIES.drop(columns="genres"), POPULARITY)
    with pytest.raises(ValueError, match="7 rows and popularity 3"):
        Items(MOVIES, POPULARITY[:3])
    for before in (np.zeros((3, 2)), np.zeros(N), np.full((N, 2), np.nan)):
        with pytest.raises(ValueError, match="before training"):
            FactorLab(MOVIES, POPULARITY, np.zeros((N, 2)), before)


# -- the factor map -------------------------------------------------------------------------------


@pytest.fixture
def maps():
    after = np.zeros((N, 3))
    after[:, 0] = [3, 2, 1, 0, -1, -2, -3]
    after[:, 1] = [1, -1, 1, -1, 1, -1, 0]
    before = np.random.default_rng(0).normal(size=(N, 3))
    return FactorLab(MOVIES, POPULARITY, after, before)


def test_axes_are_single_factors_too_and_their_ends_are_named(maps):
    maps.across.label, maps.up.label = "factor 1", "factor 2"
    assert "<b>left:</b> <bdi" in maps.ends.value and ">Shrek (2001)" in maps.ends.value
    right = maps.ends.value.split("right:")[1]
    assert re.findall(r'ignore">(.*?)</bdi>', right)[:2] == ["The Matrix (1999)", "Alien (1979)"]
    assert "Horror centred at (+1.50, +0.00)" in maps.picture.tooltip
    maps.genres[0].value = "none"
    assert "Horror" not in maps.picture.tooltip


def test_before_and_after_are_different_maps(maps):
    after, before = maps.picture.tooltip, maps.figure("before training")
    assert maps.figure().alt == after != before.alt
    maps.when.value = "before training"
    assert maps.picture.tooltip == before.alt and maps.picture.value == before.png()


def test_a_searched_film_is_named_first_and_no_name_covers_another(maps):
    maps._vectors["after training"][:, :] = 0.0  # all in one place
    maps.query.value = "amelie"
    assert [t.get_text() for t in maps.figure().axes[0].texts] == ["Amélie (2001)"]


def test_the_most_rated_films_are_shown_and_one_factor_is_a_map_of_one_direction(monkeypatch):
    monkeypatch.setattr(factor_lab, "N_SHOWN", 3)
    lab = FactorLab(MOVIES, POPULARITY, np.arange(float(N))[:, None])
    items, points = lab.points()
    assert list(items) == [4, 0, 2] and points.shape == (3, 2) and not points[:, 1].any()
    assert np.ptp(points[:, 0]) == 4 and lab.across.options[-1] == ("factor 1", 2)


def test_the_projection_is_principal_components():
    vectors = np.random.default_rng(0).normal(size=(60, 5)) * [5, 3, 1, 1, 1]
    ours, (_, axes) = factor_lab.project(vectors), np.linalg.eigh(np.cov(vectors.T))
    theirs = (vectors - vectors.mean(0)) @ axes[:, :-3:-1]
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-9)
    # A model whose factors came out negative has the same map.
    np.testing.assert_allclose(factor_lab.project(vectors * [-1, 1, -1, 1, 1]), ours)
