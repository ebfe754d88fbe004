"""Settings of the trainings before that of the policy: of the proxy, and of the warm start."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from minirec.config.section import Section, counted, share_or_all
from minirec.config.training import TrainingConfig


class ProxyTrainingConfig(TrainingConfig):
    """As `training`, with a fixed number of steps by default."""

    start: Literal["base", "warm"] = "base"
    """Weights that the proxy starts from: the base model, or the adapter of the warm start."""
    steps: int | None = Field(30, ge=1)
    """Optimizer steps of the proxy; null computes them from epochs."""


class ProxyConfig(Section):
    """The proxy policy (method, section 2): GRPO on a small random subset."""

    samples: int = Field(256, ge=1)
    """Number of random training samples for the proxy."""
    training: ProxyTrainingConfig = ProxyTrainingConfig()


class WarmTrainingConfig(TrainingConfig):
    """As `training`, but supervised, from the base model, and in larger steps."""

    loss: Literal["supervised"] = "supervised"
    """The warm start has no rollouts."""
    start: Literal["base"] = "base"
    """Weights that the warm start starts from."""
    steps: int | None = Field(100, ge=1)
    """Optimizer steps of the warm start; null computes them from epochs."""
    prompts_per_step: int = Field(128, ge=1)
    """Number of prompts in an optimizer step, over all workers."""
    prompts_per_micro_batch: int = Field(32, ge=1)
    """Number of prompts in one pass of a worker; bounds its memory and changes only rounding."""


class WarmConfig(Section):
    """The warm start (method, section 10): supervised training before everything that rolls out.

    A run has it where `training.start`, `proxy.training.start` or `scoring.policy` is warm.
    """

    samples: int | float | None = Field(None, gt=0)
    """Training samples of the warm start, drawn at random: a number (1, 2, ...) or a share of the
    corpus (below 1); null takes all."""
    live: bool = False
    """Whether each step takes only samples that are learnable for the policy of that moment, chosen
    by the settings of live."""
    training: WarmTrainingConfig = WarmTrainingConfig()

    @field_validator("samples", mode="before")
    @classmethod
    def _samples(cls, samples: Any) -> Any:
        return share_or_all(samples)

    def count(self, samples: int) -> int:
        """Samples of the warm start in a corpus of `samples`."""
        return samples if self.samples is None else min(samples, counted(self.samples, samples))
