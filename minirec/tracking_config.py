"""Settings of tracking: where the figures of a training go besides its log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from minirec.remote import expanded
from minirec.section import Section


class TrackingConfig(Section):
    """None of it changes a result."""

    tensorboard: bool = Field(True, description="event files below run_dir/tensorboard")
    mlflow: str | None = Field(
        None, description="tracking URI, e.g. http://host:5000 or sqlite:///mlflow.db; null: off"
    )
    wandb: Literal["online", "offline"] | None = Field(
        None, description="Weights & Biases; offline writes below run_dir/wandb; null: off"
    )
    project: str = Field("minirec", description="experiment of MLflow, project of W&B")

    @field_validator("mlflow")
    @classmethod
    def _home(cls, uri: str | None) -> str | None:
        """MLflow takes ``~`` for the name of a folder, in a path and in the address of a file."""
        for scheme in ("", "sqlite:///", "file://", "file:"):
            if uri is not None and uri.startswith(f"{scheme}~"):
                return scheme + expanded(uri.removeprefix(scheme))
        return uri
