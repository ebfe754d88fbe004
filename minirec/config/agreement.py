"""Settings of what a training learns from agreement between the rollouts of a prompt."""

from __future__ import annotations

from pydantic import Field, model_validator

from minirec.config.item_loss import ItemLossSettings
from minirec.config.steps import StepSettings
from minirec.config.token_loss import OF_PAIRS, TokenLossSettings


class AgreementSettings(ItemLossSettings, TokenLossSettings, StepSettings):
    """Prompts without a target, and two rollouts that should say the same."""

    unlabelled: float = Field(0.0, ge=0, lt=1)
    """Share of the prompts of each step that have no target: a user's whole history in the train
    split. The item that most of its rollouts rank first is the target. Costs a forward pass of
    these prompts."""
    unlabelled_confidence: float = Field(0.5, gt=0, le=1)
    """Smallest share of the rollouts of a prompt without a target that must agree; the prompt
    counts as much as this share, or is dropped."""
    unlabelled_most: float = Field(0.125, gt=0, le=1)
    """Largest share of the prompts without a target for which the same item can count, because
    majorities elect bestsellers; 1 sets no limit."""
    consistency: float = Field(0.0, ge=0)
    """Weight of a loss that makes two rollouts of a prompt rank alike, and tells prompts apart;
    only in groups with equal rewards or without a target. Above 0 costs a forward pass of two
    rollouts of each prompt."""
    consistency_temperature: float = Field(0.1, gt=0)
    """Temperature of the softmax over the prompts of a step, which consistency tells apart."""

    @property
    def unlabelled_per_step(self) -> int:
        """Prompts of a step without a target."""
        return round(self.unlabelled * self.prompts_per_step)

    @property
    def labelled_per_step(self) -> int:
        """Prompts of a step that are samples of the train split."""
        return self.prompts_per_step - self.unlabelled_per_step

    @model_validator(mode="after")
    def _check_unlabelled(self) -> AgreementSettings:
        if not self.unlabelled:
            return self
        share = f"unlabelled {self.unlabelled:g}"
        if not 0 < self.unlabelled_per_step < self.prompts_per_step:
            raise ValueError(
                f"{share} of prompts_per_step {self.prompts_per_step} are "
                f"{self.unlabelled_per_step} prompts, but a step needs at least one with and one "
                f"without a target; change one of the two"
            )
        if self.item_candidates == "corrected":
            raise ValueError(
                f"{share} adds targets that the rollouts choose, but item_candidates corrected "
                f"counts how often samples have each target; set item_candidates to batch"
            )
        if self.weighting != "none":
            raise ValueError(
                f"weighting {self.weighting} compares how well prompts are ranked, but {share} "
                f"has targets that the policy itself ranks first; set weighting to none or "
                f"unlabelled to 0"
            )
        if self.loss in OF_PAIRS:
            raise ValueError(
                f"{share} counts prompts by how far their rollouts agree, but loss {self.loss} "
                f"{OF_PAIRS[self.loss]}; set unlabelled to 0 or choose another loss"
            )
        if self.credit == "vine":
            raise ValueError(
                f"credit vine rewards further completions right after the rollouts, but {share} "
                f"finds its targets only then; set credit to rollout or unlabelled to 0"
            )
        return self
