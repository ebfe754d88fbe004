"""Prompts without a target: how many, and what they do not go together with."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from minirec.config.run import Config
from minirec.config.training import TrainingConfig


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "supervised", "unlabelled": 0.5}, "unlabelled 0.5 acts on rollouts"),
        ({"loss": "supervised", "consistency": 0.5}, "consistency 0.5 acts on rollouts"),
        ({"unlabelled": 0.01}, "are 0 prompts"),
        ({"unlabelled": 0.99}, "are 32 prompts"),
        ({"unlabelled": 0.5, "item_candidates": "corrected"}, "targets that the rollouts choose"),
        ({"unlabelled": 0.5, "weighting": "hard"}, "the policy itself ranks first"),
        ({"unlabelled": 0.5, "loss": "dpo"}, "loss dpo reads only"),
        ({"unlabelled": 0.5, "loss": "contrastive"}, "loss contrastive reads only"),
        ({"unlabelled": 0.5, "credit": "vine"}, "finds its targets only then"),
        ({"unlabelled": 0.5, "rollouts_first": 2}, "have no target yet"),
    ],
)
def test_a_contradiction_is_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        TrainingConfig.model_validate(settings)


def test_a_horizon_needs_later_items():
    changes = {"reward": {"horizon": 3}, "training": {"unlabelled": 0.5}}
    with pytest.raises(ValidationError, match=r"training\.unlabelled 0\.5 finds one item"):
        Config.model_validate(changes)


def test_epochs_count_samples():
    half = TrainingConfig(prompts_per_step=8, prompts_per_micro_batch=8, unlabelled=0.5, epochs=1)
    assert (half.labelled_per_step, half.unlabelled_per_step) == (4, 4)
    assert half.steps_on(20) == 5
