"""Settings of the steps of a training: how many, how large, which optimizer, and its watch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from minirec.config.section import Section


class StepSettings(Section):
    """Steps, batches, optimizer, checkpoints and validations of a training."""

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
    rollouts_first: int | None = Field(None, ge=2)
    """Rollouts of each prompt that are written first; the others follow only where the rewards of
    these differ; null writes all at once."""
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
    staleness: Literal[0, 1] = 0
    """Number of updates by which rollouts are behind; 1 writes the rollouts of the next step during
    training."""
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
    def written_first(self) -> int:
        """Rollouts of each prompt that are asked for at once."""
        return self.rollouts_first or self.rollouts_per_prompt

    def measures_kl(self, step: int) -> bool:
        """Whether the log of this step has an estimate of the KL to the start."""
        return self.kl_steps is not None and step % self.kl_steps == 0

    def check_workers(self, workers: int) -> None:
        """Raise ValueError unless the workers share a step in whole micro-batches."""
        per_round = workers * self.prompts_per_micro_batch
        if self.prompts_per_step % per_round:
            raise ValueError(
                f"prompts_per_step {self.prompts_per_step} must be a multiple of workers x "
                f"prompts_per_micro_batch = {per_round}; change one of the three"
            )

    @model_validator(mode="after")
    def _check_steps(self) -> StepSettings:
        self.check_workers(1)
        if self.patience and not self.validation_steps:
            raise ValueError(
                f"patience {self.patience} counts validations, but validation is off; set "
                f"validation_steps"
            )
        if self.staleness and self.max_log_ratio:
            raise ValueError(
                "max_log_ratio expects engine and trainer to have the same weights, but with "
                "staleness 1 rollouts are one update old; set max_log_ratio to null"
            )
        return self
