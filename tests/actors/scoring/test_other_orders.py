"""Samples are ranked again for other orders of their histories."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.scoring import ITEMS, SAMPLES, spec_of

from actors.scoring.scorer import ShardScorer
from minirec.corpus.table import Sample
from minirec.evaluation.orders import order_figures


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    spec = replace(spec_of(tmp_path_factory.mktemp("orders"), pool=False), scoring=None)
    return ShardScorer(spec)


def ranked(scorer, samples=None, **changes):
    scorer.spec = replace(scorer.spec, orders=0, orders_keep=1, rerank="none")
    scorer.spec = replace(scorer.spec, **changes)
    return scorer.score(samples or scorer.samples.take(scorer.rows))


def test_the_ranks_themselves_stay(scorer):
    plain, more = ranked(scorer), ranked(scorer, orders=3)
    assert set(plain.column_names) < set(more.column_names)
    for name in plain.column_names:
        assert plain[name].to_pylist() == more[name].to_pylist()
    rank = np.array(more["order_rank"].to_pylist())
    assert rank.shape == (SAMPLES, 4)
    assert rank[:, 0].tolist() == plain["rank"].to_pylist()
    assert (rank[:, 1:] != rank[:, :1]).any()


def test_orders_that_move_nothing_change_nothing(scorer):
    """All events stay: every difference is 0."""
    table = ranked(scorer, orders=2, orders_keep=9)
    top, place, rank = (
        np.array(table[name].to_pylist()) for name in ("order_top", "order_place", "order_rank")
    )
    figures = order_figures(top, place, rank, users=np.arange(SAMPLES))
    assert figures["overlap@10"] == 1
    assert figures["ndcg_change"] == {"mean": 0, "low": 0, "high": 0}
    assert set(table["order_slots"].to_pylist()[0]) <= {0.0}


def test_an_order_is_ranked_as_a_sample_with_this_history(scorer):
    """With one event that moves there is one other order: the history of a sample, reversed."""
    sample = Sample(0, [4, 9], 20)
    table = ranked(scorer, [sample] * 2, orders=6, orders_keep=0)
    reverse = Sample(0, [9, 4], 20)
    own, other = (ranked(scorer, [one] * 2)["rank"].to_pylist()[0] for one in (sample, reverse))
    assert set(table["order_rank"].to_pylist()[0]) == {own, other}
    (top, *tops), (place, *_) = (
        table["order_top"].to_pylist()[0],
        table["order_place"].to_pylist()[0],
    )
    assert not {4, 9} & set(top)
    # The places of the first list in the second ranking, where the second list shows them.
    for at, item in enumerate(tops[0], start=1):
        if item in top:
            assert place[top.index(item)] == at
    assert len(table["order_slots"].to_pylist()[0]) == 2


def test_a_rank_over_orders_does_not_depend_on_the_shard(scorer):
    whole = ranked(scorer, orders=3, orders_keep=0, rerank="orders")["rank"].to_pylist()
    samples = scorer.samples.take(scorer.rows)
    assert whole != ranked(scorer)["rank"].to_pylist()
    part = ranked(scorer, samples[8:12], orders=3, orders_keep=0, rerank="orders")
    assert part["rank"].to_pylist() == whole[8:12]
    assert all(1 <= rank <= ITEMS for rank in whole)


def test_rise_ranks_the_shortlist_anew_and_leaves_the_rest(scorer):
    plain = np.array(ranked(scorer)["rank"].to_pylist())
    risen = np.array(ranked(scorer, rerank="rise")["rank"].to_pylist())
    assert (risen != plain).any()
    outside = plain > 20
    assert outside.any() and (risen[outside] == plain[outside]).all()
    assert (risen[~outside] <= 20).all()
    samples = scorer.samples.take(scorer.rows)
    part = ranked(scorer, samples[8:12], rerank="rise")
    assert part["rank"].to_pylist() == risen[8:12].tolist()
