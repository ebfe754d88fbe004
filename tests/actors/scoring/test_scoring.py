"""Scores a shard in this process: screen, control and the stages of rollouts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.scoring import ITEMS, SAMPLES, spec_of

from actors.scoring.scorer import ShardScorer
from minirec.config.scoring import ScoringConfig
from minirec.selection.learnability import chance_level

CHANCE = chance_level(ITEMS)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return ShardScorer(spec_of(tmp_path_factory.mktemp("scoring")))


def test_scored_and_ranked_samples_are_drawn_independently(scorer):
    """Otherwise a selection would be evaluated on the samples that it was chosen from."""
    part = replace(scorer.spec, limit=400)
    ranked = replace(part, scoring=None)
    assert part.rows(1000) == part.rows(1000) == sorted(set(part.rows(1000)))
    # 160 of 400 by chance, with a standard deviation of 7.6.
    assert 120 < len(set(part.rows(1000)) & set(ranked.rows(1000))) < 200


def scored(scorer, samples=None, **scoring):
    """Rows of the samples, by default of all."""
    scorer.spec = replace(scorer.spec, scoring=ScoringConfig(**scoring))
    return scorer.score(everyone(scorer) if samples is None else samples).to_pylist()


def everyone(scorer):
    return scorer.samples.take(scorer.rows)


@pytest.fixture(scope="module")
def full(scorer):
    return scored(scorer)


@pytest.fixture(scope="module")
def screen(scorer):
    """NDCG and unit hidden state of each sample's forced answer, one sample at a time."""
    found = []
    for sample in everyone(scorer):
        (prompt,) = scorer.encoder.prompts([sample], scorer.loaded.catalogue)
        hidden = scorer.policy([prompt + scorer.encoder.answer_ids])[0][0].numpy()
        scores = scorer.table.numpy() @ (hidden / np.linalg.norm(hidden))
        rivals = set(range(ITEMS)) - set(sample.history) - set(sample.same_time) - {sample.target}
        rank = 1 + sum(scores[i] >= scores[sample.target] for i in rivals)
        found.append((1 / np.log2(rank + 1), hidden / np.linalg.norm(hidden)))
    return found


