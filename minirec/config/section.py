"""The base of the settings' sections."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from minirec.store.remote import expanded

PathText = Annotated[str, AfterValidator(expanded)]
"""A setting that names a file or folder; a leading ``~`` becomes the home folder."""
LARGEST = 10**9
"""Of any number. Beyond, waits and sums overflow; as a deadline it is 31 years."""
LARGEST_SEED = 2**63 - 1


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are fixed once loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _finite(cls, value: Any, info: ValidationInfo) -> Any:
        return _bounded(value, info)

    @field_validator("*", mode="after")
    @classmethod
    def _meant(cls, value: Any, info: ValidationInfo) -> Any:
        """Again, since YAML reads 1e300 as text, which becomes a number only now."""
        return _bounded(value, info)


def _bounded(value: Any, info: ValidationInfo) -> Any:
    """Refuse numbers that are infinite, none, or beyond what any setting can mean."""
    largest = LARGEST_SEED if "seed" in (info.field_name or "") else LARGEST
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, (int, float)) and not abs(number) <= largest:
            finite = isinstance(number, int) or math.isfinite(number)
            what = f"is too large; the largest is {largest:,}" if finite else "is not finite"
            raise ValueError(f"{number} {what}")
    return value
