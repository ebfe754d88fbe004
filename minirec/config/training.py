"""Settings of curriculum GRPO, for the policy and for the proxy."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from minirec.config.section import Section

ItemCandidates = Literal["batch", "corrected", "catalogue"]
"""Names of `minirec.rl.losses.CANDIDATES`; here, so that reading a config loads no torch."""


class TrainingConfig(Section):
    """Curriculum GRPO (method, section 7). Also the settings of the proxy."""

    start: Literal["base", "proxy"] = Field(
        "base", description="proxy: go on with the proxy's adapter, so that its steps count too"
    )
    steps: int | None = Field(None, ge=1, description="optimizer steps; default: from epochs")
    epochs: float = Field(1.0, gt=0, description="passes over the selection if steps is not set")
    prompts_per_step: int = Field(32, ge=1, description="of all workers together")
    rollouts_per_prompt: int = Field(4, ge=2, description="G, the size of a group")
    prompts_per_micro_batch: int = Field(
        16, ge=1, description="in one pass of a worker; bounds its memory, changes only rounding"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="peak; default: 2e-3 for the demo model, 1e-4 for others"
    )
    lr_warmup_steps: int = Field(3, ge=0, description="steps until the peak")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="course of the learning rate after warm-up; the latter two end at 0"
    )
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to it")
    advantage_floor: float = Field(1e-3, gt=0, description="least standard deviation of a group")
    scale_advantage: bool = Field(True, description="divide by the standard deviation")
    clip_low: float = Field(0.2, gt=0, lt=1, description="a ratio below 1 - it is clipped")
    clip_high: float = Field(0.28, gt=0, description="a ratio above 1 + it is clipped")
    importance_cap: float = Field(2.0, ge=1, description="largest weight of a token")
    staleness: Literal[0, 1] = Field(
        0, description="1: the next step is rolled out while this one trains, one update behind"
    )
    item_candidates: ItemCandidates = Field(
        "batch",
        description="candidates of the item loss: targets of the step; the same, corrected for how "
        "often each is one; or all other items too, detached",
    )
    item_refresh_steps: int = Field(
        1,
        ge=1,
        description="steps between encodings of the catalogue, in which rollouts are ranked",
    )
    checkpoint_steps: int = Field(10, ge=1, description="steps between checkpoints")
    max_failures: int = Field(3, ge=0, description="restarts of the training workers")
    step_deadline_s: float = Field(
        900, gt=0, description="seconds that one step, or the start of a worker, may take"
    )
    validation_steps: int | None = Field(
        None,
        ge=1,
        description="steps between validations; the last step has one; null: none",
    )
    validation_samples: int = Field(
        256, ge=1, description="validation samples that are drawn at random"
    )
    validation_seed: int | None = Field(
        None, ge=0, description="of that draw; null: the seed of the run"
    )

    patience: int | None = Field(
        None,
        ge=1,
        description="validations without a better one after which training stops, with the "
        "adapter of the best; null: all steps, the last adapter",
    )

    def steps_on(self, samples: int) -> int:
        """Optimizer steps of a training on a selection of `samples`."""
        if self.steps is not None:
            return self.steps
        return math.ceil(self.epochs * samples / self.prompts_per_step)

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        self.check_workers(1)
        if self.patience and not self.validation_steps:
            raise ValueError(
                f"patience {self.patience} counts validations, of which there are none; set "
                f"validation_steps"
            )
        if self.item_candidates == "catalogue" and self.item_refresh_steps > 1:
            raise ValueError(
                f"item_candidates catalogue sets the targets of a step against all other items, "
                f"which are up to {self.item_refresh_steps - 1} steps older; set "
                f"item_refresh_steps to 1 or item_candidates to batch"
            )
        if self.importance_cap < 1 + self.clip_high:
            raise ValueError(
                f"importance_cap {self.importance_cap:g} is below 1 + clip_high "
                f"{self.clip_high:g}, so that no ratio would ever reach the upper clip; raise it"
            )
        if self.checkpoint_steps % self.item_refresh_steps:
            raise ValueError(
                f"checkpoint_steps {self.checkpoint_steps} must be a multiple of "
                f"item_refresh_steps {self.item_refresh_steps}, so that a restart repeats the run"
            )
        return self

    def check_workers(self, workers: int) -> None:
        """Raise ValueError unless the workers share a step in whole micro-batches."""
        per_round = workers * self.prompts_per_micro_batch
        if self.prompts_per_step % per_round:
            raise ValueError(
                f"prompts_per_step {self.prompts_per_step} must be a multiple of workers x "
                f"prompts_per_micro_batch = {per_round}; change one of the three"
            )


class ProxyTrainingConfig(TrainingConfig):
    """As `training`, with a number of steps that does not follow from the subset."""

    start: Literal["base"] = Field("base", description="the proxy has nothing to go on with")
    steps: int | None = Field(30, ge=1, description="optimizer steps; null: from epochs")
