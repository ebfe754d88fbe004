"""The base of the settings' sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from minirec.remote import expanded

PathText = Annotated[str, AfterValidator(expanded)]
"""A setting that names a file or folder; a leading ``~`` becomes the home folder."""


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are fixed once loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
