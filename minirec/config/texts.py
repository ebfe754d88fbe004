"""What rewards that read the texts of rollouts do not go together with."""

from __future__ import annotations

from collections.abc import Mapping

from minirec.config.scoring import RewardConfig
from minirec.config.training import TrainingConfig


def check_texts(
    reward: RewardConfig, policy: TrainingConfig, trainings: Mapping[str, TrainingConfig]
) -> None:
    """Raise ValueError for a training that cannot take its rewards from texts.

    Args:
        policy: the training of the policy.
        trainings: all trainings of a run, by the names of their sections.
    """
    if not reward.reads_texts:
        return
    reads = f"reward.judge {reward.judge}" if reward.judge else f"reward.name {reward.name}"
    if not policy.rolls_out:
        raise ValueError(
            f"{reads} reads the texts of rollouts, but training.loss supervised has none; choose "
            f"another loss, or another reward"
        )
    for name, training in trainings.items():
        _check_training(reward, reads, name, training)


def _check_training(reward: RewardConfig, reads: str, name: str, training: TrainingConfig) -> None:
    if reward.judge and not training.rolls_out:
        return  # it earns nothing from texts
    if training.item_loss != "softmax":
        raise ValueError(
            f"{name}.item_loss {training.item_loss} rewards lists of items, but {reads} reads "
            f"texts; set item_loss to softmax"
        )
    if training.credit != "rollout":
        raise ValueError(
            f"{name}.credit {training.credit} needs rewards of parts of a rollout, but {reads} "
            f"reads whole texts; set credit to rollout"
        )
    if training.rollouts_first is not None:
        raise ValueError(
            f"{name}.rollouts_first {training.rollouts_first} looks at the ranks of the first "
            f"rollouts, but {reads} reads texts; set rollouts_first to null"
        )
    if training.loss == "maxrl" and reward.reads_reference:
        raise ValueError(
            f"{name}.loss maxrl needs rewards of at least 0, but {reads} is negative where a "
            f"rollout misleads; choose another loss"
        )
    if reward.judge and training.step_deadline_s <= reward.judge_deadline_s:
        raise ValueError(
            f"{name}.step_deadline_s {training.step_deadline_s:g} must exceed "
            f"reward.judge_deadline_s {reward.judge_deadline_s:g}, since a step waits for the judge"
        )
