"""Settings of `minirec sweep` and `minirec compare`: what their trials vary, and when one stops."""

from __future__ import annotations

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
)

from minirec.config.section import Section

Baseline = Literal[
    "random",
    "random_live",
    "top_reward",
    "hit_variance",
    "grad_norm",
    "el2n",
    "kmeans",
    "kcenter",
    "ccs",
    "less",
]
Method = Literal["minirec", "paper", Baseline]
CONCURRENT = "Trials that run at the same time; auto: as many as the cluster has room for."


def _listed(section: str) -> BeforeValidator:
    """Takes a list without duplicates; in a sweep null is an empty one."""

    def check(values: Any, info: ValidationInfo) -> Any:
        if values is None and section == "sweep":
            return ()
        name = info.field_name
        if not isinstance(values, (list, tuple)):
            raise ValueError(f"{values!r} is not a list; write {section}.{name}: [{values}]")
        if name == "budget" and any(type(value) not in (int, float) for value in values):
            raise ValueError(f"{values!r} holds what is no budget; write numbers or shares below 1")
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

    grace_fraction: float = Field(
        0.5, gt=0, lt=1, description="Share of a trial's steps before ASHA may stop it."
    )
    reduction_factor: int = Field(
        2,
        ge=2,
        description="At each rung, one of this many trials goes on; each rung lies at this many "
        "times the steps of the rung before.",
    )


class SweepConfig(Section):
    """Trials are all combinations of the lists; an empty list takes the value of the config."""

    budget: Annotated[tuple[StrictInt | StrictFloat, ...], SweepList] = Field(
        (), description="Values of selection.budget that are tried; empty: that of the config."
    )
    alpha: Annotated[tuple[NonNegativeFloat, ...], SweepList] = Field(
        (), description="Values of selection.alpha that are tried; empty: that of the config."
    )
    groups: Annotated[tuple[PositiveInt, ...], SweepList] = Field(
        (), description="Values of selection.groups that are tried; empty: that of the config."
    )
    learnability: Annotated[
        tuple[Literal["gaussian", "gaussian_live", "hit_variance"], ...], SweepList
    ] = Field(
        (),
        description="Values of selection.learnability that are tried; empty: that of the config.",
    )
    seeds: Annotated[tuple[NonNegativeInt, ...], SweepList] = Field(
        (),
        description="Seeds of selection and training, each of which makes a trial of every "
        "combination. The features keep the seed of the config. Empty: the seed of the config.",
    )
    samples: PositiveInt | None = Field(
        None,
        description="Number of combinations that are drawn at random, each with all seeds; null: "
        "all combinations are tried.",
    )
    max_concurrent: Concurrent = Field("auto", description=CONCURRENT)
    tolerance: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Acceptable loss of NDCG@10, as a share of the best; the smallest budget "
        "within it is recommended.",
    )
    asha: AshaConfig | None = Field(
        AshaConfig(),
        description="Rule by which bad trials are stopped early; null: no trial is stopped.",
    )

    @property
    def varies(self) -> bool:
        """Whether any list has a value."""
        return any((self.budget, self.alpha, self.groups, self.learnability, self.seeds))


class CompareConfig(Section):
    """Trials are all methods x budgets x seeds, in one table or two, and full data per seed."""

    methods: Annotated[tuple[Method, ...], CompareList] = Field(
        (),
        description="Selection methods that are compared: minirec and paper take the selection of "
        "that preset, every other name is a value of selection.method.",
    )
    budget: Annotated[tuple[float | int, ...], CompareList] = Field(
        (0.05, 0.1, 0.2, 0.4),
        min_length=1,
        description="Budgets at which the methods are compared: numbers of samples, or shares "
        "below 1.",
    )
    seeds: Annotated[tuple[NonNegativeInt, ...], CompareList] = Field(
        (1, 2, 3),
        min_length=1,
        description="Seeds of selection and training, each of which makes a trial of every method "
        "and budget. The features keep the seed of the config.",
    )
    steps: PositiveInt | None = Field(
        60,
        description="Optimizer steps of each trial in the table at equal steps; null: there is no "
        "such table.",
    )
    epochs: float | None = Field(
        None,
        gt=0,
        description="Passes over the selected samples of each trial in the table at equal epochs; "
        "null: there is no such table.",
    )
    full_steps: PositiveInt | None = Field(
        600,
        description="Largest number of optimizer steps on full data; null: no trial trains on full "
        "data.",
    )
    patience: PositiveInt = Field(
        5,
        description="Training on full data stops after this many validations in a row that were "
        "not better than the best before.",
    )
    train_samples: PositiveInt | None = Field(
        256,
        description="Samples of the train split that are ranked before and after training, to show "
        "what kept and dropped samples gained; null: none.",
    )
    validation_steps: PositiveInt = Field(
        10, description="Optimizer steps between two validations of a trial."
    )
    reach: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Share of the best NDCG@10 of full data that counts as reached, when the cost "
        "until then is reported.",
    )
    references: Annotated[tuple[Literal[Method, "full"], ...], CompareList] = Field(
        ("random", "paper", "full"),
        max_length=3,
        description="Methods from which the differences of all others are tested; up to three.",
    )
    max_concurrent: Concurrent = Field("auto", description=CONCURRENT)

    @property
    def varies(self) -> bool:
        """Whether there is a method to compare."""
        return bool(self.methods)
