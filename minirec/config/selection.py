"""Settings of the selection."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from minirec.config.choices import Curriculum, Learnability, Method
from minirec.config.section import Section, counted, share_or_count

ONE_GROUP = ("easy_to_hard", "hard_to_easy", "shuffled", "self_paced")
"""Curricula that do not use ``selection.groups``."""
PACE = {"pace", "pace_noise", "pace_memory"}
"""Settings of ``self_paced`` that act in the training."""


class SelectionConfig(Section):
    """Value, diversity and curriculum (method, sections 3 to 6)."""

    mode: Literal["static", "live"] = "static"
    """static chooses a subset before training, from features; live chooses the samples of each step
    for the policy of that moment, without proxy and scoring."""
    budget: int | float = Field(0.1, gt=0)
    """Samples to choose: a number (1, 2, ...) or a share of the corpus (below 1). Live selection
    trains this number of prompts in an epoch."""
    method: Method = "value"
    """Method that chooses the samples."""
    learnability: Learnability = "gaussian"
    """How learnability is computed from the rewards of a sample."""
    lift: bool = False
    """Whether learnability uses the NDCG above chance instead of the reward."""
    mu: float | None = 0.5
    """Centre of the Gaussian of learnability; null takes the median reward."""
    sigma: float | None = Field(None, gt=0)
    """Width of the Gaussian of learnability; null takes the standard deviation of the rewards."""
    min_lift: float | None = None
    """Lowest mean lift (NDCG above chance) of a sample that may be chosen; null sets no bound."""
    alpha: float = Field(1.0, ge=0)
    """Weight of learnability beside representativeness in the value."""
    fusion: Literal["sum", "rank"] = "sum"
    """How learnability and representativeness become the value: their sum, or the mean of their
    ranks."""
    directions: Literal["head_hvp", "head_gradient", "lora_projected"] = "head_hvp"
    """Vectors of the samples from which representativeness is computed."""
    shards: int = Field(1, ge=1)
    """Largest number of Ray actors that share the samples of MaxMin."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where MaxMin multiplies; cuda takes a GPU of the machine of the command, without shards. The
    picks are the same."""
    curriculum: Curriculum = "grouped"
    """Order in which training takes samples."""
    groups: int = Field(4, ge=1)
    """Number of groups K of the grouped curriculum, or of a curriculum of your own."""

    clusters: int = Field(10, ge=1)
    """Clusters of samples that the method clustered and the curriculum self_paced make."""
    difficulty_weight: float = Field(1.0, ge=0)
    """Weight of the mean reward beside the embedding when samples are clustered."""
    pace: Literal["signal", "hard", "progress"] = "signal"
    """What makes self_paced take a cluster: that the rollouts of a prompt differ in reward, that
    the policy fails on it, or that its results change."""
    pace_noise: float = Field(0.3, ge=0)
    """Standard deviation of the draws of self_paced for a cluster that it has not tried."""
    pace_memory: float = Field(0.9, ge=0, lt=1)
    """Weight of the past in what self_paced knows of a cluster, in each step."""

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, budget: Any) -> Any:
        return share_or_count("budget", budget)

    @property
    def curriculum_groups(self) -> int:
        """Groups of the order of training; the orders of `ONE_GROUP` have one."""
        return 1 if self.curriculum in ONE_GROUP else self.groups

    @property
    def clusters_samples(self) -> bool:
        """Whether clusters of samples are read."""
        return self.method == "clustered" or self.curriculum == "self_paced"

    def choosing(self) -> dict[str, Any]:
        """The settings that a static selection depends on, and that have an effect."""
        unused = {"shards", "device", *PACE}
        if not self.clusters_samples:
            unused |= {"clusters", "difficulty_weight"}
        return self.model_dump(mode="json", exclude=unused)

    def pacing(self) -> dict[str, Any]:
        """The settings of `self_paced` that a training depends on; empty for another curriculum."""
        if self.curriculum != "self_paced":
            return {}
        live = {"clusters"} if self.mode == "live" else set()
        return {"pace": self.model_dump(mode="json", include=live | PACE)}

    @property
    def needs_lora_gradients(self) -> bool:
        """Whether projected LoRA gradients are read."""
        return self.directions == "lora_projected" or self.method == "less"

    def count(self, samples: int) -> int:
        """Number of samples to choose from `samples`; the method `full` takes all."""
        return samples if self.method == "full" else counted(self.budget, samples)
