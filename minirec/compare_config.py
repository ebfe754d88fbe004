"""Settings of `minirec compare`: methods, budgets and seeds that are set against each other."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from minirec.section import Section

Method = Literal[
    "minirec",
    "paper",
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


class CompareConfig(Section):
    """Trials are all methods x budgets x seeds, in one table or two, and full data per seed."""

    methods: tuple[Method, ...] = Field(
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
    references: tuple[Literal[Method, "full"], ...] = Field(
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
