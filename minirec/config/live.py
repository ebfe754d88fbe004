"""Settings of live selection: which samples of a stream a training step takes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from minirec.config.section import Section


class LiveConfig(Section):
    """Live selection (method, section 12)."""

    rule: Literal["band", "value", "skip", "influence"] = "band"
    """band takes samples whose lift is inside the band; value also ranks those of them that a step
    has measured, by learnability, representativeness and diversity; skip measures nothing, and
    passes over samples whose rollouts earned the same when they were last trained; influence takes,
    for several steps at once, the samples whose gradients point the most as those of validation
    samples."""
    band: tuple[float, float] = (0.02, 0.98)
    """Lowest and highest lift of a sample that is trained; samples below are hopeless for the
    policy of the moment, samples above are solved."""
    candidates: int = Field(3, ge=1)
    """Samples of the stream that a step considers at most, for each prompt that it trains. The rule
    influence measures them all."""
    share: float = Field(0.15, ge=0, lt=1)
    """Largest cost of measuring lifts, as a share of the cost of the training; both in tokens. It
    does not limit the rule influence."""
    decay: float = Field(0.7, ge=0, lt=1)
    """Weight of the past in the remembered lift of a sample's rollouts."""
    explore: float = Field(0.5, ge=0, le=1)
    """For the rule value: share of the prompts of a step that the rule band chooses. For the rule
    skip: chance of a sample whose rollouts earned the same once; after n times in a row it is the
    n-th power."""
    stage_steps: int = Field(10, ge=2)
    """For the rule influence: optimizer steps for which it chooses at once."""
    validation_samples: int = Field(64, ge=1)
    """For the rule influence: validation samples that it compares with, drawn once at random. The
    validation during a training leaves them out."""
    scores: bool = False
    """Whether the lifts of a scoring pass are known from the start; the run then scores first."""

    @property
    def of_influence(self) -> set[str]:
        """The settings that only the rule influence reads."""
        return {"stage_steps", "validation_samples"}

    @field_validator("band")
    @classmethod
    def _band(cls, band: tuple[float, float]) -> tuple[float, float]:
        if band[0] >= band[1]:
            raise ValueError(f"{list(band)} must rise: the lowest and the highest lift")
        return band
