"""Pairs of a history that a prompt shows, and the prompts that show them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from helpers.tiny import CONFIG, TITLES
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from minirec.config.run import Config
from minirec.corpus import prompts
from minirec.corpus.prompts import chosen_pairs
from minirec.corpus.table import Catalogue, Sample, load_catalogue, load_samples
from minirec.model.recommender import Encoder, shown
from minirec.store.files import write_json
from minirec.store.tables import write_table

SAMPLE = Sample(0, [0, 1, 3], 2, history_rating=[5.0, 3.0, 4.0])
CATALOGUE = Catalogue(TITLES, [""] * len(TITLES), "demo", choices=2)
PLAIN = Catalogue(TITLES, [""] * len(TITLES), "demo")


def test_the_most_recent_pairs_by_hand():
    """Ratings 5, 3, 4, 4: the last event comes with the second, then with the first; then the third
    with these, and the second with the first. The last two are alike."""
    history, ratings = [10, 11, 12, 13], [5, 3, 4, 4]
    every = [(3, 1), (0, 3), (2, 1), (0, 2), (0, 1)]
    for most in range(7):
        assert chosen_pairs(history, ratings, most=most) == every[:most]


def test_the_last_event_of_an_item_counts():
    assert chosen_pairs([7, 8, 7], [1, 3, 5], most=9) == [(2, 1)]
    assert chosen_pairs([7, 7], [1, 5], most=9) == []


def test_no_ratings_give_no_pairs():
    assert chosen_pairs([1, 2], [], most=5) == []


EVENTS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([1.0, 2.5, 4.0, float("nan")])))


@given(EVENTS, st.integers(0, 12))
def test_pairs_are_of_different_items_and_the_first_is_rated_higher(events, most):
    history, ratings = [item for item, _ in events], [rating for _, rating in events]
    found = chosen_pairs(history, ratings, most=most)
    assert len(found) <= most
    assert all(ratings[a] > ratings[b] and history[a] != history[b] for a, b in found)
    named = [{history[a], history[b]} for a, b in found]
    assert all(named.count(one) == 1 for one in named)
    later = [max(pair) for pair in found]
    assert later == sorted(later, reverse=True)
    assert found == chosen_pairs(history, ratings, most=most + 3)[: len(found)]


def test_the_lines_of_a_prompt():
    pairs = [(2, 1), (0, 2)]
    lines = "chose C over B\nchose A over C\n"
    assert prompts.chosen_lines(["A", "B", "C"], pairs) == lines
    assert prompts.plain(["A", "B", "C"], pairs=pairs) == f"History: A | B | C\n{lines}Likes:"
    said = prompts.instruction(["A", "B", "C"], category="x", pairs=pairs)
    assert f"3. C\nOf these, the customer\n{lines}Describe" in said


@pytest.mark.parametrize(
    "say", [prompts.plain, lambda t, **k: prompts.instruction(t, category="x", **k)]
)
def test_no_pairs_leave_a_prompt_as_it_is(say):
    assert say(["A", "B"], pairs=[]) == say(["A", "B"])
    assert "chose" not in say(["A", "B"])


def test_prompts_have_the_pairs_of_their_samples(encoder):
    (ids,), (plain,) = encoder.prompts([SAMPLE], CATALOGUE), encoder.prompts([SAMPLE], PLAIN)
    (unrated,) = encoder.prompts([Sample(0, [0, 1, 3], 2)], CATALOGUE)
    assert plain == unrated == encoder.prompt([TITLES[i] for i in SAMPLE.history])
    text = encoder.tokenizer.decode(ids)
    assert text == encoder.text(encoder.words(*shown(SAMPLE, CATALOGUE)))
    lines = [line for line in text.splitlines() if line.startswith("chose")]
    assert lines == [f"chose {TITLES[a]} over {TITLES[b]}" for a, b in ((3, 1), (0, 3))]


def test_a_prompt_that_is_too_long_loses_its_last_pairs_first(encoder, folder):
    titles, pairs = [TITLES[i] for i in (0, 1, 3)], [(2, 1), (0, 2), (0, 1)]
    whole = [len(encoder.prompt(titles, pairs[:count])) for count in range(4)]
    assert whole == sorted(set(whole))
    for limit in range(whole[0] - 8, whole[3] + 1):
        short = Encoder.load(
            str(folder), CONFIG.model_copy(update={"max_prompt_tokens": limit}), category="demo"
        )
        count = sum(size <= limit for size in whole[1:])
        expected = short.prompt(titles) if not count else encoder.prompt(titles, pairs[:count])
        assert short.prompt(titles, pairs) == expected
        if limit >= whole[0]:
            kept = short.words(titles, pairs)
            assert all(title in kept for title in titles) and kept.count("chose") == count


def test_titles_are_cut_in_the_lines_too(folder):
    config = CONFIG.model_copy(update={"max_item_tokens": 2})
    encoder = Encoder.load(str(folder), config, category="demo")
    long = [f"{title} and much more of it" for title in TITLES[:2]]
    cut = [encoder.cut(title, 2) for title in long]
    assert f"chose {cut[1]} over {cut[0]}\n" in encoder.words(long, [(1, 0)])


def test_ratings_and_number_come_from_the_corpus(tmp_path):
    items = {"item_id": [0, 1], "title": ["A", "B"], "text": ["", ""]}
    write_table(tmp_path / "items.parquet", pa.table(items))
    rows = {"sample_id": [4], "history": [[1, 0]], "history_rating": [[2.0, 3.0]], "target": [0]}
    write_table(tmp_path / "train.parquet", pa.table(rows))
    for facts, choices in (({}, 0), ({"choices": 3}, 3)):
        write_json(tmp_path / "corpus.json", {"category": "x"} | facts)
        assert load_catalogue(tmp_path).choices == choices
    (sample,) = load_samples(tmp_path, "train")
    assert shown(sample, load_catalogue(tmp_path)) == (["B", "A"], [(1, 0)])


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [({"orders": 2}, "moves the events"), ({"rerank": "rise"}, "without its pairs")],
)
def test_other_orders_of_a_history_are_refused(evaluation, said):
    settings = {"corpus": {"choices": 2}, "evaluation": evaluation}
    with pytest.raises(ValidationError, match=said):
        Config.model_validate(settings)
    settings["corpus"]["choices"] = 0
    assert Config.model_validate(settings)
