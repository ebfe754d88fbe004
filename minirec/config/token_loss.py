"""Settings of the loss of the written tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from minirec.config.choices import TokenLoss
from minirec.config.section import Section

PER_GROUP = ("gspo", "dr_grpo")
"""The token losses that a step divides by its number of groups."""
OF_PAIRS = {
    "dpo": "reads only which rollout is the best and which the worst",
    "contrastive": "reads only the order of the rollouts",
}
"""The losses that compare rollouts in pairs, and what they read of the rewards."""


class TokenLossSettings(Section):
    """How rollouts and their rewards become a loss of the written tokens."""

    loss: TokenLoss = "grpo"
    """Loss of the written tokens, which compares rollouts by their rewards; supervised ranks right
    after the prompt, without rollouts, and maximises the probability of the target."""
    advantage_floor: float = Field(1e-3, gt=0)
    """Smallest standard deviation that the advantages of a group are divided by."""
    scale_advantage: bool = True
    """Whether advantages are divided by the standard deviation of their group."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """Probability ratios below 1 - clip_low are clipped."""
    clip_high: float = Field(0.28, gt=0)
    """Probability ratios above 1 + clip_high are clipped."""
    importance_cap: float = Field(2.0, ge=1)
    """Largest importance weight of a token; larger ones are truncated."""
    preference_beta: float = Field(0.1, gt=0)
    """How strongly the loss dpo holds the policy near its reference; other losses ignore it."""
    preference_reference: Literal["writer", "start"] = "writer"
    """Policy with which the loss dpo compares: the one that wrote the rollouts, or the start of the
    training, for one more forward pass. Other losses ignore it."""
    contrastive_margin: float = Field(0.01, gt=0)
    """How much likelier the better of two rollouts should be, in mean log-probability, times ln 2
    for neighbours in rank; only the loss contrastive reads it."""
    contrastive_weight: float = Field(1.0, gt=0)
    """Weight of the loss contrastive beside the item loss; other losses ignore it."""
    live_tokens: bool = False
    """Whether only the tokens of groups that are not dead divide the token loss, instead of all;
    costs one more forward pass."""
    kl_weight: float = Field(0.0, ge=0)
    """Weight of the KL to the start of the training in the loss; above 0 costs one more forward
    pass."""
    entropy_weight: float = Field(0.0, ge=0)
    """Weight of the entropy of written tokens, which the loss then raises."""
    credit: Literal["rollout", "prefill", "vine"] = "rollout"
    """Advantage of a written token: that of its rollout, or one that compares what would be earned
    before and after the chunk of the token: prefill by an answer that is forced there, vine by
    further completions from there."""
    credit_chunks: int = Field(2, ge=2)
    """Chunks of a rollout with an advantage of their own; each but one costs a forward pass, and
    with vine also completions."""
    credit_completions: int = Field(4, ge=1)
    """Completions that vine draws from each place between two chunks; they are not trained on."""
    credit_lambda: float | None = Field(None, ge=0, le=1)
    """How far a chunk answers for later ones: 0 only for its own gain, 1 for all that follows; null
    takes 1 for prefill, whose values need not be those of the policy, and 0 for vine."""
    weighting: Literal["none", "hard", "middle"] = "none"
    """Which groups count more in the losses: none alike, hard those with a low NDCG, middle those
    that are neither hopeless nor solved."""
    weighting_temperature: float = Field(1.0, ge=0.05)
    """Temperature of the weights of groups; a large one makes them alike."""
    weighting_most: float = Field(4.0, ge=1)
    """Largest weight of a group."""

    @property
    def rolls_out(self) -> bool:
        """Whether steps learn from rollouts and their rewards."""
        return self.loss != "supervised"

    @property
    def scales(self) -> bool:
        """Whether advantages are divided by the standard deviation of their group."""
        return self.scale_advantage and self.loss not in ("dr_grpo", "maxrl")

    @property
    def credit_decay(self) -> float:
        """`credit_lambda`, or what stands for null."""
        if self.credit_lambda is not None:
            return self.credit_lambda
        return 0.0 if self.credit == "vine" else 1.0

    @property
    def credit_draws(self) -> int:
        """The most completions for each rollout that `credit` asks for."""
        return self.credit_completions * (self.credit_chunks - 1) if self.credit == "vine" else 0

    @property
    def reads_start(self) -> bool:
        """Whether the loss needs the probabilities at the start of the training, in each step."""
        return self.kl_weight > 0 or (self.loss == "dpo" and self.preference_reference == "start")

    @model_validator(mode="after")
    def _check_token_loss(self) -> TokenLossSettings:
        if self.importance_cap < 1 + self.clip_high:
            raise ValueError(
                f"importance_cap {self.importance_cap:g} is below 1 + clip_high "
                f"{self.clip_high:g}, so that no ratio would ever reach the upper clip; raise it"
            )
        own = {"kl_weight": self.kl_weight, "entropy_weight": self.entropy_weight}
        regularised = [name for name, weight in own.items() if weight]
        if self.credit != "rollout" and self.loss in ("gspo", "maxrl"):
            raise ValueError(
                f"credit {self.credit} gives the tokens of a rollout different advantages, but "
                f"loss {self.loss} is defined for one advantage of a whole rollout; set credit to "
                f"rollout or choose another loss"
            )
        if self.credit != "rollout" and self.live_tokens:
            raise ValueError(
                f"live_tokens leaves out the tokens of groups with equal rewards, but with credit "
                f"{self.credit} these learn too; set live_tokens to false or credit to rollout"
            )
        if self.live_tokens and regularised:
            raise ValueError(
                f"{regularised[0]} counts the tokens of all groups, but live_tokens divides by "
                f"those of groups that are not dead; set {regularised[0]} to 0 or live_tokens to "
                f"false"
            )
        if self.live_tokens and self.loss in PER_GROUP:
            raise ValueError(
                f"live_tokens replaces the number of tokens that divides a loss, but loss "
                f"{self.loss} is divided by the number of groups; set live_tokens to false"
            )
        self._check_preference()
        return self

    def _check_preference(self) -> None:
        """Raise ValueError for settings of a token loss that losses of pairs have no place for."""
        if self.loss not in OF_PAIRS:
            return
        if self.live_tokens:
            raise ValueError(
                f"live_tokens divides a loss of tokens, but loss {self.loss} is one of pairs; set "
                f"live_tokens to false"
            )
        for name, neutral in (("weighting", "none"), ("credit", "rollout")):
            if getattr(self, name) != neutral:
                raise ValueError(
                    f"{name} {getattr(self, name)} changes the advantages of tokens, but loss "
                    f"{self.loss} {OF_PAIRS[self.loss]}; set {name} to {neutral}"
                )
