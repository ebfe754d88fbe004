"""Settings of `minirec sweep` and `minirec compare`: what their trials vary, and when one stops."""

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

from minirec.config.choices import Compared, Learnability, Reference
from minirec.config.section import Section


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
    learnability: tuple[Learnability, ...] = Field((), description="of selection.learnability")
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


class CompareConfig(Section):
    """Trials are all methods x budgets x seeds, in one table or two, and full data per seed."""

    methods: tuple[Compared, ...] = Field(
        (), description="minirec and paper: selection of that preset; else of selection.method"
    )
    budget: tuple[float | int, ...] = Field(
        (0.05, 0.1, 0.2, 0.4), min_length=1, description="of selection.budget"
    )
    seeds: tuple[NonNegativeInt, ...] = Field(
        (1, 2, 3), min_length=1, description="of selection and training; features are shared"
    )
    steps: PositiveInt | None = Field(
        60, description="optimizer steps of each trial of the table at equal steps; null: no table"
    )
    epochs: float | None = Field(
        None, gt=0, description="passes of each trial of the table at equal epochs; null: no table"
    )
    full_steps: PositiveInt | None = Field(
        600, description="steps of full data, at most; null: full data is left out"
    )
    patience: PositiveInt = Field(
        5, description="validations without a better one that stop the training on full data"
    )
    train_samples: PositiveInt | None = Field(
        256, description="of train, ranked before and after: what kept and dropped ones gained"
    )
    validation_steps: PositiveInt = Field(10, description="steps between validations")
    reach: float = Field(
        0.95, gt=0, le=1, description="share of the best full-data NDCG@10 that is to be reached"
    )
    references: tuple[Reference, ...] = Field(
        ("random", "paper", "full"),
        max_length=3,
        description="methods from which the differences of all others are tested; up to three",
    )
    max_concurrent: PositiveInt | Literal["auto"] = Field("auto", description="trials at a time")

    @field_validator("methods", "budget", "seeds", "references", mode="before")
    @classmethod
    def _list(cls, values: Any) -> Any:
        if not isinstance(values, (list, tuple)):
            raise ValueError(f"{values!r} is not a list; write [{values}]")
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice:
            raise ValueError(f"{twice[0]!r} stands there twice; remove one")
        return values
