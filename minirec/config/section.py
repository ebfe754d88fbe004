"""Base class of all sections of settings, and checks that several sections share."""

from __future__ import annotations

import math
from numbers import Number
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from minirec.store.remote import expanded

PathText = Annotated[str, AfterValidator(expanded)]
"""A setting that names a file or folder; a leading ``~`` becomes the home folder."""
LARGEST = 10**9
"""Largest value of any number; larger ones overflow timeouts and sums."""
LARGEST_SEED = 2**63 - 1
LARGEST_COST = 10**15
"""Largest number of forward-equivalent tokens: of `COSTS`."""
COSTS = ("token_limit", "tokens")


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _finite(cls, value: Any, info: ValidationInfo) -> Any:
        return _bounded(value, info)

    @field_validator("*", mode="after")
    @classmethod
    def _meant(cls, value: Any, info: ValidationInfo) -> Any:
        """Check again after conversion, since YAML reads 1e300 as text."""
        return _bounded(value, info)


def plain_number(value: Any) -> Any:
    """A number of NumPy as one of Python; any other value as it is."""
    return value.item() if isinstance(value, Number) and hasattr(value, "item") else value


def share_or_count(name: str, value: Any) -> Any:
    """Return `value`; raise `ValueError` unless it is a number of samples or a share below 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"{name} {value!r} is neither a number of samples nor a share below 1; write 500, "
            f"or 0.1 for a tenth of the corpus"
        )
    if isinstance(value, float) and 1 <= value <= LARGEST:  # larger ones are refused as numbers
        raise ValueError(
            f"{name} {value} is neither a share below 1 nor a whole number of samples; "
            f"write {int(value)}, or 0.5 for half the corpus"
        )
    return value


def share_or_all(samples: Any) -> Any:
    """Return `samples`; raise `ValueError` unless it is None (all), a number or a share below 1."""
    if samples == 1 and isinstance(samples, float):
        raise ValueError("samples 1.0 is not a share below 1; write null for the whole corpus")
    return None if samples is None else share_or_count("samples", samples)


def counted(value: int | float, samples: int) -> int:
    """The number of samples for a number or a share of `samples`; at least 1."""
    return value if isinstance(value, int) else max(1, round(value * samples))


def _bounded(value: Any, info: ValidationInfo) -> Any:
    """Refuse numbers that are not finite or too large."""
    name = info.field_name or ""
    largest = LARGEST_SEED if "seed" in name else LARGEST_COST if name in COSTS else LARGEST
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, (int, float)) and not abs(number) <= largest:
            finite = isinstance(number, int) or math.isfinite(number)
            what = f"is too large; the largest is {largest:,}" if finite else "is not finite"
            raise ValueError(f"{number} {what}")
    return value