def middle(screen) -> float:
    """A lift in the middle of those of the samples."""
    lifts = sorted({(gain - CHANCE) / (1 - CHANCE) for gain, _ in screen})
    return (lifts[len(lifts) // 2] + lifts[len(lifts) // 2 - 1]) / 2


def test_without_a_screen_each_sample_has_all_rollouts(scorer, full):
    assert [row["sample_id"] for row in full] == [3 * i for i in range(SAMPLES)]
    assert {len(row["rewards"]) for row in full} == {4}
    assert not any(row["screened"] or row["control"] for row in full)
    assert {row["screen_reward"] for row in full} == {row["screen_ndcg"] for row in full} == {None}
    for row in full:
        assert row["hits"] == sum(gain > CHANCE for gain in row["ndcg"])


@pytest.mark.parametrize("rollouts", [3, 4])
def test_the_rollout_gradient_is_zero_only_where_all_rollouts_earn_the_same(scorer, rollouts):
    rows = scored(scorer, rollouts=rollouts)
    # The rewards of equal completions may differ by rounding, so small differences are not tested.
    for row in rows:
        if np.ptp(row["rewards"]) == 0:
            assert not np.any(row["rollout_gradient"])
        elif np.ptp(row["rewards"]) > 1e-3:
            assert np.linalg.norm(row["rollout_gradient"]) > 0
    assert any(np.ptp(row["rewards"]) > 1e-3 for row in rows)


def test_the_screen_decides_by_the_forced_answer(scorer, full, screen):
    low = middle(screen)
    scorer.spec.pool.completions = 0
    rows = scored(scorer, screen="prefill", screen_band=(low, 1), control=0.3)
    far = [(gain - CHANCE) / (1 - CHANCE) < low for gain, _ in screen]
    assert [row["screened"] or row["control"] for row in rows] == far
    assert 0 < sum(row["control"] for row in rows) < sum(far) < SAMPLES
    for row, (gain, unit), other in zip(rows, screen, full, strict=True):
        assert row["screen_ndcg"] == pytest.approx(gain, abs=1e-6)
        if row["screened"]:
            for name in ("rewards", "ndcg", "completions", "tokens"):
                assert row[name] == []
            assert row["hits"] == row["rollout_tokens"] == 0
            np.testing.assert_allclose(row["embedding"], unit, atol=2e-3)
            assert np.linalg.norm(row["hvp"]) > 0
            assert not np.any(row["rollout_gradient"])
        else:
            same(row, other)
    rolled = sum(not row["screened"] for row in rows)
    assert scorer.spec.pool.completions == 5 * rolled


def same(row, other, *, rollouts: int = 4):
    """Check that the first rollouts are equal, and the features up to rounding."""
    assert row["tokens"] == other["tokens"][:rollouts]
    assert row["completions"] == other["completions"][:rollouts]
    np.testing.assert_allclose(row["rewards"], other["rewards"][:rollouts], atol=1e-5)
    of_rollouts = ["rollout_gradient"] if len(row["rewards"]) == len(other["rewards"]) else []
    for name in ("embedding", "gradient", "hvp", *of_rollouts):
        np.testing.assert_allclose(row[name], other[name], atol=2e-3, rtol=1e-3)


def test_a_sample_gets_the_second_stage_where_its_first_completions_disagree(scorer, full):
    scorer.spec = replace(scorer.spec, scoring=None)
    ranks = scorer.score(everyone(scorer))["rank"].to_numpy()
    first = np.array([row["ndcg"][:2] for row in full])
    seen = np.column_stack([1 / np.log2(ranks + 1), first])
    spread = seen.max(axis=1) - seen.min(axis=1)
    limit = float(np.sort(spread)[SAMPLES // 2 - 1 : SAMPLES // 2 + 1].mean())
    rows = scored(scorer, rollouts=(2, 4), doubt=limit)
    assert {len(row["rewards"]) for row in rows} == {2, 4}
    for row, other, doubtful in zip(rows, full, spread > limit, strict=True):
        same(row, other, rollouts=4 if doubtful else 2)
        assert len(row["rewards"]) == (4 if doubtful else 2)


def test_rows_do_not_depend_on_their_shard(scorer, screen):
    settings = {"screen": "prefill", "screen_band": (middle(screen), 1), "rollouts": (2, 4)}
    rows = scored(scorer, **settings)
    alone = [scored(scorer, [sample], **settings)[0] for sample in everyone(scorer)]
    for row, other in zip(rows, alone, strict=True):
        assert (row["screened"], row["control"]) == (other["screened"], other["control"])
        assert len(row["rewards"]) == len(other["rewards"])
        same(row, other)


def test_a_shard_of_screened_samples_asks_no_engine(scorer):
    scorer.spec.pool.completions = 0
    rows = scored(scorer, screen="prefill", screen_band=(1.5, 2), control=0)
    assert all(row["screened"] for row in rows) and scorer.spec.pool.completions == 0
    rows = scored(scorer, screen="prefill", screen_band=(1.5, 2), control=1)
    assert all(row["control"] and len(row["rewards"]) == 4 for row in rows)


def test_a_shard_is_written_with_the_same_bytes_again(scorer, screen):
    scoring = ScoringConfig(screen="prefill", screen_band=(middle(screen), 1), rollouts=(2, 4))
    scorer.spec = replace(scorer.spec, scoring=scoring)
    contents = []
    for _ in range(2):
        scorer.write(1)
        contents.append(scorer.spec.part(1).read_bytes())
    assert contents[0] == contents[1]


def test_without_engines_rank_and_rewards_are_those_of_the_forced_answer(scorer, screen):
    """`screen` ranks each sample by a forward pass of its own."""
    one = ShardScorer(replace(scorer.spec, pool=None, scoring=None), scorer.loaded)
    ranks = one.score(everyone(one)).to_pylist()
    found = [1 / np.log2(row["rank"] + 1) for row in ranks]
    assert found == pytest.approx([gain for gain, _ in screen])
    assert {(row["completion"], row["rollout_tokens"]) for row in ranks} == {("", 0)}
    rows = scored(one, rollouts=(2, 4))
    for row, (gain, unit) in zip(rows, screen, strict=True):
        assert row["ndcg"] == pytest.approx([gain])
        assert row["embedding"] == pytest.approx(unit, abs=1e-3)
        assert (row["completions"], row["tokens"], row["rollout_tokens"]) == ([""], [[]], 0)
        assert row["hits"] == (gain > CHANCE) and not np.any(row["rollout_gradient"])


def test_weights_of_items_scale_the_rollout_gradient_and_no_reward(scorer):
    samples = everyone(scorer)[:6]
    plain = scored(scorer, samples)
    scorer.factors = np.linspace(0.5, 3, ITEMS)
    try:
        weighted = scored(scorer, samples)
    finally:
        scorer.factors = None
    moved = 0
    for sample, one, other in zip(samples, plain, weighted, strict=True):
        expected = np.array(one["rollout_gradient"]) * np.linspace(0.5, 3, ITEMS)[sample.target]
        assert np.array(other["rollout_gradient"]) == pytest.approx(expected, rel=1e-5, abs=1e-12)
        moved += np.any(expected)
        for name in ("rewards", "ndcg", "hits", "gradient", "hvp", "el2n", "embedding"):
            assert one[name] == other[name]
    assert moved


@pytest.mark.parametrize("doubt", [None, 0.0])
def test_a_sample_costs_what_is_read_and_written_for_it(scorer, screen, doubt):
    """Counted again from the lengths of prompts and stored tokens. Without doubt there is one stage
    of two rollouts; else all samples but those with equal rewards have a second stage."""
    encoder, catalogue = scorer.encoder, scorer.loaded.catalogue
    answer, lift = len(encoder.answer_ids), middle(screen)
    stages = {"rollouts": 2} if doubt is None else {"rollouts": (2, 4), "doubt": doubt}
    rows = scored(scorer, screen="prefill", screen_band=(lift, 1.0), control=0.0, **stages)
    assert {row["screened"] for row in rows} == {True, False}
    for row, sample in zip(rows, everyone(scorer), strict=True):
        prompt = len(encoder.prompts([sample], catalogue)[0])
        expected, ending = prompt + answer, 0  # the screen
        if not row["screened"]:
            # The engine reads the prompt for the greedy completion and in each stage, the scorer
            # once in each stage: it packs. Completions get the marker where they lack it; the text
            # of the greedy one is not stored.
            open_ends = sum(not text.endswith("<answer>") for text in row["completions"])
            reads = len(row["rewards"]) // 2
            expected += (1 + 2 * reads) * prompt + 2 * row["rollout_tokens"] + open_ends * answer
            ending = answer
        if sample.sample_id == 0:
            expected += sum(map(len, encoder.items(catalogue)))
        assert row["forward_tokens"] - expected in (0, ending)
    if doubt is not None:
        assert 4 in {len(row["rewards"]) for row in rows}


def test_packed_and_separate_passes_give_the_same_features(scorer, full):
    """Without `Sharing` for its architecture, a policy reads the prompt again for each rollout."""
    sharing, scorer.policy.sharing = scorer.policy.sharing, None
    try:
        for row, other in zip(scored(scorer), full, strict=True):
            assert row["forward_tokens"] > other["forward_tokens"]
            same(row, other)
    finally:
        scorer.policy.sharing = sharing


def test_samples_that_the_policy_was_trained_on_are_marked(scorer):
    scorer.spec = replace(scorer.spec, trained=frozenset({3, 9, 999}))
    rows = scored(scorer, everyone(scorer)[:5], rollouts=2)
    scorer.spec = replace(scorer.spec, trained=frozenset())
    assert [row["in_sample"] for row in rows] == [False, True, False, True, False]
