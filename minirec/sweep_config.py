"""Settings of `minirec sweep`: what is varied, when a trial is stopped."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    StrictFloat,
    StrictInt,
    ValidationInfo,
    field_validator,
)

from minirec.section import Section


class AshaConfig(Section):
    """Asynchronous successive halving on validation NDCG@10 (arXiv 1810.05934)."""

    grace_fraction: float = Field(
        0.5, gt=0, lt=1, description="share of a trial's steps before it may be stopped"
    )
    reduction_factor: int = Field(
        2, ge=2, description="one of so many goes on at each rung, and rungs lie so far apart"
    )


class SweepConfig(Section):
    """Trials are all combinations of the lists; an empty list takes the value of the config."""

    budget: tuple[StrictInt | StrictFloat, ...] = Field((), description="of selection.budget")
    alpha: tuple[NonNegativeFloat, ...] = Field((), description="of selection.alpha")
    groups: tuple[PositiveInt, ...] = Field((), description="of selection.groups")
    learnability: tuple[Literal["gaussian", "gaussian_live", "hit_variance"], ...] = Field(
        (), description="of selection.learnability"
    )
    seeds: tuple[NonNegativeInt, ...] = Field(
        (), description="of selection and training; the features keep the seed of the config"
    )
    samples: PositiveInt | None = Field(
        None, description="combinations drawn at random, each with all seeds; null: all"
    )
    max_concurrent: PositiveInt | Literal["auto"] = Field(
        "auto", description="trials at a time; auto: as many as the cluster holds"
    )
    tolerance: float = Field(
        0.05, ge=0, lt=1, description="loss of NDCG@10, relative to the best, that is acceptable"
    )
    asha: AshaConfig | None = Field(AshaConfig(), description="null: no trial is stopped early")

    @field_validator("budget", "alpha", "groups", "learnability", "seeds", mode="before")
    @classmethod
    def _list(cls, values: Any, info: ValidationInfo) -> Any:
        if values is None:
            return ()
        if not isinstance(values, (list, tuple)):
            raise ValueError(f"{values!r} is not a list; write sweep.{info.field_name}: [{values}]")
        numbers = info.field_name != "budget" or all(
            type(value) in (int, float) for value in values
        )
        if not numbers:
            raise ValueError(f"{values!r} holds what is no budget; write numbers or shares below 1")
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice:
            raise ValueError(f"{twice[0]!r} stands there twice; remove one")
        return values

    @field_validator("max_concurrent", mode="before")
    @classmethod
    def _concurrent(cls, trials: Any) -> Any:
        whole = isinstance(trials, int) and not isinstance(trials, bool) and trials > 0
        if trials != "auto" and not whole:
            raise ValueError(f"{trials!r} is not a number of trials; write 2, or auto")
        return trials

    @property
    def varies(self) -> bool:
        """Whether any list has a value."""
        return any((self.budget, self.alpha, self.groups, self.learnability, self.seeds))
