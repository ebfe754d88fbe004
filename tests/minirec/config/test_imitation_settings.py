"""Settings of experts and replays that contradict others are refused with the reason."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from minirec.config.run import Config
from minirec.config.training import TrainingConfig


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"expert": "table"}, "needs the file of expert_table"),
        ({"expert_table": "x.parquet"}, "does not read the file of expert_table"),
        ({"expert": "titles", "item_candidates": "corrected"}, "item_candidates corrected"),
        ({"imitate_best": 0.5}, "replays 1 makes only one"),
        ({"replays": 2, "reset_steps": 3}, "multiple of replays 2"),
        ({"reset_steps": 3, "update": False}, "update is false"),
        ({"replays": 2, "loss": "supervised"}, "loss supervised has none"),
        ({"replays": 2, "staleness": 1}, "staleness 1"),
        ({"replays": 3, "checkpoint_steps": 10}, "multiple of replays 3"),
        ({"loss": "dpo", "live_tokens": True}, "loss dpo is one of pairs"),
        ({"loss": "dpo", "weighting": "hard"}, "weighting hard changes the advantages of tokens"),
        ({"loss": "dpo", "credit": "prefill"}, "credit prefill changes the advantages of tokens"),
        ({"loss": "dpo", "credit": "vine"}, "credit vine changes the advantages of tokens"),
        ({"credit": "vine", "replays": 2}, "rewards them by later policies"),
        ({"credit": "vine", "staleness": 1}, "newer ones by then"),
        ({"credit": "vine", "live_tokens": True}, "with credit vine these learn too"),
        ({"credit": "vine", "loss": "supervised"}, "credit vine acts on rollouts"),
        ({"rollouts_first": 4}, "must be below rollouts_per_prompt 4"),
        ({"rollouts_first": 2, "staleness": 1}, "asks for all ahead"),
        ({"rollouts_first": 2, "loss": "supervised"}, "rollouts_first 2 acts on rollouts"),
        ({"rollouts_first": 2, "item_loss": "pairs"}, "item_loss pairs these groups learn"),
        ({"rollouts_first": 2, "credit": "vine"}, "credit vine these groups learn too"),
        ({"rollouts_first": 2, "kl_weight": 0.1}, "kl_weight 0.1 counts the tokens"),
        ({"item_loss": "pairs", "weighting": "hard"}, "has those of its own lists"),
        ({"replays": 2, "max_log_ratio": 1.0}, "older weights"),
    ],
)
def test_a_contradiction_is_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        TrainingConfig.model_validate(settings)


def test_replays_go_with_live_selection():
    settings = {"selection": {"mode": "live"}, "training": {"replays": 2}}
    training = Config.model_validate(settings).training
    assert [training.writes(step) for step in range(4)] == [True, False] * 2
    assert [training.draws(steps) for steps in range(5)] == [0, 1, 1, 2, 2]


def test_a_mean_over_orders_needs_orders():
    with pytest.raises(ValidationError, match="orders is 0"):
        Config.model_validate({"evaluation": {"rerank": "orders"}})


def test_lists_read_rewards_and_not_comparisons():
    changes = {"reward": {"feedback": "comparison"}, "training": {"item_loss": "pairs"}}
    with pytest.raises(ValidationError, match=r"training\.item_loss pairs reads the rewards"):
        Config.model_validate(changes)


@pytest.mark.parametrize("training", [{"rollouts_first": 2}, {"credit": "vine"}])
def test_comparisons_show_no_rewards(training):
    with pytest.raises(ValidationError, match="sees only which rollout is better"):
        Config.model_validate({"reward": {"feedback": "comparison"}, "training": training})


def test_dpo_goes_with_kl_entropy_and_comparisons():
    training = {"loss": "dpo", "kl_weight": 0.1, "entropy_weight": 0.1}
    config = Config.model_validate({"reward": {"feedback": "comparison"}, "training": training})
    assert config.training.reads_start
