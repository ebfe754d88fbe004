"""What a training worker optimises, from its settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.training.spec import TrainingSpec
from minirec.corpus.weights import load_factors
from minirec.prior.prior import Prior
from minirec.rl.likelihood import TextReward
from minirec.rl.reward import reward_function
from minirec.rl.rollouts import Objective
from minirec.selection.learnability import chance_level


def objective_of(
    spec: TrainingSpec,
    corpus: Path,
    *,
    items: int,
    answer: Sequence[int],
    prior: Prior | None,
    text_reward: TextReward | None,
) -> Objective:
    """The objective of a training on a corpus of `items`; a step takes `Objective.of_step`.

    Args:
        answer: token ids of the answer marker.
        text_reward: the reward of texts, from `actors.training.texts.text_reward`.
    """
    reward = spec.reward
    return Objective(
        training=spec.training,
        temperature=spec.model.temperature / (prior.scale if prior else 1),
        cutoff=reward.cutoff,
        reward=reward_function(reward.name, softmax_weight=reward.softmax_weight),
        prior=prior,
        factors=load_factors(corpus, reward.item_weight),
        longest=spec.longest,
        answer=answer,
        comparison_noise=reward.comparison_noise if reward.feedback == "comparison" else None,
        chance=chance_level(items, cutoff=reward.cutoff),
        text_reward=text_reward,
        text_weight=1.0 if reward.judge else reward.reference_weight,
    )
