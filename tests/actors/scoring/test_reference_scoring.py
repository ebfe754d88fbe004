"""Scoring with a reward that a reference LM computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.scoring import spec_of
from helpers.tiny_model import build_adapter

from actors.scoring.scorer import ShardScorer
from minirec.config.scoring import RewardConfig, ScoringConfig
from minirec.rl.likelihood import Likelihood

REWARD = RewardConfig(name="reference_likelihood", reference_weight=0.5)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    place = tmp_path_factory.mktemp("scoring")
    own = spec_of(place)
    adapter = build_adapter(own.model_path, place / "adapter", 1)
    return replace(own, adapter=adapter.path, policy_adapter=adapter)


def scorer_of(spec, tmp_path, **changes):
    """A scorer with an item table of its own, since an adapter that is not merged differs."""
    return ShardScorer(replace(spec, item_table=str(tmp_path / "items.npy"), **changes))


def rows(scorer):
    return scorer.score(scorer.samples.take(scorer.rows)).to_pylist()


@pytest.fixture(scope="module")
def base(spec, tmp_path_factory):
    scorer = scorer_of(spec, tmp_path_factory.mktemp("base"), reward=REWARD)
    return scorer, rows(scorer)


def test_the_reward_mixes_ranks_with_what_the_base_reads(spec, base, tmp_path):
    scorer, found = base
    ranks = rows(scorer_of(spec, tmp_path, reward=RewardConfig(name="ndcg")))
    frozen = scorer_of(spec, tmp_path, adapter=None).policy
    words = [*map(scorer.encoder.item_words, scorer.encoder.items(scorer.loaded.catalogue))]
    likelihood = Likelihood(words, scorer.encoder.answer_ids)
    samples = scorer.samples.take(scorer.rows)
    prompts = scorer.encoder.prompts(samples, scorer.loaded.catalogue)
    for sample, prompt, row, other in zip(samples, prompts, found, ranks, strict=True):
        assert row["completions"] == other["completions"]
        assert row["ndcg"] == pytest.approx(other["rewards"], abs=1e-5)
        group = scorer.encoder.group(sample, prompt, completions(row))
        told = likelihood(frozen, [group])[0].numpy()
        mean = 0.5 * np.array(row["ndcg"]) + 0.5 * told
        assert row["rewards"] == pytest.approx(mean, abs=1e-5)
        # The bare marker and each of the four rollouts, and the words of the target after each.
        assert row["forward_tokens"] >= other["forward_tokens"] + 5 * len(words[sample.target])


def completions(row):
    """The rollouts of a row, as engines give them."""
    from actors.engines.engine import Completion

    both = zip(row["completions"], row["tokens"], strict=True)
    return [Completion(t, ids, [0.0] * len(ids), t.endswith("<answer>")) for t, ids in both]


def test_rewards_differ_where_ranks_are_equal(base):
    _, found = base
    ndcg, rewards = (
        np.mean([np.ptp(row[name]) >= 1e-3 for row in found]) for name in ("ndcg", "rewards")
    )
    assert rewards > ndcg


def test_stages_have_the_rewards_of_one_stage(spec, base, tmp_path):
    scoring = ScoringConfig(rollouts=[2, 4], doubt=0.0)
    found = rows(scorer_of(spec, tmp_path, reward=REWARD, scoring=scoring))
    for row, whole in zip(found, base[1], strict=True):
        assert row["rewards"] == pytest.approx(whole["rewards"][: len(row["rewards"])], abs=1e-5)


def test_a_forced_answer_tells_nothing(spec, base, tmp_path):
    scoring = ScoringConfig(screen="prefill", screen_band=(0.0, 0.5))
    for row in rows(scorer_of(spec, tmp_path, reward=REWARD, scoring=scoring)):
        assert row["screen_reward"] == pytest.approx(0.5 * row["screen_ndcg"])


def test_only_scoring_with_the_base_keeps_the_adapter_apart(spec):
    other = replace(spec, reward=REWARD)
    assert spec.merges and not other.merges and other.policy != spec.policy
    assert replace(other, scoring=None).merges  # evaluation has no rewards
    folder = REWARD.model_copy(update={"reference": "/an/lm"})
    assert replace(spec, reward=folder).merges
