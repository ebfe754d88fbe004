"""Each answer is made of items of the catalogue or new items; new items need only their text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.recommending import built
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.serving.recommender import Recommender
from minirec.config.run import Config
from minirec.model.passes import item_table
from minirec.prior.counts import Counts, Words
from minirec.prior.serving import ServedPrior

KNOWN = 9
NEW = (("n0", "red paper", "with lines"), ("n1", "a desk", ""))
ALL = KNOWN + len(NEW)
asked = st.tuples(
    st.lists(st.integers(0, ALL - 1), min_size=1, max_size=2 * ALL), st.integers(1, 2 * ALL)
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    vectors = torch.randn(KNOWN, 64, generator=torch.Generator().manual_seed(2))
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return built(tmp_path_factory.mktemp("valid"), vectors, new_items=NEW)


def variant(plain, folder, name):
    """The recommender with a prior of counts, or with another order of the best items."""
    if name == "plain":
        return plain
    if name == "prior":
        counts = Counts.of(
            user=np.array([0, 0]),
            item=np.array([1, 3]),
            last=np.array([1]),
            target=np.array([3]),
            words=Words.of([f"blue pen {i}" for i in range(KNOWN)]),
        )
        ServedPrior(counts.condensed(KNOWN), (10.0, 20.0, 0.5)).save(folder)
        return Recommender(replace(plain.spec, prior=str(folder)))
    settings = {"rerank": name} | ({"orders": 3, "orders_keep": 0} if name == "orders" else {})
    config = Config.model_validate({"evaluation": settings})
    return Recommender(replace(plain.spec, config=config))


@pytest.mark.parametrize("name", ["plain", "prior", "rise", "orders"])
def test_every_answer_is_valid(plain, tmp_path, name):
    recommender = variant(plain, tmp_path, name)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.lists(asked, min_size=1, max_size=5))
    def valid(questions):
        histories, top = [h for h, _ in questions], [k for _, k in questions]
        found = recommender.recommend(histories, top=top)
        assert len(found) == len(questions)
        for one, history, k in zip(found, histories, top, strict=True):
            assert len(set(one.items)) == len(one.items) == len(one.cosines)
            assert set(one.items) <= set(range(ALL)) - set(history)
            assert len(one.items) == min(k, ALL - len(set(history)))

    valid()


TITLES = [
    "red pen",
    "blue pen",
    "a desk",
    "red paper",
    "the paper",
    "the blue desk",
    "likes",
    "red",
]


def test_items_known_by_their_text_alone_rank_as_known_items(tmp_path):
    """A catalogue of which each half is new ranks as the whole catalogue, the first place too."""
    whole = built(tmp_path / "whole", torch.randn(len(TITLES), 64), titles=TITLES)
    vectors = item_table(whole.policy, [whole.encoder.item(title, "") for title in TITLES])
    whole.table = vectors
    histories = [[0], [1], [2, 1], [7, 3, 6], [4, 5]]
    expected = whole.recommend(histories, top=[len(TITLES)] * len(histories))
    new_at_first = set()
    for part in (range(4), range(4, 8)):
        known = [i for i in range(len(TITLES)) if i not in part]
        half = built(
            tmp_path / f"without-{part[0]}",
            vectors[known],
            titles=[TITLES[i] for i in known],
            new_items=[(f"new{i}", TITLES[i], "") for i in part],
        )
        place = {whole_id: half_id for half_id, whole_id in enumerate([*known, *part])}
        asked = [[place[i] for i in history] for history in histories]
        found = half.recommend(asked, top=[len(TITLES)] * len(histories))
        for one, right in zip(found, expected, strict=True):
            assert one.items == [place[i] for i in right.items]
            assert one.cosines == pytest.approx(right.cosines, abs=2e-4)
            new_at_first |= {right.items[0]} & set(part)
    assert new_at_first
