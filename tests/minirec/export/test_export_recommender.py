"""The recommender of an exported policy, with small catalogues and titles as people write them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny import CONFIG, TITLES

from minirec.corpus.table import Catalogue, Sample
from minirec.export import recommender as exported
from minirec.export.formats import example
from minirec.export.recommender import Recommender, find_items
from minirec.model.recommender import Encoder, shown

VECTORS = np.eye(32, dtype=np.float32)[[0, 1, 1, 2, 1]]  # items 1, 2 and 4 are the same


@pytest.fixture(scope="module")
def export(folder, tmp_path_factory):
    """A folder with five items, like those of `minirec export --to merged`."""
    made = tmp_path_factory.mktemp("export") / "x"
    shutil.copytree(folder, made)
    np.save(made / "items.npy", VECTORS)
    lines = [json.dumps({"item_id": i, "title": title}) for i, title in enumerate(TITLES)]
    (made / "items.jsonl").write_text("\n".join(lines) + "\n")
    settings = {
        "base": None,
        "category": "demo",
        "max_new_tokens": 4,
        "max_prompt_tokens": CONFIG.max_prompt_tokens,
        "max_item_tokens": CONFIG.max_item_tokens,
        "trust_remote_code": False,
    }
    (made / "recommender.json").write_text(json.dumps(settings))
    shutil.copy(exported.__file__, made / "recommender.py")
    return made


@pytest.fixture(scope="module")
def recommender(export):
    return Recommender(export)


@pytest.mark.parametrize(
    ("history", "top", "expected"),
    [
        ([0], 10, {1, 2, 3, 4}),
        ([0, 3, 0], 10, {1, 2, 4}),
        ([0, 1, 2], 10, {3, 4}),
        ([4, 3, 2, 1, 0], 10, set()),
        ([3], 5, {0, 1, 2, 4}),
    ],
)
def test_no_more_than_what_is_left(recommender, history, top, expected):
    ranked = recommender.rank(history, top=top)
    assert {item for item, _ in ranked} == expected and len(ranked) == len(expected)
    assert all(-1 <= cosine <= 1 for _, cosine in ranked)
    assert [cosine for _, cosine in ranked] == sorted((c for _, c in ranked), reverse=True)


@pytest.mark.parametrize("limit", [20, 30, 40, 60, 90])
def test_the_prompt_is_that_of_the_run(export, folder, limit):
    """Long titles come first: as many are dropped as the run drops, and no more."""
    config = CONFIG.model_copy(update={"max_prompt_tokens": limit, "max_item_tokens": 12})
    exported_one = Recommender(export)
    exported_one.settings |= {"max_prompt_tokens": limit, "max_item_tokens": 12}
    history = [*["robot dawn jazz robot dawn"] * 4, *["jazz"] * 8]
    _, expected = Encoder.load(str(folder), config, category="demo").fitting(history)
    assert exported_one._prompt(history) == expected


TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[assistant]"


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_the_prompt_has_the_pairs_of_the_training(export, folder, template):
    """With and without a chat template, and where some or all pairs do not fit."""

    def made(limit):
        config = CONFIG.model_copy(update={"max_prompt_tokens": limit})
        alone, encoder = Recommender(export), Encoder.load(str(folder), config, category="demo")
        alone.settings |= {"max_prompt_tokens": limit, "choices": 3}
        for tokenizer in (alone.tokenizer, encoder.tokenizer):
            tokenizer.chat_template = template
        return alone, encoder

    catalogue = Catalogue(TITLES, [""] * len(TITLES), "demo", choices=3)
    rated = Sample(0, [0, 3, 1], 2, history_rating=[3.0, 5.0, 4.0])
    titles, pairs = shown(rated, catalogue)
    assert pairs == [(1, 2), (2, 0), (1, 0)]
    _, roomy = made(1000)
    for count in range(4):
        alone, encoder = made(len(roomy.prompt(titles, pairs[:count])))
        read = []
        alone._analysis = lambda prompt, read=read: read.append(prompt) or []
        for sample in (rated, replace(rated, history_rating=[4.0] * 3), Sample(0, [0, 3, 1], 2)):
            ratings = sample.history_rating
            alone.rank(sample.history, top=1, ratings=ratings)
            (expected,) = encoder.prompts([sample], catalogue)
            text = encoder.tokenizer.decode(expected)
            assert read.pop() == expected
            assert text.count("chose ") == (count if sample is rated else 0)
            assert example(0, sample, encoder, catalogue).text == text


def test_ratings_have_no_effect_on_a_policy_that_was_trained_without(recommender):
    assert recommender.rank([0, 3], top=3, ratings=[1, 5]) == recommender.rank([0, 3], top=3)
    with pytest.raises(ValueError, match="1 ratings for 2 items; give one for each"):
        recommender.rank([0, 3], top=3, ratings=[1])


def test_equal_items_come_in_the_order_of_their_ids(recommender):
    items = [item for item, _ in recommender.rank([0], top=4)]
    assert [i for i in items if i in (1, 2, 4)] == [1, 2, 4]
    assert [item for item, _ in recommender.rank([0], top=2)] == items[:2]


@pytest.mark.parametrize(
    ("history", "top", "said"),
    [
        ([], 3, "the history is empty"),
        ([0, 5], 3, "5 is not an item id; expected 0 to 4"),
        ([-1], 3, "-1 is not an item id"),
        ([0], 0, "top is 0"),
    ],
)
def test_what_cannot_be_ranked_is_refused(recommender, history, top, said):
    with pytest.raises(ValueError, match=said):
        recommender.rank(history, top=top)


CATALOGUE = ["3,000 Miles", "Caf\u00e9", "Lamp", "Twice", "twice ", "A,  B"]


@pytest.mark.parametrize(
    ("title", "item"),
    [("3,000 Miles", 0), ("3, 000 miles", 0), ("Cafe\u0301", 1), (" LAMP", 2), ("a,b", 5)],
)
def test_titles_are_found_as_a_person_writes_them(title, item):
    assert find_items([title], CATALOGUE) == [item]


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("Lamps", "no item is titled 'Lamps'; near: 'Lamp'"),
        ("", "no item is titled ''; near: none"),
        ("TWICE", "2 items are titled 'TWICE', with the item ids 3, 4"),
    ],
)
def test_titles_that_name_no_item_or_several(title, said):
    with pytest.raises(ValueError, match=said):
        find_items(["Lamp", title], CATALOGUE)


def test_the_command_with_fewer_items_than_it_shows(export, monkeypatch, capsys):
    monkeypatch.setattr(exported, "__file__", str(export / "recommender.py"))
    for titles, lines in ((TITLES[:1], 4), (TITLES[:4], 1)):
        monkeypatch.setattr("sys.argv", ["recommender.py", *titles])
        exported.main()
        assert len(capsys.readouterr().out.splitlines()) == lines
    monkeypatch.setattr("sys.argv", ["recommender.py", *TITLES])
    exported.main()
    assert capsys.readouterr().out == "every item is in the history\n"


def test_without_an_analysis_nothing_is_written(export, folder):
    """The cosines are those of the state at <answer> right after the prompt."""
    one = Recommender(export)
    one.settings |= {"max_new_tokens": 0}
    one.lm.generate = None
    encoder = Encoder.load(str(folder), CONFIG, category="demo")
    ids = torch.tensor([encoder.prompt([TITLES[0], TITLES[3]]) + encoder.answer_ids])
    state = one.lm.base_model(input_ids=ids).last_hidden_state[0, -1].double().numpy()
    cosines = VECTORS @ (state / np.linalg.norm(state))
    ranked = dict(one.rank([0, 3], top=5))
    assert ranked == pytest.approx({i: cosines[i] for i in (1, 2, 4)})
