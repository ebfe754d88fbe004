"""Metrics against hand-computed cases and ranx; references against a naive ranking."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minirec.evaluation.ranking import (
    bootstrap_means,
    per_sample,
    sample_groups,
    summarise,
    two_sided,
)
from minirec.evaluation.references import REFERENCES, reference_ranks
from minirec.prior.counts import Counts, Words


def metrics(ranks, **options):
    return {name: values.mean() for name, values in per_sample(ranks, **options).items()}


def test_metrics_by_hand():
    found = metrics(np.array([1, 3, 11]), cutoffs=(1, 5))
    assert found["hr@1"] == pytest.approx(1 / 3)
    assert found["hr@5"] == pytest.approx(2 / 3)
    assert found["ndcg@5"] == pytest.approx((1 + 0.5) / 3)
    assert found["ndcg@10"] == pytest.approx((1 + 0.5) / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 11) / 3)


@pytest.mark.slow
@pytest.mark.long  # ranx compiles each metric with numba
def test_metrics_equal_ranx():
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, 80, size=60)
    relevant, run = {}, {}
    for sample, rank in enumerate(ranks.tolist()):
        relevant[f"q{sample}"] = {f"d{rank}": 1}
        run[f"q{sample}"] = {f"d{place}": 1 / place for place in range(1, 81)}
    names = ["hit_rate@5", "ndcg@10", "mrr"]
    expected = ranx.evaluate(ranx.Qrels(relevant), ranx.Run(run), names)
    found = metrics(ranks)
    for name in names:
        ours = name.replace("hit_rate", "hr")
        assert found[ours] == pytest.approx(expected[name], abs=1e-12), name


def test_bootstrap_matches_the_standard_error_and_is_seeded():
    values = np.random.default_rng(0).normal(size=(400, 2))
    draws = {"users": np.arange(400), "resamples": 2000, "seed": 1}
    means = bootstrap_means(values, **draws)
    assert means.shape == (2000, 2)
    assert means.std(axis=0) == pytest.approx(values.std(axis=0) / math.sqrt(400), rel=0.06)
    assert np.array_equal(means, bootstrap_means(values, **draws))
    alone = bootstrap_means(values[:, :1], **draws)
    assert np.allclose(alone, means[:, :1], atol=1e-15)


def test_bootstrap_draws_users_with_all_their_samples():
    # User 0 has three samples of 1, user 1 one sample of 0: by hand 1, 3/4 and 0.
    drawn = bootstrap_means([[1], [0], [1], [1]], users=[0, 1, 0, 0], resamples=4000, seed=2)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0, 0.75, 1]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    with pytest.raises(ValueError, match="users has 2 rows; expected 4"):
        bootstrap_means([[1], [0], [1], [1]], users=[0, 1], resamples=10, seed=2)


def test_copies_of_a_sample_make_no_interval_narrower():
    values = np.random.default_rng(0).normal(size=(50, 1))
    once = bootstrap_means(values, users=np.arange(50), resamples=500, seed=1)
    users = np.repeat(np.arange(50), 9)
    often = bootstrap_means(np.repeat(values, 9, axis=0), users=users, resamples=500, seed=1)
    assert often == pytest.approx(once)


def test_two_sided_by_hand():
    assert two_sided(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9])) == pytest.approx(0.2)
    assert two_sided(np.array([-1.0, 1.0])) == 1


def test_summarise():
    rng = np.random.default_rng(0)
    base = rng.integers(1, 100, size=200)
    better = np.maximum(1, base // 3)
    groups = {"test": {"all": np.ones(200, bool), "none": np.zeros(200, bool)}}
    found = summarise(
        {"base": {"test": base}, "trained": {"test": better, "valid": better[:50]}},
        users={"test": np.arange(200), "valid": np.arange(50)},
        groups=groups,
        cutoffs=(5, 10),
        bootstrap=300,
        seed=3,
    )
    trained = found["policies"]["trained"]["test"]["ndcg@10"]
    assert trained["low"] < trained["mean"] < trained["high"]
    pair = found["paired"]["trained"]["test"]
    assert pair["versus"] == "base" and pair["low"] > 0 and pair["p"] == pytest.approx(2 / 301)
    assert pair["difference"] == pytest.approx(
        metrics(better)["ndcg@10"] - metrics(base)["ndcg@10"]
    )
    assert "base" not in found["paired"] and "valid" not in found["paired"]["trained"]
    assert found["breakdown"]["base"]["test"]["all"]["count"] == 200
    assert found["breakdown"]["base"]["test"]["none"] == {"count": 0, "ndcg@10": None}


def test_the_best_reference_is_chosen_on_valid():
    # NDCG@10 by hand: rank 1 gives 1, rank 3 gives 1/2, rank 11 gives 0.
    ranks = {
        "trained": {"valid": [1, 1], "test": [1, 3]},
        "a": {"valid": [3, 3], "test": [1, 1]},
        "b": {"valid": [1, 3], "test": [3, 11]},
    }
    users = {split: np.arange(2) for split in ("valid", "test")}
    found = summarise(ranks, users=users, groups={}, bootstrap=200, references=("a", "b", "c"))
    best = found["best_reference"]
    assert best["name"] == "b" and best["chosen_on"] == "valid" and [*best["paired"]] == ["trained"]
    pair = best["paired"]["trained"]["test"]
    assert pair["versus"] == "b" and pair["difference"] == pytest.approx(0.75 - 0.25)
    assert (pair["low"], pair["high"]) == pytest.approx((0.5, 0.5))  # 0.5 for both users
    assert "best_reference" not in summarise(ranks, users=users, groups={}, bootstrap=10)


def test_ranking_refusals():
    with pytest.raises(ValueError, match="ranks row 1 is 0"):
        per_sample(np.array([1, 0]))
    with pytest.raises(ValueError, match="integers"):
        per_sample(np.array([1.5]))
    with pytest.raises(ValueError, match="the same samples"):
        summarise(
            {"a": {"test": [1, 2]}, "b": {"test": [1]}}, users={"test": np.arange(2)}, groups={}
        )


def test_sample_groups():
    found = sample_groups(
        [0, 1, 2, 9], history=[[0], [2], [1, 2], []], train_counts=[0, 5, 9, 0, 0, 0, 0, 0, 0, 0]
    )
    assert found["warm"].tolist() == [False, True, True, False]
    assert found["repeat"].tolist() == [True, False, True, False]
    assert found["popularity 1"].tolist() == [False, False, True, False]
    assert found["popularity 10"].tolist() == [False, False, False, True]
    assert sum(found[f"popularity {d}"].sum() for d in range(1, 11)) == 4


def small_corpus(seed=0, users=40, items=25):
    rng = np.random.default_rng(seed)
    user, history, target = [], [], []
    for u in range(users):
        events = (rng.zipf(1.6, size=6) % items).tolist()
        for cut in range(1, len(events)):
            user.append(f"u{u}")
            history.append(events[:cut])
            target.append(events[cut])
    return user, history, target


def known_of(user, history, target, titles):
    """Counts of samples, and the (users, items) matrix of who has what."""
    users = sorted(set(user))
    having = np.zeros((len(users), len(titles)))
    for u, h, y in zip(user, history, target, strict=True):
        having[users.index(u), [*h, y]] = 1
    row, item = having.nonzero()
    with_history = [(h[-1], y) for h, y in zip(history, target, strict=True) if h]
    last, after = np.array(with_history, dtype=np.int64).reshape(-1, 2).T
    known = Counts.of(user=row, item=item, last=last, target=after, words=Words.of(titles))
    return known, having


def naive_rank(scores, target, history):
    """Rank by sortable scores, ties against the target."""
    rivals = [v for v in range(len(scores)) if v != target and v not in history]
    return 1 + sum(scores[v] >= scores[target] for v in rivals)


@pytest.mark.parametrize("block", [1, 7, 256])
def test_references_equal_a_naive_ranking(block):
    items = 25
    user, history, target = small_corpus()
    known, matrix = known_of(user, history, target, [""] * items)
    _, history, target = small_corpus(seed=5)
    counts = matrix.sum(axis=0)
    together = matrix.T @ matrix
    np.fill_diagonal(together, 0)
    cosine = together / np.sqrt(np.outer(np.maximum(counts, 1), np.maximum(counts, 1)))

    out = [[*h, (3 * y + 1) % items] for y, h in zip(target, history, strict=True)]
    asked = {"history": history, "target": target, "excluded": out, "block": block}
    popular = reference_ranks(REFERENCES["popularity"], known, **asked)
    similar = reference_ranks(REFERENCES["cooccurrence"], known, **asked)
    assert any(y in h for y, h in zip(target, history, strict=True))
    for i, (y, h) in enumerate(zip(target, history, strict=True)):
        assert popular[i] == naive_rank(counts, y, out[i])
        scores = cosine[:, sorted(set(h))].sum(axis=1).round(10)
        assert similar[i] == naive_rank(list(zip(scores, counts, strict=True)), y, out[i])


def test_an_item_of_the_target_s_time_is_no_rival_of_its_title():
    titles = ["red pen", "red cap", "red hat", "blue ink"]
    # Items 1 and 2 are equally similar to the history.
    assert by_titles(titles, [[0]], [2]) == [2]
    assert by_titles(titles, [[0]], [2], excluded=[[0, 1]]) == [1]


def by_titles(titles, history, target, block=256, excluded=None):
    known, _ = known_of([], [], [], titles)
    asked = {"history": history, "excluded": excluded or history, "target": target, "block": block}
    return reference_ranks(REFERENCES["title_likeness"], known, **asked).tolist()


def test_titles_are_ranked_by_the_words_they_share_with_the_recent_past():
    titles = ["red pen", "blue ink", "red cap", "blue cup", "green hat", "pen pen"]
    # Item 3 shares "blue" with the latest item, 1. Items 2 and 5 also share a word with the latest;
    # 5 has only "pen". Item 4 shares nothing, and ties count against it.
    assert by_titles(titles, [[0, 1], [1, 0], [0], [0]], [3, 3, 5, 4]) == [1, 3, 1, 5]


def test_a_title_is_not_alike_to_itself():
    titles = ["red pen", "red cap", "blue ink"]
    assert by_titles(titles, [[0], [0, 0, 1]], [0, 0]) == [3, 1]


@pytest.mark.parametrize("block", [1, 7, 256])
def test_likeness_of_titles_equals_a_naive_ranking(block):
    rng = np.random.default_rng(3)
    words = np.array(["ink", "pen", "cap", "a", "12", "Été"])
    titles = [" ".join(rng.choice(words, size=rng.integers(1, 5))) for _ in range(25)]
    _, history, target = small_corpus(seed=5)
    history[0] = []
    counts = np.array([[t.lower().split().count(w.lower()) for w in words] for t in titles])
    held = (counts > 0).sum(axis=0)
    weights = np.where(counts, 1 + np.log(np.maximum(counts, 1)), 0)
    vectors = weights * (np.log(26 / (1 + held)) + 1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, 0)
    found = by_titles(titles, history, target, block)
    for rank, y, h in zip(found, target, history, strict=True):
        scores = sum((cosine[i] / (1 + age) for age, i in enumerate(reversed(h))), np.zeros(25))
        assert rank == naive_rank(scores.round(10), y, h)


def test_titles_without_words_are_like_none():
    assert by_titles(["?!", "...", "-"], [[0], [0]], [1, 0]) == [2, 3]
    assert by_titles(["?!", "ink", "pen"], [[0], [1]], [1, 0]) == [2, 2]


def test_reference_refusals():
    titles = ["red pen", "blue ink"]
    with pytest.raises(ValueError, match=r"target entry 0 is 2; expected 0\.\.1"):
        by_titles(titles, [[1]], [2])
    with pytest.raises(ValueError, match="history has 2 rows; expected 1"):
        by_titles(titles, [[1], [0]], [0], excluded=[[1]])
    with pytest.raises(ValueError, match="excluded has 2 rows; expected 1"):
        by_titles(titles, [[1]], [0], excluded=[[1], [0]])


def test_value_is_ndcg_times_the_factor_of_the_target():
    # NDCG@10 by hand: rank 1 gives 1, rank 3 gives 1/2, rank 11 gives 0.
    found = per_sample([1, 3, 11], cutoffs=(5,), factors=[0.5, 3.0, 9.0])
    assert found["value@10"].tolist() == [0.5, 1.5, 0]
    assert found["ndcg@10"].tolist() == [1, 0.5, 0]
    assert "value@10" not in per_sample([1, 3, 11])
    with pytest.raises(ValueError, match="factors are .2,., ranks .3,.; expected the same"):
        per_sample([1, 3, 11], factors=[1.0, 2.0])


def test_value_has_its_own_tests_and_its_own_best_reference():
    ranks = {
        "base": {"valid": [11, 11], "test": [11, 11]},
        "trained": {"valid": [1, 1], "test": [1, 3]},
        "a": {"valid": [3, 1], "test": [1, 1]},
        "b": {"valid": [1, 11], "test": [3, 11]},
    }
    users = {split: np.arange(2) for split in ("valid", "test")}
    groups = {"test": {"second": [False, True]}}
    factors = {"valid": [4.0, 0.25], "test": [0.5, 3.0]}
    options = {"users": users, "groups": groups, "bootstrap": 200, "references": ("a", "b")}
    found = summarise(ranks, factors=factors, **options)
    value = found.pop("value")
    # On valid a has NDCG@10 3/4 and value@10 (2 + 1/4)/2, b has 1/2 and (4 + 0)/2.
    assert found["best_reference"]["name"] == "a" and value["best_reference"]["name"] == "b"
    test = found["policies"]["trained"]["test"].pop("value@10")
    assert test["mean"] == (0.5 * 1 + 3 * 0.5) / 2 and test["low"] == 0.5 and test["high"] == 1.5
    pair = value["paired"]["trained"]["test"]
    assert (pair["versus"], pair["metric"], pair["difference"]) == ("base", "value@10", 1.0)
    assert value["best_reference"]["paired"]["trained"]["test"]["difference"] == 1 - 0.25 / 2
    assert value["breakdown"]["trained"]["test"]["second"] == {"count": 1, "value@10": 1.5}
    for splits in found["policies"].values():
        for shown in splits.values():
            shown.pop("value@10", None)
    assert found == summarise(ranks, **options)
