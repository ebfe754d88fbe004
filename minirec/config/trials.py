"""Settings of `minirec sweep` and `minirec compare`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    StrictFloat,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from minirec.config.choices import COMPARED, REFERENCES, Compared, Reference, Swept
from minirec.config.section import Section


def _listed(section: str) -> BeforeValidator:
    """Accepts a list without duplicates, and in a sweep null for an empty list."""

    def check(values: Any, info: ValidationInfo) -> Any:
        if values is None and section == "sweep":
            return ()
        name = info.field_name
        if not isinstance(values, (list, tuple)):
            raise ValueError(f"{values!r} is not a list; write {section}.{name}: [{values}]")
        if name == "budget" and any(type(value) not in (int, float) for value in values):
            raise ValueError(
                f"{values!r} holds a value that is not a budget; write numbers or shares below 1"
            )
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice:
            raise ValueError(f"{twice[0]!r} is in the list twice; remove one")
        return values

    return BeforeValidator(check)


def _concurrent(trials: Any) -> Any:
    whole = isinstance(trials, int) and not isinstance(trials, bool) and trials > 0
    if trials != "auto" and not whole:
        raise ValueError(f"{trials!r} is not a number of trials; write 2, or auto")
    return trials


SweepList, CompareList = _listed("sweep"), _listed("compare")
Concurrent = Annotated[PositiveInt | Literal["auto"], BeforeValidator(_concurrent)]


class AshaConfig(Section):
    """Asynchronous successive halving on validation NDCG@10 (arXiv 1810.05934)."""

    grace_fraction: float = Field(0.5, gt=0, lt=1)
    """Share of a trial's steps before ASHA may stop it."""
    reduction_factor: int = Field(2, ge=2)
    """At each rung one of this many trials continues; the next rung is at this many times the
    steps."""


class SweepConfig(Section):
    """Trials are all combinations of the lists; an empty list takes the value of the config."""

    budget: Annotated[tuple[StrictInt | StrictFloat, ...], SweepList] = ()
    """Values of selection.budget to try; empty takes that of the config."""
    alpha: Annotated[tuple[NonNegativeFloat, ...], SweepList] = ()
    """Values of selection.alpha to try; empty takes that of the config."""
    groups: Annotated[tuple[PositiveInt, ...], SweepList] = ()
    """Values of selection.groups to try; empty takes that of the config."""
    learnability: Annotated[tuple[Swept, ...], SweepList] = ()
    """Values of selection.learnability to try; empty takes that of the config."""
    seeds: Annotated[tuple[NonNegativeInt, ...], SweepList] = ()
    """Seeds of selection and training, each with every combination; empty takes that of the config.
    The features keep the seed of the config."""
    samples: PositiveInt | None = None
    """Number of combinations drawn at random, each with all seeds; null tries all."""
    max_concurrent: Concurrent = "auto"
    """Trials that run at the same time; auto takes as many as fit on the cluster."""
    tolerance: float = Field(0.05, ge=0, lt=1)
    """Acceptable loss of NDCG@10 as a share of the best; the sweep recommends the smallest budget
    within it."""
    asha: AshaConfig | None = AshaConfig()
    """Rules that stop trials early; null stops none."""

    @property
    def varies(self) -> bool:
        """Whether any list has a value."""
        return any((self.budget, self.alpha, self.groups, self.learnability, self.seeds))


class CompareConfig(Section):
    """Trials are all methods x budgets x seeds, in one table or two, and full data per seed; and
    all variants x seeds, at equal steps, at equal cost or both."""

    methods: Annotated[tuple[Compared, ...], CompareList] = ()
    """Methods to compare. minirec and paper take the selection of that preset; supervised trains on
    all samples by training.loss supervised; every other name is a value of selection.method."""
    variants: dict[str, dict[str, Any]] = {}
    """Named sets of settings, {name: {key: value}}, each of which is trained with each seed."""
    tokens: PositiveInt | None = None
    """Total cost of each variant in the table at equal cost, in forward-equivalent tokens: its warm
    start, proxy, scoring, gradients and training; null makes no such table."""
    budget: Annotated[tuple[float | int, ...], CompareList] = Field(
        (0.05, 0.1, 0.2, 0.4), min_length=1
    )
    """Budgets of every method: numbers of samples, or shares of the corpus (below 1)."""
    seeds: Annotated[tuple[NonNegativeInt, ...], CompareList] = Field((1, 2, 3), min_length=1)
    """Seeds of selection and training, each with every method and budget. The features keep the
    seed of the config."""
    steps: PositiveInt | None = 60
    """Optimizer steps of each trial in the table at equal steps; null makes no such table."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the selection in the table at equal epochs; null makes no such table."""
    full_steps: PositiveInt | None = 600
    """Largest number of optimizer steps on full data; null leaves full data out."""
    patience: PositiveInt = 5
    """Training on full data stops after this many validations in a row without improvement."""
    train_samples: PositiveInt | None = 256
    """Training samples that are ranked before and after training, to compare the gains of kept and
    dropped samples; null ranks none."""
    validation_steps: PositiveInt = 10
    """Optimizer steps between two validations of a trial."""
    reach: float = Field(0.95, gt=0, le=1)
    """The cost of reaching this share of the best NDCG@10 of full data is reported."""
    references: Annotated[tuple[Reference, ...], CompareList] = Field(
        ("random", "paper", "full"), max_length=3
    )
    """Up to three methods or variants with which all others are compared by a test."""
    max_concurrent: Concurrent = "auto"
    """Trials that run at the same time; auto takes as many as fit on the cluster."""

    @field_validator("variants", mode="before")
    @classmethod
    def _variants(cls, variants: Any) -> Any:
        if not isinstance(variants, dict):
            raise ValueError(
                f"{variants!r} is not a set of variants; write {{name: {{key: value}}}}"
            )
        methods = {*COMPARED.meanings(), "full"}
        for name, settings in variants.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", str(name)):
                raise ValueError(
                    f"the variant {name!r} names a folder; write letters, digits, '-', '_' or '.'"
                )
            if name in methods:
                raise ValueError(
                    f"the variant {name} has the name of a method; choose another name"
                )
            if not isinstance(settings, dict):
                raise ValueError(
                    f"the variant {name} is {settings!r}; write its settings, {{key: value}}"
                )
        return {str(name): settings for name, settings in variants.items()}

    @model_validator(mode="after")
    def _references(self) -> CompareConfig:
        for name in self.references:
            if name not in self.variants:
                REFERENCES.check(name)
        return self

    @property
    def varies(self) -> bool:
        """Whether there is something to compare."""
        return bool(self.methods or self.variants)
