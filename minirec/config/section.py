"""The base of the sections of settings, and checks that several sections share."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from minirec.store.remote import expanded

PathText = Annotated[str, AfterValidator(expanded)]
"""A setting that names a file or folder; a leading ``~`` becomes the home folder."""
LARGEST = 10**9
"""Largest value of any number. Larger ones overflow waits and sums. In seconds it is 31 years."""
LARGEST_SEED = 2**63 - 1


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are fixed once loaded."""

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
        """Check again: YAML reads 1e300 as text, which is a number only after conversion."""
        return _bounded(value, info)


def share_or_count(name: str, value: Any) -> Any:
    """Refuse what is neither a number of samples nor a share of the corpus below 1.

    Raises:
        ValueError: names the setting `name`, the value and what to write.
    """
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


def counted(value: int | float, samples: int) -> int:
    """The number of samples that a number or share of `samples` means, 1 or more."""
    return value if isinstance(value, int) else max(1, round(value * samples))


def _bounded(value: Any, info: ValidationInfo) -> Any:
    """Refuse numbers that are infinite, not a number, or larger than any setting can use."""
    largest = LARGEST_SEED if "seed" in (info.field_name or "") else LARGEST
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, (int, float)) and not abs(number) <= largest:
            finite = isinstance(number, int) or math.isfinite(number)
            what = f"is too large; the largest is {largest:,}" if finite else "is not finite"
            raise ValueError(f"{number} {what}")
    return value
