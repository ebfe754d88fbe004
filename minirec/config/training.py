"""Settings of a training."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from minirec.config.choices import ItemCandidates, TokenLoss
from minirec.config.section import PathText, Section

OF_ROLLOUTS = {
    "kl_weight": 0,
    "entropy_weight": 0,
    "weighting": "none",
    "credit": "rollout",
    "replays": 1,
    "imitate_best": 0,
}
"""Settings that only a training with rollouts has, with the values that switch them off."""
PER_GROUP = ("gspo", "dr_grpo")
"""The token losses that a step divides by its number of groups."""


class TrainingConfig(Section):
    """Curriculum GRPO (method, section 7), or supervision (section 10)."""

    loss: TokenLoss = "grpo"
    """Loss of the written tokens, which compares rollouts by their rewards; supervised ranks right
    after the prompt, without rollouts, and maximises the probability of the target."""
    start: Literal["base", "proxy", "warm"] = "base"
    """Weights that training starts from: the base model, or the adapter of the proxy or of the warm
    start."""
    steps: int | None = Field(None, ge=1)
    """Number of optimizer steps; null computes it from epochs."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the samples of the stage; has no effect if steps is set."""
    token_limit: int | None = Field(None, ge=1)
    """Cost in forward-equivalent tokens at which no further step begins; steps or epochs stay the
    upper limit, and validations do not count; null sets no limit."""
    prompts_per_step: int = Field(32, ge=1)
    """Number of prompts in an optimizer step, over all workers."""
    update: bool = True
    """Whether steps change the weights; false only writes and rewards rollouts, to look at the
    engines alone (with rollout.save it keeps them)."""
    rollouts_per_prompt: int = Field(4, ge=2)
    """Rollouts of each prompt, G, the size of a GRPO group."""
    prompts_per_micro_batch: int = Field(16, ge=1)
    """Number of prompts in one pass of a worker; bounds its memory and changes only rounding."""
    tokens_per_micro_batch: int | None = Field(None, ge=1)
    """Tokens in one pass of a worker, padding included; a step is divided into as many passes as
    this asks for, and changes only by rounding; null sets no limit."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Whether the backward pass computes activations again instead of keeping them; auto does so
    where they would not fit into the memory of a worker."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate; null takes 2e-3 for the demo model and 1e-4 for others."""
    lr_warmup_steps: int = Field(3, ge=0)
    """Steps over which the learning rate rises to its peak."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Learning rate after warm-up; linear and cosine decrease it to 0."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of the AdamW optimizer."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient; longer gradients are clipped."""
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
    live_tokens: bool = False
    """Whether only the tokens of groups that are not dead divide the token loss, instead of all;
    costs one more forward pass."""
    kl_weight: float = Field(0.0, ge=0)
    """Weight of the KL to the start of the training in the loss; above 0 costs one more forward
    pass."""
    entropy_weight: float = Field(0.0, ge=0)
    """Weight of the entropy of written tokens, which the loss then raises."""
    credit: Literal["rollout", "prefill"] = "rollout"
    """Advantage of a written token: that of its rollout, or prefill, which compares what an answer
    would earn before and after the chunk of the token."""
    credit_chunks: int = Field(2, ge=2)
    """Chunks of a rollout with an advantage of their own; each but one costs a forward pass."""
    credit_lambda: float = Field(1.0, ge=0, le=1)
    """How far a chunk answers for later ones: 0 only for its own gain, 1 for all that follows."""
    weighting: Literal["none", "hard", "middle"] = "none"
    """Which groups count more in the losses: none alike, hard those with a low NDCG, middle those
    that are neither hopeless nor solved."""
    weighting_temperature: float = Field(1.0, ge=0.05)
    """Temperature of the weights of groups; a large one makes them alike."""
    weighting_most: float = Field(4.0, ge=1)
    """Largest weight of a group."""
    staleness: Literal[0, 1] = 0
    """Number of updates by which rollouts are behind; 1 writes the rollouts of the next step during
    training."""
    item_candidates: ItemCandidates = "batch"
    """Items with which the item loss compares the target."""
    item_negatives: int | None = Field(0, ge=0)
    """Random other items that join the targets of a step as candidates, with gradient; null takes
    all items."""
    expert: Literal["none", "cooccurrence", "titles", "shortcut", "table"] = "none"
    """Who shows further items that the policy should score highly: a recommender that is counted
    from other users (cooccurrence, shortcut) or from titles, or a table of your own; none: nobody.
    """
    expert_table: PathText | None = None
    """Parquet file for expert table, with the columns sample_id, item (both as in the corpus of the
    run) and probability; a sample without a row has no expert."""
    expert_items: int = Field(4, ge=1)
    """Number of the expert's best items of each sample; has no effect without an expert."""
    expert_weight: float = Field(0.5, gt=0)
    """Weight of the expert's items in the loss; lr_schedule decreases it like the learning rate.
    It has no effect without an expert."""
    expert_alpha: float = Field(0.25, ge=0, le=1)
    """Whom the loss follows: 1 follows the expert where it ranks the target well, 0 where the
    policy is far from it. It has no effect without an expert."""
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
    item_refresh_steps: PositiveInt | Literal["auto"] = "auto"
    """Steps between updates of the item vectors for the ranking of rollouts; auto takes as many as
    keep their encoding at a quarter of the cost of a step, but at most checkpoint_steps."""
    item_loss: Literal["softmax", "plackett_luce", "pairs"] = "softmax"
    """softmax raises the target's probability; plackett_luce and pairs draw lists of the candidates
    and raise the better ones, in groups without any spread of rewards too."""
    rankings: int = Field(8, ge=2)
    """Lists that are drawn for each prompt; has no effect with item_loss softmax."""
    ranking_depth: int = Field(10, ge=1)
    """Places of a drawn list; a target beyond them earns nothing."""
    ranking_temperature: float = Field(0.1, gt=0)
    """Temperature of the scores from which lists are drawn; a higher one spreads them more."""
    checkpoint_steps: int = Field(10, ge=1)
    """Steps between checkpoints."""
    max_failures: int = Field(3, ge=0)
    """How often failed training workers are restarted before the run ends."""
    step_deadline_s: float = Field(900, gt=0)
    """Seconds that one step, or the start of a worker, may take."""
    validation_steps: int | None = Field(None, ge=1)
    """Steps between validations; the last step is always validated; null turns validation off."""
    validation_samples: int = Field(256, ge=1)
    """Number of validation samples, drawn at random."""
    validation_seed: int | None = Field(None, ge=0)
    """Seed of the draw of validation samples; null takes the seed of the run."""
    max_log_ratio: float | None = Field(None, gt=0)
    """Largest mean of |log p of the trainer - log p of the engine| over the tokens of a step; a
    larger one ends the training, because the two compute different policies; null sets no limit."""
    kl_steps: int | None = Field(None, ge=1)
    """Steps between estimates of KL(policy || start of the training) for the log, of two forward
    passes each; null makes none."""
    patience: int | None = Field(None, ge=1)
    """Validations without an improvement after which training stops and keeps the best adapter;
    null trains all steps and keeps the last adapter."""

    @property
    def rolls_out(self) -> bool:
        """Whether steps learn from rollouts and their rewards."""
        return self.loss != "supervised"

    @property
    def scales(self) -> bool:
        """Whether advantages are divided by the standard deviation of their group."""
        return self.scale_advantage and self.loss not in ("dr_grpo", "maxrl")

    @property
    def reads_start(self) -> bool:
        """Whether the loss needs the probabilities at the start of the training, in each step."""
        return self.kl_weight > 0 or (self.loss == "dpo" and self.preference_reference == "start")

    @property
    def compares_start(self) -> bool:
        """Whether the loss or the log compares the policy with the start of the training."""
        return self.kl_steps is not None or self.reads_start

    @property
    def reads_table(self) -> bool:
        """Whether a step needs the vectors of all items: for rewards, or as candidates."""
        return self.rolls_out or self.item_candidates == "catalogue"

    def measures_kl(self, step: int) -> bool:
        """Whether the log of this step has an estimate of the KL to the start."""
        return self.kl_steps is not None and step % self.kl_steps == 0

    def steps_on(self, samples: int) -> int:
        """Optimizer steps of a training on a selection of `samples`."""
        if self.steps is not None:
            return self.steps
        return self.replays * math.ceil(self.epochs * samples / self.prompts_per_step)

    def writes(self, step: int) -> bool:
        """Whether a step draws new rollouts; the other steps replay those of the last draw."""
        return self.rolls_out and step % self.replays == 0

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        self.check_workers(1)
        if self.patience and not self.validation_steps:
            raise ValueError(
                f"patience {self.patience} counts validations, but validation is off; set "
                f"validation_steps"
            )
        refresh = 1 if self.item_refresh_steps == "auto" else self.item_refresh_steps
        if self.item_candidates == "catalogue" and refresh > 1:
            raise ValueError(
                f"item_candidates catalogue compares new vectors of targets with vectors of other "
                f"items that are up to {refresh - 1} steps older; set "
                f"item_refresh_steps to 1 or item_candidates to batch"
            )
        if self.item_negatives != 0 and self.item_candidates != "batch":
            raise ValueError(
                f"item_negatives {_shown(self.item_negatives)} joins the targets of a step, but "
                f"item_candidates {self.item_candidates} does not count with other items; set "
                f"item_candidates to batch or item_negatives to 0"
            )
        if self.item_loss != "softmax" and self.item_candidates == "catalogue":
            raise ValueError(
                f"item_loss {self.item_loss} draws lists of {self.ranking_depth} candidates, of "
                f"which hardly any holds the target with item_candidates catalogue; set "
                f"item_candidates to batch"
            )
        if self.item_loss == "pairs" and self.rankings % 2:
            raise ValueError(
                f"item_loss pairs compares lists in pairs, but rankings {self.rankings} is odd; "
                f"set rankings to {self.rankings + 1}"
            )
        if not self.rolls_out and self.staleness:
            raise ValueError(
                "staleness 1 writes rollouts one step ahead, but loss supervised has no rollouts; "
                "set staleness to 0"
            )
        if not self.rolls_out and (self.kl_steps or self.max_log_ratio):
            name = "kl_steps" if self.kl_steps else "max_log_ratio"
            raise ValueError(
                f"{name} compares the probabilities of written tokens, but loss supervised has no "
                f"rollouts; set {name} to null"
            )
        self._check_token_loss()
        if self.staleness and self.max_log_ratio:
            raise ValueError(
                "max_log_ratio expects engine and trainer to have the same weights, but with "
                "staleness 1 rollouts are one update old; set max_log_ratio to null"
            )
        if not self.rolls_out and not self.update:
            raise ValueError(
                "update false only writes rollouts, but loss supervised has none; set update to "
                "true"
            )
        if self.importance_cap < 1 + self.clip_high:
            raise ValueError(
                f"importance_cap {self.importance_cap:g} is below 1 + clip_high "
                f"{self.clip_high:g}, so that no ratio would ever reach the upper clip; raise it"
            )
        if self.checkpoint_steps % refresh:
            raise ValueError(
                f"checkpoint_steps {self.checkpoint_steps} must be a multiple of "
                f"item_refresh_steps {refresh}, so that a restart repeats the run"
            )
        _check_preference(self)
        _check_expert(self)
        _check_replays(self)
        return self

    def _check_token_loss(self) -> None:
        if self.weighting != "none" and self.item_loss != "softmax":
            raise ValueError(
                f"weighting {self.weighting} multiplies advantages, but item_loss {self.item_loss} "
                f"has those of its own lists; set weighting to none or item_loss to softmax"
            )
        own = {"kl_weight": self.kl_weight, "entropy_weight": self.entropy_weight}
        regularised = [name for name, weight in own.items() if weight]
        for name, value in OF_ROLLOUTS.items():
            if not self.rolls_out and getattr(self, name) != value:
                raise ValueError(
                    f"{name} {getattr(self, name)} acts on rollouts, but loss supervised has none; "
                    f"set {name} to {value}"
                )
        if self.credit == "prefill" and self.loss in ("gspo", "maxrl"):
            raise ValueError(
                f"credit prefill gives the tokens of a rollout different advantages, but loss "
                f"{self.loss} is defined for one advantage of a whole rollout; set credit to "
                f"rollout or choose another loss"
            )
        if self.credit == "prefill" and self.live_tokens:
            raise ValueError(
                "live_tokens leaves out the tokens of groups with equal rewards, but with credit "
                "prefill these learn too; set live_tokens to false or credit to rollout"
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

    def check_workers(self, workers: int) -> None:
        """Raise ValueError unless the workers share a step in whole micro-batches."""
        per_round = workers * self.prompts_per_micro_batch
        if self.prompts_per_step % per_round:
            raise ValueError(
                f"prompts_per_step {self.prompts_per_step} must be a multiple of workers x "
                f"prompts_per_micro_batch = {per_round}; change one of the three"
            )


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


def _check_preference(t: TrainingConfig) -> None:
    """Raise ValueError for settings of a token loss that DPO has no place for."""
    if t.loss != "dpo":
        return
    if t.live_tokens:
        raise ValueError(
            "live_tokens divides a loss of tokens, but loss dpo is one of pairs; set live_tokens "
            "to false"
        )
    for name, neutral in (("weighting", "none"), ("credit", "rollout")):
        if getattr(t, name) != neutral:
            raise ValueError(
                f"{name} {getattr(t, name)} changes the advantages of tokens, but loss dpo reads "
                f"only which rollout is the best and which the worst; set {name} to {neutral}"
            )


def _check_expert(t: TrainingConfig) -> None:
    """Raise ValueError for an expert that the other settings give no place."""
    if (t.expert == "table") != (t.expert_table is not None):
        found = "needs the file" if t.expert == "table" else "does not read the file"
        raise ValueError(
            f"expert {t.expert} {found} of expert_table; set expert to table and expert_table to a "
            f"Parquet file, or expert_table to null"
        )
    if t.expert != "none" and t.item_candidates == "corrected":
        raise ValueError(
            f"expert {t.expert} adds items to the candidates, but item_candidates corrected does "
            f"not count with other items; set item_candidates to batch"
        )


def _check_replays(t: TrainingConfig) -> None:
    """Raise ValueError for replays and resets that the other settings contradict."""
    if t.imitate_best and t.replays == 1:
        raise ValueError(
            f"imitate_best {t.imitate_best:g} rises over the steps on the same rollouts, but "
            f"replays 1 makes only one; raise replays or set imitate_best to 0"
        )
    if t.reset_steps is not None and t.reset_steps % t.replays:
        raise ValueError(
            f"reset_steps {t.reset_steps} must be a multiple of replays {t.replays}, so that a "
            f"reset comes before new rollouts"
        )
    if t.reset_steps is not None and not t.update:
        raise ValueError("reset_steps changes weights, but update is false; set it to null")
    if t.replays == 1:
        return
    if t.staleness:
        raise ValueError(
            f"replays {t.replays} needs rollouts only in every {t.replays}. step, but staleness 1 "
            f"asks for them ahead of each step; set staleness to 0"
        )
    if t.checkpoint_steps % t.replays:
        raise ValueError(
            f"checkpoint_steps {t.checkpoint_steps} must be a multiple of replays {t.replays}, so "
            f"that a restart begins with new rollouts"
        )
    if t.max_log_ratio is not None:
        raise ValueError(
            f"max_log_ratio expects engine and trainer to have the same weights, but replays "
            f"{t.replays} trains on rollouts of older weights; set max_log_ratio to null"
        )
