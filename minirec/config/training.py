"""Settings of a training."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from minirec.config.agreement import AgreementSettings

OF_ROLLOUTS = {
    "kl_weight": 0,
    "entropy_weight": 0,
    "weighting": "none",
    "credit": "rollout",
    "rollouts_first": None,
    "replays": 1,
    "imitate_best": 0,
    "unlabelled": 0,
    "consistency": 0,
}
"""Settings that only a training with rollouts has, with the values that switch them off."""


class TrainingConfig(AgreementSettings):
    """Curriculum GRPO (method, section 7), or supervision (section 10)."""

    replays: int = Field(1, ge=1)
    """Optimizer steps on the same rollouts; epochs count what is rolled out, so that a training has
    this many times as many steps."""
    reset_steps: int | None = Field(None, ge=1)
    """Steps between resets, which move the weights towards those of the start; null never
    resets."""
    reset_keep: float = Field(0.5, ge=0, lt=1)
    """Share of the learned change of the weights that a reset keeps; has no effect without
    reset_steps."""
    imitate_best: float = Field(0.0, ge=0)
    """Weight, in the last step on the same rollouts, of a loss that makes the best rollout of each
    group likelier; it rises from 0 in the first of these steps."""

    @property
    def compares_start(self) -> bool:
        """Whether the loss or the log compares the policy with the start of the training."""
        return self.kl_steps is not None or self.reads_start

    @property
    def reads_table(self) -> bool:
        """Whether a step needs the vectors of all items: for rewards, or as candidates."""
        return self.rolls_out or self.item_candidates == "catalogue"

    def steps_on(self, samples: int) -> int:
        """Optimizer steps of a training on a selection of `samples`."""
        if self.steps is not None:
            return self.steps
        return self.replays * math.ceil(self.epochs * samples / self.labelled_per_step)

    def draws(self, steps: int) -> int:
        """Batches of prompts that so many steps train."""
        return math.ceil(steps / self.replays)

    def writes(self, step: int) -> bool:
        """Whether a step draws new rollouts; the other steps replay those of the last draw."""
        return self.rolls_out and step % self.replays == 0

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        if not self.rolls_out:
            self._check_supervised()
        if self.checkpoint_steps % self.refresh_steps:
            raise ValueError(
                f"checkpoint_steps {self.checkpoint_steps} must be a multiple of "
                f"item_refresh_steps {self.refresh_steps}, so that a restart repeats the run"
            )
        if self.weighting != "none" and self.item_loss != "softmax":
            raise ValueError(
                f"weighting {self.weighting} multiplies advantages, but item_loss {self.item_loss} "
                f"has those of its own lists; set weighting to none or item_loss to softmax"
            )
        if self.credit == "vine" and self.replays > 1:
            raise ValueError(
                f"credit vine compares rewards with values of the policy that wrote the rollouts, "
                f"but replays {self.replays} rewards them by later policies; set replays to 1 or "
                f"credit to prefill"
            )
        if self.credit == "vine" and self.staleness:
            raise ValueError(
                "credit vine draws completions by the weights that wrote the rollouts, but with "
                "staleness 1 the engines have newer ones by then; set staleness to 0 or credit to "
                "prefill"
            )
        self._check_rollouts_first()
        self._check_replays()
        return self

    def _check_rollouts_first(self) -> None:
        """Raise ValueError where groups with equal rewards need all their rollouts."""
        first = self.rollouts_first
        if first is None:
            return
        if first >= self.rollouts_per_prompt:
            raise ValueError(
                f"rollouts_first {first} must be below rollouts_per_prompt "
                f"{self.rollouts_per_prompt}; lower it, or set it to null"
            )
        if self.unlabelled:
            raise ValueError(
                f"rollouts_first {first} waits for the rewards of the first rollouts, but prompts "
                f"of unlabelled {self.unlabelled:g} have no target yet; set unlabelled to 0 or "
                f"rollouts_first to null"
            )
        if self.staleness:
            raise ValueError(
                f"rollouts_first {first} waits for the rewards of the first rollouts, but "
                f"staleness 1 asks for all ahead of the step; set staleness to 0 or rollouts_first "
                f"to null"
            )
        if self.credit != "rollout":
            raise ValueError(
                f"rollouts_first {first} writes fewer rollouts where rewards are equal, but with "
                f"credit {self.credit} these groups learn too; set credit to rollout or "
                f"rollouts_first to null"
            )
        if self.item_loss != "softmax":
            raise ValueError(
                f"rollouts_first {first} writes fewer rollouts where rewards are equal, but with "
                f"item_loss {self.item_loss} these groups learn too; set item_loss to softmax or "
                f"rollouts_first to null"
            )
        own = {"kl_weight": self.kl_weight, "entropy_weight": self.entropy_weight}
        for name, weight in own.items():
            if weight:
                raise ValueError(
                    f"{name} {weight:g} counts the tokens of all groups alike, but rollouts_first "
                    f"{first} writes fewer where rewards are equal; set {name} to 0 or "
                    f"rollouts_first to null"
                )

    def _check_supervised(self) -> None:
        """Raise ValueError for settings that need rollouts."""
        if self.staleness:
            raise ValueError(
                "staleness 1 writes rollouts one step ahead, but loss supervised has no rollouts; "
                "set staleness to 0"
            )
        if self.kl_steps or self.max_log_ratio:
            name = "kl_steps" if self.kl_steps else "max_log_ratio"
            raise ValueError(
                f"{name} compares the probabilities of written tokens, but loss supervised has no "
                f"rollouts; set {name} to null"
            )
        if not self.update:
            raise ValueError(
                "update false only writes rollouts, but loss supervised has none; set update to "
                "true"
            )
        for name, value in OF_ROLLOUTS.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name} {getattr(self, name)} acts on rollouts, but loss supervised has none; "
                    f"set {name} to {'null' if value is None else value}"
                )

    def _check_replays(self) -> None:
        """Raise ValueError for replays and resets that the other settings contradict."""
        if self.imitate_best and self.replays == 1:
            raise ValueError(
                f"imitate_best {self.imitate_best:g} rises over the steps on the same rollouts, "
                f"but replays 1 makes only one; raise replays or set imitate_best to 0"
            )
        if self.reset_steps is not None and self.reset_steps % self.replays:
            raise ValueError(
                f"reset_steps {self.reset_steps} must be a multiple of replays {self.replays}, so "
                f"that a reset comes before new rollouts"
            )
        if self.reset_steps is not None and not self.update:
            raise ValueError("reset_steps changes weights, but update is false; set it to null")
        if self.replays == 1:
            return
        if self.staleness:
            raise ValueError(
                f"replays {self.replays} needs rollouts only in every {self.replays}. step, but "
                f"staleness 1 asks for them ahead of each step; set staleness to 0"
            )
        if self.checkpoint_steps % self.replays:
            raise ValueError(
                f"checkpoint_steps {self.checkpoint_steps} must be a multiple of replays "
                f"{self.replays}, so that a restart begins with new rollouts"
            )
        if self.max_log_ratio is not None:
            raise ValueError(
                f"max_log_ratio expects engine and trainer to have the same weights, but replays "
                f"{self.replays} trains on rollouts of older weights; set max_log_ratio to null"
            )
