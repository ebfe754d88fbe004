"""Recommendations are complete, exclude the history, and have a fixed order."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
from helpers.recommending import built

from actors.serving.recommender import BATCH, Recommender
from minirec.config.run import Config
from minirec.corpus.table import Sample, load_catalogue
from minirec.evaluation.orders import orders_of
from minirec.prior.counts import Counts, Words
from minirec.prior.serving import ServedPrior
from minirec.store.files import write_json

ITEMS = 7
TWINS = {0, 2, 5, 6}


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    """Seven items, four of which have equal vectors."""
    vectors = torch.nn.functional.normalize(torch.randn(ITEMS, 64), dim=-1)
    for i in TWINS:
        vectors[i] = vectors[0]
    return built(tmp_path_factory.mktemp("recommending"), vectors)


def test_ratings_put_the_pairs_of_training_into_the_prompt(recommender, tmp_path):
    """The same histories with ratings, without, and where the corpus has no choices."""
    folder = tmp_path / "corpus"
    copytree(recommender.spec.corpus, folder)
    write_json(folder / "corpus.json", {"category": "pens", "choices": 2})
    chosen = Recommender(replace(recommender.spec, corpus=str(folder)))
    read, answers = [], chosen._answers
    chosen._answers = lambda prompts: read.append(prompts) or answers(prompts)
    histories, ratings = [[1, 3], [1, 3], [4, 1, 3]], [[2.0, 5.0], None, [1.0, 2.0, 2.0]]
    chosen.recommend(histories, top=[3] * 3, ratings=ratings)
    catalogue = load_catalogue(folder)
    samples = [
        Sample(0, history, 0, history_rating=given or [])
        for history, given in zip(histories, ratings, strict=True)
    ]
    assert read == [chosen.encoder.prompts(samples, catalogue)]
    text = chosen.encoder.tokenizer.decode(read[0][0])
    assert "chose blue pen 3 over blue pen 1" in text
    plain = recommender.recommend(histories, top=[3] * 3)
    assert recommender.recommend(histories, top=[3] * 3, ratings=ratings) == plain


def with_counts(recommender, folder, **options):
    """The recommender with a prior of one user, who took item 1 and then item 3."""
    counts = Counts.of(
        user=np.array([0, 0]),
        item=np.array([1, 3]),
        last=np.array([1]),
        target=np.array([3]),
        words=Words.of([f"blue pen {i}" for i in range(ITEMS)]),
    )
    ServedPrior(counts.condensed(ITEMS), (10.0, 20.0, 0.5)).save(folder)
    return Recommender(replace(recommender.spec, prior=str(folder), **options))


@pytest.mark.parametrize("prior", [False, True])
def test_equal_items_come_in_the_order_of_their_ids_in_every_batch(recommender, tmp_path, prior):
    """Longer histories in a batch change the shapes of all products."""
    recommender = with_counts(recommender, tmp_path) if prior else recommender
    draw = random.Random(3)
    histories = [[draw.choice([1, 3, 4]) for _ in range(1 + i % 9)] for i in range(2 * BATCH + 3)]
    alone = [recommender.recommend([h], top=[ITEMS])[0].items for h in histories]
    together = recommender.recommend(histories, top=[ITEMS] * len(histories))
    assert [found.items for found in together] == alone
    for items in alone:
        assert [i for i in items if i in TWINS] == sorted(TWINS)
    for top in range(1, ITEMS):
        fewer = recommender.recommend(histories[:9], top=[top] * 9)
        assert [found.items for found in fewer] == [items[:top] for items in alone[:9]]


def test_the_order_is_that_of_float64_where_float32_cannot_tell(tmp_path):
    """400 vectors differ in their seventh decimal. A float32 product orders them at random."""
    draw = torch.Generator().manual_seed(0)
    near = torch.randn(1, 64, generator=draw) + 3e-7 * torch.randn(400, 64, generator=draw)
    recommender = built(tmp_path, torch.nn.functional.normalize(near, dim=-1))
    histories = [[3], [7, 8], [399, 0, 1]]
    prompts = [recommender.encoder.prompt([recommender.titles[i] for i in h]) for h in histories]
    with torch.no_grad():
        hidden = recommender.policy([[*p, *recommender.encoder.answer_ids] for p in prompts])[0]
    unit = torch.nn.functional.normalize(hidden.double(), dim=-1)
    exact = (unit @ recommender.table.double().T).round(decimals=10)
    rough = unit.float() @ recommender.table.T
    differs = False
    for top in (1, 10, 400):
        found = recommender.recommend(histories, top=[top] * len(histories))
        for one, scores, history, roughly in zip(found, exact, histories, rough, strict=True):
            left = [i for i in range(400) if i not in history]
            assert one.items == sorted(left, key=lambda i: (-float(scores[i]), i))[:top]
            differs |= one.items != sorted(left, key=lambda i: (-float(roughly[i]), i))[:top]
    assert differs


def test_a_prior_is_added_to_the_cosine(recommender, tmp_path):
    prior = with_counts(recommender, tmp_path, config=Config(model={"temperature": 0.1}))
    (found,) = prior.recommend([[1]], top=[ITEMS])
    (plain,) = recommender.recommend([[1]], top=[ITEMS])
    cosine = dict(zip(plain.items, plain.cosines, strict=True))
    assert dict(zip(found.items, found.cosines, strict=True)) == cosine
    assert plain.scores is None and found.scores == sorted(found.scores, reverse=True)
    # Titles share two words that all have (idf 1); the own number has idf 1 + log(8 / 2).
    likeness = 2 / (2 + (1 + math.log(4)) ** 2)
    for item, score in zip(found.items, found.scores, strict=True):
        counts = 10 + 20 if item == 3 else 0
        assert score == pytest.approx(cosine[item] / 0.1 + counts + 0.5 * likeness, abs=2e-3)
    assert found.items[0] == 3
    assert [i for i in found.items if i in TWINS] == sorted(TWINS)


def test_a_history_without_events_or_words_has_no_prior(recommender, tmp_path):
    items = (("n", "???", ""), ("m", "blue pen 3", ""))
    prior = with_counts(recommender, tmp_path, new_items=items)
    (found,) = prior.recommend([[ITEMS]], top=[ITEMS])
    tau = prior.config.model.temperature
    assert found.scores == pytest.approx([c / tau for c in found.cosines], abs=1e-4 / tau)
    # A new item has the likeness of its title: that of item 3 has the words of item 3.
    (likeness,) = prior.prior.counts.parts([[3]])[2]
    assert likeness[ITEMS + 1] == likeness[3] == 1 and likeness[ITEMS] == 0


def test_no_more_than_the_remaining_items(recommender):
    histories = [[0], [0, 0, 3], list(range(ITEMS)), [6, 5, 4, 3, 2, 1]]
    found = recommender.recommend(histories, top=[1000, 2, 5, 5])
    assert [len(one.items) for one in found] == [6, 2, 0, 1]
    assert sorted(found[0].items) == [1, 2, 3, 4, 5, 6]
    assert found[3].items == [0]
    assert all(-1 <= cosine <= 1 for one in found for cosine in one.cosines)
    assert recommender.recommend([], top=[]) == []


def test_a_policy_without_an_analysis_ranks_right_after_the_prompt(recommender):
    warm = {"policy": "warm"}
    config = Config(rollout={"max_new_tokens": 0}, training={"loss": "supervised"}, scoring=warm)
    one = Recommender(replace(recommender.spec, config=config, analysis=True))
    assert one.engine is None
    assert one.recommend([[1, 3]], top=[ITEMS]) == recommender.recommend([[1, 3]], top=[ITEMS])


def test_recommendations_over_the_orders_of_a_history(tmp_path):
    """Two events have two orders. The mean of their unit hidden states ranks."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(ITEMS, 64, generator=generator), dim=-1)
    one = built(tmp_path, vectors)
    (plain,) = one.recommend([[1, 3]], top=[5])
    settings = {"orders": 3, "orders_keep": 2, "rerank": "orders"}
    one.config = Config.model_validate({"evaluation": settings})
    assert one.recommend([[1, 3]], top=[5]) == [plain]  # all events stay
    one.config = Config.model_validate({"evaluation": settings | {"orders_keep": 0}})
    (found,) = one.recommend([[1, 3]], top=[5])
    drawn = orders_of([1, 3], fitting=2, orders=3, keep=0, seed=one.config.seed)
    with torch.no_grad():
        states = [one._read([[(1, 3)[at] for at in order]])[0] for order in ([0, 1], *drawn)]
    unit = torch.nn.functional.normalize(torch.cat(states), dim=-1).mean(0)
    cosines = vectors @ torch.nn.functional.normalize(unit, dim=0)
    cosines[[1, 3]] = -torch.inf
    assert found.items == cosines.argsort(descending=True)[:5].tolist()
    assert found.cosines == pytest.approx(cosines[found.items].tolist(), abs=1e-4)


def test_rise_recommends_the_same_items_in_its_own_order(tmp_path):
    generator = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(ITEMS, 64, generator=generator), dim=-1)
    one = built(tmp_path, vectors)
    (plain,) = one.recommend([[1, 3]], top=[5])
    one.config = Config.model_validate({"evaluation": {"rerank": "rise"}})
    (found,) = one.recommend([[1, 3]], top=[5])
    assert sorted(found.items) == sorted(plain.items)  # all that are not in the history
    assert dict(zip(found.items, found.cosines, strict=True)) == dict(
        zip(plain.items, plain.cosines, strict=True)
    )
    (first,) = one.recommend([[1, 3]], top=[2])
    assert first.items == found.items[:2]
